"""From a folder as it comes to a report, by the command line that others run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fieldstation.bundle import Bundle, load_bundle, load_golden, save_bundle
from tests.onnx_models import make_tone_bundle
from tests.trainer.evaluation.folders import CHAFFINCH, GREAT_TIT, OTHER, write_audio, write_table
from trainer import evaluate
from trainer.evaluation.report import caution

PROMISED = (
    *("recording_top1", "recording_top1_interval", "window_top1", "window_top1_interval"),
    *("macro", "macro_interval", "cmap", "cmap_interval", "ece", "ece_interval", "ece_floor"),
    *("species", "confusion", "reliability", "unknown_auroc", "background_auroc", "event_f1"),
    *(
        "recordists",
        "caution",
        "errors",
        "skipped",
        "peer",
        "device",
        "seed",
        "versions",
        "data_hash",
    ),
    *("seconds", "encoder_id", "n_recordings", "n_windows"),
)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that hears tones in windows of a second."""
    folder = tmp_path_factory.mktemp("bundles") / "tones"
    return make_tone_bundle(folder, activation="sigmoid", threshold=0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as others keep theirs: odd rates, lengths, names, and damage."""
    top = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(4):
        for name, pitch in (("Fringilla coelebs", CHAFFINCH), ("Parus major", GREAT_TIT)):
            file = f"audio/{name.split()[0]}_{i}.wav"
            rate = (22_050, 48_000, 16_000, 32_000)[i]
            write_audio(top / file, {pitch: [(0, 3)]}, sample_rate=rate)
            rows.append({"file": file, "scientific_name": name, "recordist": f"Someone {i}"})
    for file, pitch, name, seconds in (
        ("swapped.wav", GREAT_TIT, "Fringilla coelebs", 3.0),
        ("short.wav", CHAFFINCH, "Fringilla coelebs", 0.2),
        ("stranger.wav", OTHER, "Corvus corax", 3.0),
        ("silence.wav", OTHER, "", 3.0),
    ):
        spans = [] if name == "" else [(0.0, seconds)]
        write_audio(top / file, {pitch: spans}, seconds)
        rows.append({"file": file, "scientific_name": name, "recordist": "<b>O'Neill</b>"})
    (top / "broken.ogg").write_bytes(b"OggS and no more")
    (top / "header.raw").write_bytes(b"\0" * 100)
    (top / "audio" / "header.raw").write_bytes(b"\0" * 100)
    rows += [
        {"file": file, "scientific_name": "Parus major", "recordist": ""}
        for file in ("broken.ogg", "header.raw", "absent.wav")
    ]
    write_table(top / "recordings.csv", rows)
    events = [
        {"file": file, "scientific_name": "Parus major", "start_s": 0, "end_s": 3}
        for file in ("audio/Parus_0.wav", "audio/header.raw")
    ]
    write_table(top / "events.csv", events)
    return top


def run(bundle: Bundle, data: Path, out: Path, *more: str) -> dict[str, Any]:
    """Run the command line as others will; return the JSON that it wrote."""
    arguments = ["encoder", "--bundle", str(bundle.path), "--data", str(data)]
    assert evaluate.main([*arguments, "--json", str(out / "report.json"), *more]) == 0
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def test_the_report_has_all_that_is_promised(tones: Bundle, folder: Path, tmp_path: Path) -> None:
    """Every key at the top, each figure with what it rests on, and what could not be heard."""
    report = run(tones, folder, tmp_path)
    assert [key for key in PROMISED if key not in report] == []
    assert (report["n_recordings"], report["n_known"]) == (12, 10)
    assert report["recording_top1"] == 0.9
    assert report["confusion"]["Fringilla coelebs"] == {"Fringilla coelebs": 5, "Parus major": 1}
    assert set(report["skipped"]) == {"broken.ogg", "header.raw", "absent.wav", "audio/header.raw"}
    assert report["skipped"]["absent.wav"] == "absent.wav cannot be decoded: it is missing"
    assert report["skipped"]["header.raw"].count("cannot be decoded") == 1
    assert (report["n_unknown"], report["n_background"]) == (1, 1)
    assert report["background_auroc"] == 1.0
    assert report["event_f1"] == 1.0
    assert [error["file"] for error in report["errors"]] == ["swapped.wav"]
    assert report["peer"] is None


@pytest.mark.parametrize(
    ("trained_on", "fold", "said"),
    [
        ({}, None, None),
        ({"fold": 0}, 0, None),
        ({"fold": 0}, None, "--fold 0 leaves them out"),
        ({"fold": 0}, 1, "--fold 0 leaves them out"),
        ({"fold": None}, 0, "trained on every fold"),
    ],
)
def test_a_bundle_that_knows_the_recordings_is_not_praised_unwarned(
    trained_on: dict[str, Any], fold: int | None, said: str | None
) -> None:
    """The shipped bundle names every recording that it was trained with."""
    told = caution(trained_on, fold)
    assert told is None if said is None else said in str(told)


def test_it_runs_from_anywhere_and_writes_nothing_else(
    tones: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths, and a working folder that stays empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    bundle = replace(tones, path=Path(os.path.relpath(tones.path)))
    report = run(bundle, Path(os.path.relpath(folder)), tmp_path)
    assert report["data"] == folder.name
    assert list((tmp_path / "here").iterdir()) == []


def test_a_terminal_that_cannot_show_it_costs_no_report(
    tones: Bundle, folder: Path, tmp_path: Path
) -> None:
    """Nobody watches a judgement of hours; its output may be a pipe that is closed."""
    report = tmp_path / "report.json"
    arguments = ["--bundle", str(tones.path), "--data", str(folder), "--json", str(report)]
    gone, theirs = os.pipe()
    os.close(gone)
    command = [sys.executable, "-m", "trainer.evaluate", "encoder", *arguments]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert done.returncode != 0
    assert json.loads(report.read_text(encoding="utf-8"))["recording_top1"] == 0.9


def test_the_least_table_is_enough(tones: Bundle, tmp_path: Path) -> None:
    """One recording, two columns: what cannot be measured is null, and nothing breaks."""
    write_audio(tmp_path / "data" / "a.wav", {CHAFFINCH: [(0, 3)]})
    write_table(
        tmp_path / "data" / "recordings.csv",
        [{"file": "a.wav", "scientific_name": "Fringilla coelebs"}],
    )
    report = run(tones, tmp_path / "data", tmp_path, "--html", str(tmp_path / "page.html"))
    assert report["recording_top1"] == 1.0
    nothing = ("unknown_auroc", "background_auroc", "event_f1", "recordists")
    assert {report[name] for name in nothing} == {None}


def test_strangers_alone_can_be_judged(tones: Bundle, tmp_path: Path) -> None:
    """A folder of background has false alarms to count and no accuracy."""
    write_audio(tmp_path / "data" / "a.wav", {CHAFFINCH: [(0, 3)]})
    write_table(tmp_path / "data" / "background.csv", [{"file": "a.wav", "content": "rain"}])
    report = run(tones, tmp_path / "data", tmp_path, "--html", str(tmp_path / "page.html"))
    assert report["recording_top1"] is None
    assert (report["n_background"], report["background_with_event"]) == (1, 1)


def test_files_of_several_species_are_judged_by_their_events(tones: Bundle, tmp_path: Path) -> None:
    """A folder of soundscapes alone: events are measured, accuracy is not."""
    calls = {CHAFFINCH: [(1.0, 2.0)], GREAT_TIT: [(5.0, 6.0)]}
    write_audio(tmp_path / "data" / "dawn.wav", calls, seconds=8)
    rows = [
        {"file": "dawn.wav", "scientific_name": name, "onset": start, "offset": start + 1}
        for name, start in (("Fringilla coelebs", 1), ("Parus major", 5))
    ]
    write_table(tmp_path / "data" / "recordings.csv", rows)
    report = run(tones, tmp_path / "data", tmp_path, "--html", str(tmp_path / "page.html"))
    assert (report["event_f1"], report["n_event_files"]) == (1.0, 1)
    assert (report["recording_top1"], report["n_recordings"]) == (None, 0)


@pytest.mark.parametrize("stated", ["card", "notice"])
def test_recordists_whom_the_bundle_names_stand_apart(
    tones: Bundle, folder: Path, tmp_path: Path, stated: str
) -> None:
    """Named in its card, or else in its NOTICE."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "encoder.onnx").write_bytes(tones.encoder_path.read_bytes())
    card = {"recordists": ["Someone 0", "someone 1"]} if stated == "card" else {}
    notice = "" if card else "Recordists (2 named by their sources):\nSomeone 0; Someone 1\n\nNone"
    bundle = replace(tones, path=path, trained_on=card)
    save_bundle(bundle, load_golden(tones), notice)
    recordists = run(load_bundle(path), folder, tmp_path)["recordists"]
    assert (recordists["seen"]["n_recordings"], recordists["seen"]["recording_top1"]) == (4, 1.0)
    assert (recordists["unseen"]["n_recordings"], recordists["unseen"]["n_recordists"]) == (6, 3)
    assert recordists["over_recordists"]["n_recordists"] == 5


def test_the_page_needs_no_other_file(tones: Bundle, folder: Path, tmp_path: Path) -> None:
    """Plots and spectrograms are inside, names are escaped, and nothing is fetched."""
    pytest.importorskip("matplotlib", reason="needs the extra 'train'")
    run(tones, folder, tmp_path, "--html", str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<svg") >= 5
    assert text.count('src="data:image/png;base64,') == 1
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text) == []
    assert "url(http" not in text
    assert "&lt;b&gt;O&#x27;Neill&lt;/b&gt;" in text
    assert "swapped.wav" in text
    assert "broken.ogg" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bundle", "garden", "--data", "/nowhere"], "/nowhere is no folder"),
        (["--bundle", "./nowhere", "--data", "{data}"], "no bundle.json in"),
        (["--bundle", "{bundle}", "--data", "{data}", "--fold", "7"], "fold 7 holds no recording"),
        (["--bundle", "{bundle}", "--data", "{data}", "--peer", "birdnet"], "--teacher-model"),
        (["--bundle", "{bundle}", "--data", "{data}", "--json", "/proc/x/y"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(
    tones: Bundle,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    """It exits 2 and names the value."""
    filled = [a.format(bundle=tones.path, data=folder) for a in arguments]
    assert evaluate.main(["encoder", *filled]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.strip().count("\n") == 0


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_what_cannot_be_written_is_said_before_anything_is_heard(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an hour later the report would be lost; and what is there is left alone until then."""
    there, new = tmp_path / "there.json", tmp_path / "new" / "report.json"
    there.write_text("before")
    for command in (["encoder"], ["generator", "--images", "/nowhere"]):
        arguments = [*command, "--bundle", "nothing", "--data", "/nowhere", option]
        assert evaluate.main([*arguments, str(tmp_path)]) == 2
        assert f"{tmp_path} cannot be written: Is a directory" in capsys.readouterr().err
        for path in (there, new):
            assert evaluate.main([*arguments, str(path)]) == 2
            assert "model.bundle is 'nothing'" in capsys.readouterr().err
    assert there.read_text() == "before"
    assert not new.exists()


def test_no_recording_that_can_be_heard_is_an_error(
    tones: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of files that are not there names the first of them."""
    write_table(tmp_path / "recordings.csv", [{"file": "gone.wav", "scientific_name": "Pica pica"}])
    arguments = ["encoder", "--bundle", str(tones.path), "--data", str(tmp_path)]
    assert evaluate.main(arguments) == 2
    assert "none of 1 recordings could be heard: gone.wav" in capsys.readouterr().err
