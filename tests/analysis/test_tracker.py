"""Windows become events, whatever the probabilities, batches, gaps and files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fieldstation.analysis.tracker import Tracker, explain
from fieldstation.clock import US_PER_S
from fieldstation.records import Event, FileOrigin, Label, LabelKind, Prediction, Window

CHAFFINCH = Label("Fringilla coelebs", "Chaffinch")
GREAT_TIT = Label("Parus major", "Great Tit")
NO_BIRD = Label("no bird", "no bird", LabelKind.NO_BIRD)
UNKNOWN = Label("unknown bird", "unknown bird", LabelKind.UNKNOWN_BIRD)
LABELS = (CHAFFINCH, GREAT_TIT, NO_BIRD, UNKNOWN)
THRESHOLDS = (0.5, 0.7, 0.1, 0.1)
RATE = 100
WINDOW_S, HOP_S = 2, 1
START = 1_700_000_000 * US_PER_S
FIRST_FILE = FileOrigin("one.wav", "11", 0)
SECOND_FILE = FileOrigin("two.wav", "22", 0)


def prediction(
    index: int,
    probabilities: Sequence[float],
    after_gap: bool = False,
    file: FileOrigin | None = None,
    n_padding: int = 0,
    frames: Sequence[Sequence[float]] | None = None,
) -> Prediction:
    """Return what window `index` of a stream gave; its embedding holds its index."""
    n = WINDOW_S * RATE
    window = Window(
        samples=np.zeros(n, np.float32),
        started_at=START + index * HOP_S * US_PER_S,
        offset=index * HOP_S * RATE,
        n_new=n if index == 0 else HOP_S * RATE,
        after_gap=after_gap,
        n_padding=n_padding,
        file=file,
    )
    embedding = np.full(512, index, np.float32)
    by_frame = None if frames is None else np.asarray(frames, np.float32)
    return Prediction(window, np.asarray(probabilities, np.float32), embedding, by_frame)


def sung(*chaffinch: float) -> list[list[float]]:
    """Return frames in which nothing but a Chaffinch is heard."""
    return [list(chaffinch), *([[0.0] * len(chaffinch)] * 3)]


def tracker(max_event_s: float = 30) -> Tracker:
    """Return a tracker whose ids count from 1."""
    ids = itertools.count(1)
    return Tracker(
        LABELS, THRESHOLDS, "enc", max_event_s, lambda label, window: UUID(int=next(ids)), RATE
    )


def follow(predictions: Sequence[Prediction], max_event_s: float = 30) -> list[Event]:
    """Return all events of a stream."""
    followed = tracker(max_event_s)
    closed = [event for each in predictions for event in followed.update(each)]
    return closed + followed.finish()


def second(instant: int) -> float:
    """Return an instant as seconds since the stream began."""
    return (instant - START) / US_PER_S


def test_windows_of_one_label_merge_into_one_event() -> None:
    """Three windows in a row become one event with the best one's probability and embedding."""
    heard = [0.6, 0.9, 0.8, 0.1]
    (event,) = follow([prediction(i, [p, 0, 0, 0]) for i, p in enumerate(heard)])
    assert (event.label, event.n_windows, event.encoder_id) == (CHAFFINCH, 3, "enc")
    assert (second(event.started_at), second(event.ended_at)) == (0, 4)
    assert event.probability == pytest.approx(0.9)
    assert event.threshold == 0.5
    assert event.embedding is not None
    assert event.embedding[0] == 1


def test_an_event_closes_at_the_first_window_without_its_label() -> None:
    """The event comes out with that very window, not later."""
    followed = tracker()
    assert followed.update(prediction(0, [0.9, 0, 0, 0])) == []
    assert followed.is_open
    (event,) = followed.update(prediction(1, [0.49, 0, 0, 0]))
    assert event.n_windows == 1
    assert not followed.is_open
    assert followed.finish() == []


def test_a_probability_equal_to_the_threshold_reaches_it() -> None:
    """At one half of one half there is an event."""
    (event,) = follow([prediction(0, [0.5, 0, 0, 0])])
    assert event.probability == event.threshold == 0.5


def test_several_labels_at_once_are_several_events() -> None:
    """Two birds over each other are two events, and the earlier begun comes first."""
    stream = [[0.0, 0.9, 0, 0], [0.9, 0.9, 0, 0], [0.0, 0, 0, 0]]
    events = follow([prediction(i, p) for i, p in enumerate(stream)])
    assert [(e.label, e.n_windows) for e in events] == [(GREAT_TIT, 2), (CHAFFINCH, 1)]


def test_events_that_begin_together_come_in_label_order() -> None:
    """The order of closed events does not hang on chance."""
    events = follow([prediction(0, [0.9, 0.9, 0, 0])])
    assert [e.label for e in events] == [CHAFFINCH, GREAT_TIT]


def test_only_a_species_makes_an_event() -> None:
    """`no bird` and `unknown bird` over their thresholds give nothing."""
    assert follow([prediction(0, [0, 0, 1, 1])]) == []


def test_a_long_song_is_cut_at_the_longest_event() -> None:
    """Ten windows of 2 s every second with at most 5 s give events of 4, 4 and 2 windows."""
    events = follow([prediction(i, [1, 0, 0, 0]) for i in range(10)], max_event_s=5)
    assert [e.n_windows for e in events] == [4, 4, 2]
    assert [second(e.started_at) for e in events] == [0, 4, 8]


def test_a_full_event_comes_out_at_once() -> None:
    """An event that cannot grow is not held until the bird falls silent."""
    followed = tracker(max_event_s=3)
    assert followed.update(prediction(0, [1, 0, 0, 0])) == []
    (event,) = followed.update(prediction(1, [1, 0, 0, 0]))
    assert second(event.ended_at) == 3


def test_a_longest_event_between_two_hops_is_never_exceeded() -> None:
    """With 3.5 s and windows that end at 2, 3, 4 s the event ends at 3 s."""
    events = follow([prediction(i, [1, 0, 0, 0]) for i in range(4)], max_event_s=3.5)
    assert [second(e.ended_at) - second(e.started_at) for e in events] == [3, 3]


def test_an_event_never_spans_a_gap() -> None:
    """A window after a gap begins another event."""
    stream = [prediction(0, [1, 0, 0, 0]), prediction(5, [1, 0, 0, 0], after_gap=True)]
    assert [(second(e.started_at), second(e.ended_at)) for e in follow(stream)] == [(0, 2), (5, 7)]


def test_an_event_never_spans_two_files() -> None:
    """The next file's first window begins another event, with that file as its origin."""
    stream = [
        prediction(0, [1, 0, 0, 0], file=FIRST_FILE),
        prediction(1, [1, 0, 0, 0], file=FileOrigin("one.wav", "11", 100)),
        prediction(2, [1, 0, 0, 0], file=SECOND_FILE),
    ]
    assert [(e.n_windows, e.file) for e in follow(stream)] == [(2, FIRST_FILE), (1, SECOND_FILE)]


def test_padding_is_not_part_of_an_event() -> None:
    """Half a window of audio and half of zeros end the event with the audio."""
    (event,) = follow([prediction(0, [1, 0, 0, 0], n_padding=RATE)])
    assert second(event.ended_at) == 1


def test_frames_say_when_a_bird_began_and_ended() -> None:
    """Of windows of 2 s and 8 frames, the fifth frame is the second's first quarter."""
    loud, mixed = sung(0, 0, 0, 0, 0.9, 0.9, 0.9, 0.9), sung(0.9, 0.9, 0.9, 0, 0.3, 0.1, 0, 0)
    stream = [
        prediction(0, [0.9, 0, 0, 0], frames=loud),
        prediction(1, [0.6, 0, 0, 0], frames=mixed),
    ]
    (event,) = follow(stream)
    assert (second(event.started_at), second(event.ended_at)) == (1.0, 2.25)
    assert event.n_windows == 2


def test_a_frame_counts_from_a_quarter_of_the_threshold() -> None:
    """A quarter of one half is enough, and just less is not; each label has its own threshold."""
    frames = [[0.12, 0.125, 0.3, 0.12], [0.17, 0.17, 0.18, 0.17], [0.9] * 4, [0.9] * 4]
    chaffinch, great_tit = follow([prediction(0, [0.5, 0.71, 0, 0], frames=frames)])
    assert (second(chaffinch.started_at), second(chaffinch.ended_at)) == (0.5, 1.5)
    assert (second(great_tit.started_at), second(great_tit.ended_at)) == (1.0, 1.5)


@pytest.mark.parametrize("frames", [None, sung(0, 0.1, 0, 0), sung(np.nan, np.nan)])
def test_without_a_frame_that_holds_the_bird_the_window_counts(
    frames: list[list[float]] | None,
) -> None:
    """An encoder without frames, or whose frames say nothing, leaves an event its windows."""
    (event,) = follow([prediction(3, [0.9, 0, 0, 0], frames=frames)])
    assert (second(event.started_at), second(event.ended_at)) == (3, 5)


def test_no_event_is_heard_in_padding() -> None:
    """What frames hear in zeros behind the sound's end lengthens nothing, and begins nothing."""
    until_the_end = [prediction(0, [1, 0, 0, 0], n_padding=RATE, frames=sung(0, 1, 1, 1))]
    behind_it = [prediction(0, [1, 0, 0, 0], n_padding=RATE, frames=sung(0, 0, 1, 1))]
    (one,), (other,) = follow(until_the_end), follow(behind_it)
    assert (second(one.started_at), second(one.ended_at)) == (0.5, 1)
    assert (second(other.started_at), second(other.ended_at)) == (0, 1)


def test_frames_shorten_no_limit() -> None:
    """An event is full by its windows, whatever its frames say."""
    frames = sung(0, 0, 1, 0)
    stream = [prediction(i, [1, 0, 0, 0], frames=frames) for i in range(10)]
    events = follow(stream, max_event_s=5)
    assert [e.n_windows for e in events] == [4, 4, 2]
    assert [second(e.started_at) for e in events] == [1, 5, 9]


def test_an_event_before_1970_has_times() -> None:
    """Recordings may be old."""
    early = prediction(0, [1, 0, 0, 0], frames=sung(0, 1))
    early = replace(early, window=replace(early.window, started_at=-10 * US_PER_S))
    (event,) = follow([early])
    assert (event.started_at, event.ended_at) == (-9 * US_PER_S, -8 * US_PER_S)


def test_finishing_in_the_middle_leaves_the_tracker_usable() -> None:
    """A source that broke off closes its events; the next window begins anew."""
    followed = tracker()
    followed.update(prediction(0, [1, 0, 0, 0]))
    (first,) = followed.finish()
    followed.update(prediction(1, [1, 0, 0, 0]))
    (other,) = followed.finish()
    assert first.id != other.id


def test_thresholds_must_match_the_labels() -> None:
    """A bundle and its thresholds that do not fit are refused."""
    with pytest.raises(ValueError, match="1 thresholds for 4 labels"):
        Tracker(LABELS, [0.5], "enc", 30, lambda label, window: UUID(int=1), RATE)
    with pytest.raises(ValueError, match="probabilities for 4 labels"):
        tracker().update(prediction(0, [0.5]))


def test_explain_says_why_a_window_gave_nothing() -> None:
    """Best label, its probability and the threshold it missed stand in one line."""
    assert explain(prediction(0, [0.4, 0.2, 0, 0.3]), LABELS, THRESHOLDS) == (
        "best species Chaffinch 0.40, needs 0.50"
    )
    assert explain(prediction(0, [0.1, 0.2, 0.6, 0.1]), LABELS, THRESHOLDS) == (
        "no bird 0.60; best species Great Tit 0.20, needs 0.70"
    )
    assert explain(prediction(0, [0.6, 0.8, 0.6, 0.1]), LABELS, THRESHOLDS) == (
        "Great Tit 0.80 of 0.70, Chaffinch 0.60 of 0.50"
    )


PROBABILITY = st.sampled_from([0.0, 0.49, 0.5, 0.69, 0.71, 1.0])
RATIO = st.floats(0, 1, width=32)


@st.composite
def streams(draw: st.DrawFn) -> list[Prediction]:
    """Return up to 40 windows with gaps and changes of file."""
    stream, index, file = [], 0, draw(st.sampled_from([None, FIRST_FILE]))
    for _ in range(draw(st.integers(0, 40))):
        after_gap = draw(st.integers(0, 9)) == 0
        if draw(st.integers(0, 9)) == 0:
            file = SECOND_FILE if file is not SECOND_FILE else FIRST_FILE
        index += 4 if after_gap else 1
        row = draw(st.lists(PROBABILITY, min_size=4, max_size=4))
        stream.append(prediction(index, row, after_gap=after_gap, file=file))
    return stream


@st.composite
def framed(draw: st.DrawFn) -> list[Prediction]:
    """Return such windows, some with any frames."""
    frames = st.none() | hnp.arrays(
        np.float32, st.tuples(st.just(4), st.integers(1, 5)), elements=RATIO
    )
    return [replace(each, frames=draw(frames)) for each in draw(streams())]


@given(framed(), st.sampled_from([2, 3.5, 5, 30]))
def test_frames_change_times_alone_and_only_to_nearer(
    stream: list[Prediction], max_event_s: float
) -> None:
    """The events are those of the windows; each lies within its windows and lasts."""
    plain = follow([replace(each, frames=None) for each in stream], max_event_s)
    finer = {event.id: event for event in follow(stream, max_event_s)}
    assert len(finer) == len(plain)
    for event in plain:
        found = finer[event.id]
        assert event.started_at <= found.started_at < found.ended_at <= event.ended_at
        alike = replace(found, started_at=event.started_at, ended_at=event.ended_at)
        assert [getattr(alike, n) for n in Event.__slots__] == [
            getattr(event, n) for n in Event.__slots__
        ]


def reached(stream: Sequence[Prediction], index: int) -> list[Prediction]:
    """Return the windows in which a label reached its threshold."""
    return [p for p in stream if float(p.probabilities[index]) >= THRESHOLDS[index]]


@given(streams(), st.sampled_from([2, 3.5, 5, 30]))
def test_every_window_that_reached_belongs_to_exactly_one_event(
    stream: list[Prediction], max_event_s: float
) -> None:
    """Events partition each species' windows, in order, and take their best one's values."""
    events = follow(stream, max_event_s)
    assert {e.label for e in events} <= {CHAFFINCH, GREAT_TIT}
    for index, label in enumerate((CHAFFINCH, GREAT_TIT)):
        windows = iter(reached(stream, index))
        for event in (e for e in events if e.label == label):
            members = list(itertools.islice(windows, event.n_windows))
            best = max(members, key=lambda p: float(p.probabilities[index]))
            assert event.started_at == members[0].window.started_at
            assert event.ended_at == members[-1].window.started_at + WINDOW_S * US_PER_S
            assert event.probability == float(best.probabilities[index]) >= event.threshold
            assert event.embedding is best.embedding
        assert list(windows) == []


@given(streams(), st.sampled_from([2, 3.5, 5, 30]))
def test_no_event_is_too_long_or_holds_a_hole(stream: list[Prediction], max_event_s: float) -> None:
    """An event's windows follow on each other without gap, and it ends within its limit."""
    for event in follow(stream, max_event_s):
        length_s = (event.ended_at - event.started_at) / US_PER_S
        assert length_s <= max(max_event_s, WINDOW_S)
        assert length_s == WINDOW_S + (event.n_windows - 1) * HOP_S


@given(streams())
def test_an_event_ends_only_where_it_must(stream: list[Prediction]) -> None:
    """Between two events of a label lies a window without it, a gap or another file."""
    places = {p.window.started_at: i for i, p in enumerate(stream)}
    for index, label in enumerate((CHAFFINCH, GREAT_TIT)):
        of_label = [e for e in follow(stream, 1_000) if e.label == label]
        for former, latter in itertools.pairwise(of_label):
            first = places[former.started_at] + former.n_windows
            between = stream[first : places[latter.started_at]]
            silent = any(float(p.probabilities[index]) < THRESHOLDS[index] for p in between)
            restart = stream[places[latter.started_at]].window
            assert silent or restart.after_gap or restart.file is not stream[first - 1].window.file


@given(streams())
def test_the_same_stream_gives_the_same_events(stream: list[Prediction]) -> None:
    """Nothing but the predictions decides, and no id occurs twice."""
    events, again = follow(stream), follow(stream)
    assert [(e.id, e.label, e.started_at) for e in events] == [
        (e.id, e.label, e.started_at) for e in again
    ]
    assert len({e.id for e in events}) == len(events)


@given(streams())
def test_an_event_is_closed_as_soon_as_it_is_over(stream: list[Prediction]) -> None:
    """After every window only labels that it holds are still open."""
    followed = tracker()
    for index, each in enumerate(stream):
        followed.update(each)
        species = each.probabilities[:2] >= np.asarray(THRESHOLDS[:2], np.float32)
        if not species.any():
            assert not followed.is_open, f"open after window {index}"
