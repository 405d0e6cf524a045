"""From the outbox to a broker that is slow, deaf, forgetful or refusing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from fieldstation.mqtt import messages
from fieldstation.mqtt.connection import Connection
from fieldstation.mqtt.messages import Receipt, Refusal, Status, Summary, Topics
from fieldstation.mqtt.publisher import WINDOW, Publisher, Trust
from fieldstation.records import Health, Message
from tests.fakes import FakeClock
from tests.mqtt.fakes import KEY, OWN, TURN_S, FakeConnection, Outbox, detection, running, until

OWN_TRUST = Trust(logger_id=OWN)
NEVER_S = 1_000.0
RESEND_S, SOON_S = 10.0, 1.0


@contextmanager
def publishing(
    outbox: Outbox, trust: Trust = OWN_TRUST, resend_s: float = NEVER_S
) -> Iterator[tuple[Publisher, FakeConnection]]:
    """Run a publisher on a fake connection that is up."""
    connection = FakeConnection()
    publisher = Publisher(
        cast(Connection, connection),
        outbox,
        Topics("garden"),
        KEY,
        trust,
        resend_s=resend_s,
        soon_s=resend_s,
        turn_s=TURN_S,
    )
    with running(publisher):
        connection.connect()
        yield publisher, connection


class Hours:
    """A publisher whose time passes only as it is told to."""

    def __init__(self, outbox: Outbox, soon_s: float = RESEND_S) -> None:
        """Make it, on a fake connection that acknowledges at once."""
        self._clock = FakeClock()
        self._outbox = outbox
        self.connection = FakeConnection()
        self.connection.acknowledge_at_once = True
        self.publisher = Publisher(
            cast(Connection, self.connection),
            outbox,
            Topics("garden"),
            KEY,
            OWN_TRUST,
            monotonic=self._clock.monotonic,
            resend_s=RESEND_S,
            soon_s=soon_s,
            turn_s=TURN_S,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it, and wait until it has told what there was and has its acknowledgements."""
        with running(self.publisher) as (self._stage,):
            self.connection.connect()
            until(lambda: len(self.connection.sequences()) == self._outbox.n_pending())
            yield

    def pass_by(self, seconds: float) -> None:
        """Let time pass between two turns of the publisher, and wait until it has acted on it."""
        self._turn()
        self._clock.advance(seconds)
        self._turn()

    def pass_until(self, so: Callable[[], object]) -> None:
        """Let time pass until something is so."""
        until(lambda: so() or self.pass_by(1.1 * RESEND_S))

    def _turn(self) -> None:
        n = self._stage.n_beats
        until(lambda: self._stage.n_beats >= n + 2)  # the one that runs, and a whole one


def receipt(numbers: Iterable[int], logger_id: str = OWN, refused: Iterable[int] = ()) -> Message:
    """Return a logger's receipt for detections by their number."""
    return messages.receipt_message(
        Receipt(
            "garden",
            logger_id,
            1,
            tuple(detection(n).event_id for n in numbers),
            tuple(Refusal(detection(n).event_id, "conflict") for n in refused),
        )
    )


def test_rows_go_in_order_and_at_most_a_window_unacknowledged() -> None:
    """What the broker has not taken waits in the outbox, not in memory."""
    outbox = Outbox.of(5 * WINDOW)
    with publishing(outbox) as (publisher, connection):
        until(lambda: len(connection.sequences()) == WINDOW)
        for n in range(2, 6):
            until(lambda: publisher.state().n_in_flight == WINDOW)
            connection.acknowledge_all()
            until(lambda n=n: len(connection.sequences()) == n * WINDOW)  # type: ignore[misc]
        assert connection.sequences() == list(range(1, 5 * WINDOW + 1))
    assert outbox.largest_page <= WINDOW


def test_nothing_goes_out_before_it_was_told_that_it_is_connected() -> None:
    """It is told a moment later, and begins again then: each would go twice."""
    connection = FakeConnection()
    publisher = Publisher(
        cast(Connection, connection), Outbox.of(3), Topics("garden"), KEY, turn_s=TURN_S
    )
    with running(publisher) as (stage,):
        connection.come_up()
        n = stage.n_beats
        until(lambda: stage.n_beats >= n + 2)
        assert connection.published == []
        connection.tell_up()
        until(lambda: len(connection.published) == 4)
    assert connection.sequences() == [1, 2, 3]


def test_a_logger_that_subscribes_a_moment_late_gets_the_first_rows_soon() -> None:
    """Rows told just after a connect, when our own logger had not subscribed yet, go again."""
    hours = Hours(Outbox.of(3), SOON_S)
    with hours.running():
        hours.pass_by(SOON_S)
        assert hours.connection.sequences() == [1, 2, 3, 1, 2, 3]
        assert hours.publisher.state().n_resent == 3


def test_only_what_the_logger_passed_over_goes_again_soon() -> None:
    """A receipt for the second row: the first was not heard, the third is under way."""
    outbox = Outbox.of(3)
    hours = Hours(outbox, SOON_S)
    with hours.running():
        hours.connection.deliver(receipt([2]))
        until(lambda: outbox.n_pending() == 2)
        hours.pass_by(SOON_S)
        assert hours.connection.sequences() == [1, 2, 3, 1]


def test_a_broker_that_takes_less_gets_less() -> None:
    """MQTT 5 brokers name their receive maximum and may hang up on whoever exceeds it."""
    connection = FakeConnection()
    connection.receive_maximum = 20
    publisher = Publisher(cast(Connection, connection), Outbox.of(50), Topics("garden"), KEY)
    with running(publisher):
        connection.connect()
        until(lambda: publisher.state().n_in_flight == 20)
        connection.acknowledge_all()
        until(lambda: len(connection.sequences()) == 40)


def test_birds_are_heard_live_though_no_logger_answers() -> None:
    """Who watches needs no log; the rows stay in the outbox for the day a logger comes back."""
    outbox = Outbox.of(3 * WINDOW)
    with publishing(outbox) as (publisher, connection):
        connection.acknowledge_at_once = True
        connection.acknowledge_all()
        until(lambda: len(connection.sequences()) == 3 * WINDOW)
        outbox.add(detection(1_000))
        publisher.wake()
        until(lambda: connection.sequences()[-1] == 1_000)
        assert outbox.n_pending() == 3 * WINDOW + 1
        assert not publisher.idle


def test_only_the_trusted_logger_s_receipt_ends_a_row() -> None:
    """Another one's log is another one's."""
    outbox = Outbox.of(3)
    with publishing(outbox) as (publisher, connection):
        until(lambda: len(connection.sequences()) == 3)
        connection.acknowledge_all()
        connection.deliver(receipt([1, 2, 3], "a-stranger"))
        connection.deliver(receipt([2], OWN))
        until(lambda: outbox.n_pending() == 2)
        connection.deliver(receipt([1, 3], OWN))
        until(lambda: publisher.idle)
        assert publisher.state().n_confirmed == 3
    assert set(outbox.confirmed.values()) == {1}


@pytest.mark.parametrize(
    ("word", "accepted"),
    [("own", {OWN}), ("any", {OWN, "hub"}), ("none", set()), ("hub", {"hub"})],
)
def test_trust_is_own_any_none_or_an_id(word: str, accepted: set[str]) -> None:
    """As `mqtt.trust` says it."""
    trust = Trust.parse(word, OWN)
    assert {logger for logger in (OWN, "hub") if trust.accepts(logger)} == accepted


def test_without_trust_the_broker_s_word_suffices() -> None:
    """For a station whose messages no log of ours takes."""
    outbox = Outbox.of(250)
    with publishing(outbox, Trust(receipts=False)) as (publisher, connection):
        connection.acknowledge_at_once = True
        until(lambda: connection.published)
        connection.acknowledge_all()
        until(lambda: publisher.idle)


def test_what_no_logger_keeps_is_done_when_the_broker_has_it() -> None:
    """A summary is derived from what the log has already."""
    outbox = Outbox()
    summary = messages.summary_message(Summary("garden", KEY, "s-1", "2026-05-01", "UTC", ()))
    outbox.add_message("s-1", 1, summary)
    with publishing(outbox) as (publisher, connection):
        until(lambda: summary in connection.published)
        connection.acknowledge_all()
        until(lambda: publisher.idle)


def test_a_reconnect_sends_the_unconfirmed_again_and_nothing_else() -> None:
    """A restarted broker may have forgotten what it acknowledged."""
    outbox = Outbox.of(6)
    with publishing(outbox) as (publisher, connection):
        until(lambda: len(connection.sequences()) == 6)
        connection.acknowledge_all()
        connection.deliver(receipt([1, 3]))
        until(lambda: outbox.n_pending() == 4)
        connection.up = False
        connection.connect()
        until(lambda: publisher.state().n_resent == 4)
        assert connection.sequences()[6:] == [2, 4, 5, 6]


def test_lost_receipts_are_asked_for_again() -> None:
    """Without any reconnect, after a while, the oldest first."""
    outbox = Outbox.of(4)
    hours = Hours(outbox)
    with hours.running():
        hours.connection.deliver(receipt([1]))
        until(lambda: outbox.n_pending() == 3)
        hours.pass_until(lambda: hours.publisher.state().n_resent >= 3)
        assert hours.connection.sequences()[4:7] == [2, 3, 4]
        hours.connection.deliver(receipt([2, 3, 4]))
        until(lambda: hours.publisher.idle)


def test_an_absent_logger_costs_a_page_at_a_time() -> None:
    """Ten thousand waiting rows are not sent again every minute: a page asks whether he is back."""
    hours = Hours(Outbox.of(5 * WINDOW))
    with hours.running():
        hours.pass_until(lambda: hours.publisher.state().n_resent >= 3 * WINDOW)
        resent = hours.connection.sequences()[5 * WINDOW :]
        assert set(resent) <= set(range(1, WINDOW + 1))


def test_a_logger_that_is_back_gets_page_after_page() -> None:
    """Each page as soon as the last is confirmed, not one a minute."""
    hours = Hours(Outbox.of(3 * WINDOW))
    with hours.running():
        hours.pass_until(lambda: hours.publisher.state().n_resent >= WINDOW)
        for n in (1, 2, 3):
            until(lambda n=n: hours.publisher.state().n_resent == n * WINDOW)  # type: ignore[misc]
            page = range((n - 1) * WINDOW + 1, n * WINDOW + 1)
            hours.connection.deliver(receipt(page))
        until(lambda: hours.publisher.idle)
        assert hours.publisher.state().n_resent == 3 * WINDOW


def test_a_row_that_nobody_confirms_does_not_hold_up_the_next_page() -> None:
    """One odd row among many must not starve the rest."""
    outbox = Outbox.of(2 * WINDOW)
    hours = Hours(outbox)
    with hours.running():
        hours.pass_until(lambda: hours.publisher.state().n_resent >= WINDOW)
        hours.connection.deliver(receipt(range(2, WINDOW + 1)))
        until(lambda: outbox.n_pending() == WINDOW + 1)
        hours.pass_until(lambda: 2 * WINDOW in hours.connection.sequences()[2 * WINDOW :])
        hours.connection.deliver(receipt(range(WINDOW + 1, 2 * WINDOW + 1)))
        until(lambda: outbox.n_pending() == 1)


def test_a_refusal_by_the_logger_ends_a_row_and_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """It lies in the logger's quarantine; sending it again would not help."""
    outbox = Outbox.of(1)
    with publishing(outbox) as (publisher, connection):
        until(lambda: connection.sequences())
        connection.acknowledge_all()
        connection.deliver(receipt([], refused=[1]))
        until(lambda: publisher.idle)
        assert publisher.state().n_refused == 1
    assert "quarantine: conflict" in caplog.text


def test_a_refusal_by_the_broker_leaves_the_row_in_the_outbox() -> None:
    """An access list can be mended."""
    hours = Hours(Outbox.of(1))
    connection = hours.connection
    connection.acknowledge_at_once = False
    with hours.running():
        connection.acknowledge_all("Not authorized")
        until(lambda: connection.reports)
        assert "Not authorized" in connection.reports[0]
        hours.pass_until(lambda: len(connection.sequences()) > 1)
        connection.acknowledge_all()
        connection.deliver(receipt([1]))
        until(lambda: hours.publisher.idle)


def test_a_broker_that_acknowledges_nothing_is_left() -> None:
    """It may answer pings for ever while its queue is stuck."""
    with publishing(Outbox.of(1), resend_s=0.1) as (_, connection):
        until(lambda: connection.renewed)
    assert "nothing acknowledged" in connection.renewed[0]


def test_an_outbox_that_is_away_is_reported_once_and_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A locked disk is no reason to end the station."""
    outbox = Outbox.of(1)
    outbox.fault = OSError("database is locked")
    with publishing(outbox) as (publisher, connection):
        for n in range(1, 4):
            publisher.wake()
            until(lambda n=n: outbox.n_asked > n)  # type: ignore[misc]
        outbox.fault = None
        until(lambda: connection.sequences() == [1])
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1


def test_an_unexpected_error_ends_the_stage() -> None:
    """The service then ends the process, and the supervisor starts a clean one."""
    outbox = Outbox.of(1)
    outbox.fault = KeyError("a bug")
    with pytest.raises(KeyError), publishing(outbox):
        until(lambda: outbox.n_asked)


def test_another_station_of_our_name_is_an_error_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Reported once, shown as long as it is there."""
    theirs = Status("garden", "their-key", online=True)
    with publishing(Outbox()) as (publisher, connection):
        until(lambda: connection.published)
        connection.deliver(messages.status_message(theirs))
        connection.deliver(messages.status_message(theirs))
        until(lambda: publisher.state().twin == "their-key")
        connection.deliver(messages.status_message(Status("garden", "their-key", online=False)))
        until(lambda: publisher.state().twin == "")
    assert caplog.text.count("is called garden too") == 1


def test_it_says_online_when_it_comes_and_wills_offline() -> None:
    """And once more when an old will of its own arrives late."""
    with publishing(Outbox()) as (_, connection):
        until(lambda: len(connection.published) == 1)
        will = connection.session.will
        assert will is not None
        connection.deliver(will)
        until(lambda: len(connection.published) == 2)
    told = [messages.read_status(m.topic, m.payload) for m in connection.published]
    assert [status.online for status in told] == [True, True]
    assert not messages.read_status(will.topic, will.payload).online


def test_nonsense_on_our_topics_is_survived() -> None:
    """Whoever may write there may write anything."""
    outbox = Outbox.of(1)
    with publishing(outbox) as (publisher, connection):
        until(lambda: connection.sequences())
        connection.acknowledge_all()
        connection.deliver(Message("fieldstation/garden/logged", b"\xff"))
        connection.deliver(Message("fieldstation/garden/status", b"[" * 10_000))
        connection.deliver(receipt([1]))
        until(lambda: publisher.idle)


def test_live_messages_are_dropped_without_a_connection() -> None:
    """A minute-old health report is worth nothing."""
    health = messages.health_message("garden", KEY, Health(0, {}))
    with publishing(Outbox()) as (publisher, connection):
        assert publisher.send_live(health)
        connection.up = False
        assert not publisher.send_live(health)
    assert connection.published.count(health) == 1
