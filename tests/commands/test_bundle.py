"""`fieldstation bundle`: from a bare graph to the model in use, by the command line alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from fieldstation.bundle import load_golden, save_bundle
from fieldstation.cli import main
from fieldstation.commands.bundle import N_SHOWN
from fieldstation.generation.golden import load_generator_golden, save_generator_golden
from fieldstation.state import State
from tests.onnx_models import TONES, make_painting_bundle, make_tone_bundle, tone_encoder

TEXT = "Fringilla coelebs_Chaffinch\nParus major_Great Tit\n\nNoise_Noise\n"


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Return the arguments that name a foreign model and its labels."""
    model, labels = tmp_path / "foreign.onnx", tmp_path / "labels.txt"
    onnx.save(tone_encoder(TONES, 48_000, 144_000, 1, extras=False), model)
    labels.write_text(TEXT, encoding="utf-8")
    return [str(model), "--labels", str(labels), "--rate", "48000"]


def test_the_command_adds_lists_shows_and_chooses(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As the issue has it, with everything said."""
    state = ["--state", str(tmp_path / "state")]
    more = ["--samples", "144000", "--activation", "sigmoid", "--licence", "CC0-1.0"]
    assert main(["bundle", "add", *given, *more, *state]) == 0
    assert "foreign: 2 species and 1 other labels" in capsys.readouterr().out
    assert main(["bundle", "use", "foreign", *state]) == 0
    assert main(["bundle", "list", *state]) == 0
    assert "* foreign  2 species, windows of 3 s at 48000 Hz, CC0-1.0" in capsys.readouterr().out
    assert main(["bundle", "show", *state]) == 0
    assert "Chaffinch (Fringilla coelebs)  0.5" in capsys.readouterr().out
    assert main(["bundle", "add", *given, *state]) == 2
    assert "exists: choose another --name" in capsys.readouterr().err


def test_only_some_species_can_be_let_in(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of what lives here: the rest is another bird."""
    here = tmp_path / "here.txt"
    here.write_text("Parus major\n", encoding="utf-8")
    state = ["--state", str(tmp_path / "state")]
    assert main(["bundle", "add", *given, "--species", str(here), *state]) == 0
    said = capsys.readouterr().out
    assert "foreign: 1 species and 2 other labels" in said
    assert "never heard" not in said
    assert main(["bundle", "show", "foreign", *state]) == 0
    assert "Chaffinch (Fringilla coelebs)  unknown_bird" in capsys.readouterr().out


def test_a_misspelt_name_of_a_list_is_told(
    tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise its bird would be missed for a season, and nobody would know why."""
    here = tmp_path / "here.txt"
    here.write_text("Parus major\nFringila coelebs\n", encoding="utf-8")
    arguments = ["bundle", "add", *given, "--species", str(here)]
    assert main([*arguments, "--state", str(tmp_path / "state")]) == 0
    assert "so never heard: Fringila coelebs (" in capsys.readouterr().out


def test_a_folder_is_remembered_wherever_it_is_asked_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path would lead elsewhere from the service's folder."""
    bundle = make_tone_bundle(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    for name in ("./mine", "mine"):
        assert main(["bundle", "use", name, "--state", str(tmp_path / "state")]) == 0
        assert State(tmp_path / "state").chosen_bundle() == str(bundle.path)


def test_the_settings_come_first_and_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a person wrote is not rewritten: the line that must go is named."""
    make_tone_bundle(tmp_path / "state" / "bundles" / "mine")
    settings = tmp_path / "state" / "fieldstation.toml"
    text = '[model]\nbundle = "garden"  # ours\n'
    settings.write_text(text, encoding="utf-8")
    assert main(["bundle", "use", "mine", "--state", str(tmp_path / "state")]) == 0
    said = capsys.readouterr().out
    assert f"model.bundle is 'garden' in {settings} and comes first" in said
    assert settings.read_text(encoding="utf-8") == text


def test_a_damaged_bundle_is_not_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one in use stays in use."""
    state = State(tmp_path / "state")
    bundle = make_tone_bundle(tmp_path / "state" / "bundles" / "mine")
    state.choose_bundle("garden")
    os.truncate(bundle.encoder_path, 100)
    assert main(["bundle", "use", "mine", "--state", str(state.folder)]) == 2
    assert "hashes to" in capsys.readouterr().err
    assert state.chosen_bundle() == "garden"


def test_a_long_list_is_shown_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thousands of labels are shown when they are asked for."""
    pitches = {f"Bird {i}": 200.0 + 100 * i for i in range(N_SHOWN + 5)}
    make_tone_bundle(tmp_path / "bundles" / "many", pitches)
    arguments = ["bundle", "show", "many", "--state", str(tmp_path)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"Bird {N_SHOWN - 1} (" in shown
    assert f"Bird {N_SHOWN} (" not in shown
    assert "… and 6 more (--all)" in shown
    assert main([*arguments, "--all"]) == 0
    assert f"Bird {N_SHOWN + 4} (" in capsys.readouterr().out


def test_a_threshold_is_shown_with_what_it_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Precision and recall on held-out recordings; of a threshold that was lifted, at the lower."""
    bundle = make_tone_bundle(tmp_path / "bundles" / "tones", threshold=0.5)
    worth = {
        "Fringilla coelebs": {"threshold": 0.5, "precision": 0.875, "recall": 0.75, "n": 8},
        "Parus major": {"threshold": 0.4, "precision": None, "recall": 0.0, "n": 3},
    }
    told = replace(bundle, metrics={"calibration": {"labels": worth}})
    save_bundle(told, load_golden(bundle), "Made by a test.")
    assert main(["bundle", "show", "tones", "--state", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "(Fringilla coelebs)  0.5, precision 0.875, recall 0.75 of 8 held out\n" in shown
    assert "(Parus major)  0.5, precision –, recall 0.0 of 3 held out at 0.4\n" in shown
    assert "(no bird)  no_bird\n" in shown


def test_a_bundle_that_paints_says_what_and_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the list how many species, on its page which; one that paints wrongly is not chosen."""
    bundle = make_painting_bundle(tmp_path / "state/bundles/paints", paints=["Parus major"])
    state = ["--state", str(tmp_path / "state")]
    assert main(["bundle", "use", "paints", *state]) == 0
    assert main(["bundle", "list", *state]) == 0
    assert "* paints  2 species, paints 1, windows of" in capsys.readouterr().out
    assert main(["bundle", "show", *state]) == 0
    shown = capsys.readouterr().out
    assert f"generator    {bundle.generator_id}, field nano, CC0-1.0" in shown
    assert "samples by   dpmpp_2m, 6 steps, guidance 1.5" in shown
    assert "paints       Parus major\n" in shown
    golden = load_generator_golden(bundle)
    save_generator_golden(bundle.path, replace(golden, denoised=-golden.denoised))
    assert main(["bundle", "use", "paints", *state]) == 2
    assert "the generator's golden check is off by" in capsys.readouterr().err


def test_a_worker_that_runs_is_thought_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would go on with the bundle before, and park whatever the new one hears."""
    made = make_tone_bundle(tmp_path / "mine")
    state = State(tmp_path / "state")
    slot = State(state.folder / "worker" / "1")
    slot.prepare()
    use = ["bundle", "use", str(made.path), "--state", str(state.folder)]
    with slot.lock():
        assert main(use) == 0
        assert "restart it together with the station" in capsys.readouterr().out
    assert main(use) == 0
    assert "restart" not in capsys.readouterr().out
