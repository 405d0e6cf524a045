"""Events are the station's own, and F1 means what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from fieldstation.analysis.classifier import Classifier
from fieldstation.audio.files import FileSource
from fieldstation.bundle import Bundle
from fieldstation.records import LabelKind
from tests.onnx_models import make_tone_bundle
from tests.trainer.evaluation.folders import CHAFFINCH, GREAT_TIT, write_audio
from trainer.evaluation.events import Span, judge_events, overlaps, segments, station_events
from trainer.evaluation.truth import Annotation


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that hears tones in windows of a second."""
    return make_tone_bundle(tmp_path_factory.mktemp("bundles") / "tones", activation="sigmoid")


def test_a_call_becomes_an_event_where_it_was(tones: Bundle, tmp_path: Path) -> None:
    """The station's windows put it within a window of its place, and it ends."""
    path = write_audio(tmp_path / "call.wav", {CHAFFINCH: [(4.0, 6.0)]}, seconds=10)
    source = FileSource(path, None, None, lambda *_: None, ZoneInfo("UTC"))
    (event,) = station_events(tones, Classifier(tones, "cpu"), source)
    assert event.label == 0
    assert 3.0 <= event.start_s <= 4.0
    assert 6.0 <= event.end_s <= 7.0


def test_what_is_told_rightly_counts_as_one(tones: Bundle, tmp_path: Path) -> None:
    """Two species in one file, both found, nothing else told; silence annotated as such."""
    calls = {CHAFFINCH: [(1.0, 2.0)], GREAT_TIT: [(5.0, 6.0)]}
    both = write_audio(tmp_path / "both.wav", calls, seconds=8)
    silent = write_audio(tmp_path / "silent.wav", {}, seconds=4)
    there = (Annotation("Fringilla coelebs", 1, 2), Annotation("Parus major", 5, 6))
    report, skipped = judge_events(tones, {both: there, silent: ()})
    assert (report["event_f1"], report["event_precision"], report["event_recall"]) == (1, 1, 1)
    assert (report["n_event_files"], report["n_events_there"]) == (2, 2)
    assert skipped == []


def test_a_missed_call_and_a_wrong_event_cost(tones: Bundle, tmp_path: Path) -> None:
    """One of two calls found, one of two events right: one half each."""
    path = write_audio(
        tmp_path / "x.wav", {CHAFFINCH: [(1.0, 2.0)], GREAT_TIT: [(5.0, 6.0)]}, seconds=12
    )
    there = (Annotation("Fringilla coelebs", 1, 2), Annotation("Fringilla coelebs", 9, 10))
    report, _ = judge_events(tones, {path: there})
    assert (report["event_precision"], report["event_recall"], report["event_f1"]) == (0.5,) * 3


def test_species_that_the_bundle_does_not_know_are_counted_apart(
    tones: Bundle, tmp_path: Path
) -> None:
    """No bundle can find them; they are no miss."""
    path = write_audio(tmp_path / "x.wav", {CHAFFINCH: [(1.0, 2.0)]}, seconds=4)
    there = (Annotation("Fringilla coelebs", 1, 2), Annotation("Corvus corax", 2, 3))
    report, _ = judge_events(tones, {path: there})
    assert (report["event_f1"], report["n_events_of_other_species"]) == (1.0, 1)


def test_an_unknown_bird_is_no_call_that_could_be_found(tones: Bundle, tmp_path: Path) -> None:
    """A label that is no species makes no event, whoever writes its name into a table."""
    last = replace(tones.labels[-1], scientific_name="unknown bird", kind=LabelKind.UNKNOWN_BIRD)
    known = replace(tones, labels=(*tones.labels[:-1], last))
    path = write_audio(tmp_path / "x.wav", {CHAFFINCH: [(1.0, 2.0)]}, seconds=4)
    there = (Annotation("Fringilla coelebs", 1, 2), Annotation("Unknown bird", 2, 3))
    report, _ = judge_events(known, {path: there})
    assert (report["event_recall"], report["n_events_of_other_species"]) == (1.0, 1)


def test_nothing_told_and_nothing_there_is_no_figure(tones: Bundle, tmp_path: Path) -> None:
    """Without annotated files, or in silence, F1 is not known; a file that is gone is skipped."""
    assert judge_events(tones, {})[0]["event_f1"] is None
    silent = write_audio(tmp_path / "silent.wav", {}, seconds=4)
    assert judge_events(tones, {silent: ()})[0]["event_f1"] is None
    report, skipped = judge_events(tones, {tmp_path / "gone.wav": ()})
    assert report["n_event_files"] == 0
    assert skipped[0][0] == tmp_path / "gone.wav"


def test_a_call_ends_with_its_file_at_the_latest(tones: Bundle, tmp_path: Path) -> None:
    """Who means `to the end` writes any large number, or infinity; those seconds are not there."""
    path = write_audio(tmp_path / "x.wav", {CHAFFINCH: [(0.0, 4.0)]}, seconds=4)
    for end_s in (4.0, 1e12, float("inf")):
        report, _ = judge_events(tones, {path: (Annotation("Fringilla coelebs", 0, end_s),)})
        assert (report["segment_f1"], report["event_f1"]) == (1.0, 1.0)


def test_times_of_another_file_are_not_judged(tones: Bundle, tmp_path: Path) -> None:
    """A call that begins behind the end was counted in the recording that this one was cut from."""
    path = write_audio(tmp_path / "x.wav", {CHAFFINCH: [(0.0, 4.0)]}, seconds=4)
    there = (Annotation("Fringilla coelebs", 0, 4), Annotation("Parus major", 64, 66))
    report, ((_, reason),) = judge_events(tones, {path: there})
    assert (report["n_event_files"], report["event_f1"]) == (0, None)
    assert "begin at 64 s, and the file ends at 4 s" in reason


def test_overlap_is_of_one_species_and_shares_an_instant() -> None:
    """Touching is not sharing; two calls in one event are both found."""
    event = Span(0, 1.0, 5.0)
    assert overlaps([event], [Span(0, 1.5, 2), Span(0, 4, 6)]) == (1, 1, 2, 2)
    assert overlaps([event], [Span(0, 5.0, 6.0), Span(1, 2, 3)]) == (0, 1, 0, 2)


def test_segments_are_seconds_of_each_species() -> None:
    """Told from 1 to 5, there from 3 to 7: two of four and of four; other species count apart."""
    assert segments([Span(0, 1, 5)], [Span(0, 3, 7)]) == (2, 4, 4)
    assert segments([Span(0, 1, 5)], [Span(1, 1, 5)]) == (0, 4, 4)
