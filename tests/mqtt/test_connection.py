"""One connection to a broker that is refused, cut, hung and lied to."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fieldstation.mqtt.backoff import Backoff
from fieldstation.mqtt.connection import (
    Access,
    BrokerError,
    BrokerUrl,
    Connection,
    Session,
    Subscription,
)
from fieldstation.records import Message
from tests.mosquitto import Mosquitto, free_port, needs_mosquitto
from tests.mqtt.conftest import QUICK, Connect
from tests.mqtt.fakes import Listener, listening, until

TOPIC = "fieldstation/garden/status"
ALL = (Subscription("fieldstation/#", own=True),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt://hub", BrokerUrl("hub", 1883)),
        ("mqtts://hub", BrokerUrl("hub", 8883, tls=True)),
        ("mqtt://ann@hub:1999", BrokerUrl("hub", 1999, username="ann")),
        ("mqtt://[::1]:1884", BrokerUrl("::1", 1884)),
    ],
)
def test_a_url_names_host_port_user_and_tls(text: str, expected: BrokerUrl) -> None:
    """And its text names them again."""
    assert BrokerUrl.parse(text) == expected
    assert BrokerUrl.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "hub", "http://hub", "mqtt://", "mqtt://hub:99999", "mqtt://hub/x", "mqtt://a..b"]
)
def test_a_wrong_url_is_an_error_that_shows_a_right_one(text: str) -> None:
    """The text is for a person with a config file open."""
    with pytest.raises(BrokerError, match="mqtt://h"):
        BrokerUrl.parse(text)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    """Urls are shown; passwords never."""
    with pytest.raises(BrokerError) as error:
        BrokerUrl.parse("mqtt://ann:hunter2@hub")
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in repr(Access(BrokerUrl("hub", 1883), "hunter2"))


def test_a_missing_certificate_names_the_file() -> None:
    """What cannot mend itself is an error before anything starts."""
    with pytest.raises(BrokerError, match=r"absent\.pem"):
        Connection(Access(BrokerUrl("hub", 8883, tls=True), ca_file="absent.pem"))


def test_waits_double_up_to_the_longest_and_start_over() -> None:
    """Each is shortened at random, by half at most."""
    backoff = Backoff(1.0, 8.0)
    for step in (1, 2, 4, 8, 8):
        assert step / 2 <= backoff.next() <= step
    backoff.reset()
    assert backoff.next() <= 1


@needs_mosquitto
def test_the_will_is_told_at_a_clean_goodbye_too(connect: Connect) -> None:
    """So `offline` needs no second way."""
    with listening(connect(), Session("watch", ALL)) as watch:
        with listening(connect(), Session("a", will=Message(TOPIC, b"gone", True))):
            pass
        until(lambda: watch.deliveries)
    assert watch.deliveries[0].payload == b"gone"


@needs_mosquitto
def test_a_restarted_broker_is_found_again(broker: Mosquitto, connect: Connect) -> None:
    """Subscriptions are made again; the fault is shown while it lasts, and only then."""
    connection = connect()
    with listening(connection, Session("a", ALL)) as listener:
        broker.kill()
        until(lambda: not connection.up)
        assert connection.publish(Message(TOPIC, b"lost")) is None
        until(lambda: "trying again" in connection.state().fault)
        broker.start()
        until(lambda: connection.up)
        assert connection.state().fault == ""
        connection.publish(Message(TOPIC, b"back"))
        until(lambda: listener.deliveries)
    assert (listener.n_up, listener.deliveries[0].payload) == (2, b"back")


@needs_mosquitto
def test_a_hung_broker_is_noticed_by_its_silence(
    broker: Mosquitto, connect_impatiently: Connect
) -> None:
    """A black hole closes no socket; an unanswered ping tells."""
    connection = connect_impatiently()
    with listening(connection, Session("a", ALL)) as listener:
        broker.hang()
        until(lambda: not connection.up)
        n_up = listener.n_up
        broker.go_on()
        until(lambda: listener.n_up > n_up)
        until(lambda: connection.up)


def test_a_listener_that_never_answers_is_given_up() -> None:
    """Something takes the connection but speaks no MQTT."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        access = Access(BrokerUrl("127.0.0.1", deaf.getsockname()[1]))
        connection = Connection(access, replace(QUICK, keepalive_s=30, connect_s=0.3))
        with connection.open(Session("a"), Listener()):
            until(lambda: connection.state().fault)
    assert "no answer to CONNECT" in connection.state().fault


def test_a_fault_that_stays_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is tried; the wait in between grows."""
    with socket.create_server(("127.0.0.1", 0)) as slammer:
        port = slammer.getsockname()[1]
        connection = Connection(Access(BrokerUrl("127.0.0.1", port)), QUICK)
        with connection.open(Session("a"), Listener()):
            for _ in range(4):
                slammer.accept()[0].close()
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(lines) == 1
    assert "connection lost" in lines[0]


def test_an_absent_broker_is_told_in_the_system_s_words() -> None:
    """Refused, unreachable or unknown: it makes a difference to who mends it."""
    connection = Connection(Access(BrokerUrl("127.0.0.1", free_port())), QUICK)
    with connection.open(Session("a"), Listener()):
        until(lambda: connection.state().fault)
    assert "Connection refused" in connection.state().fault


@pytest.fixture
def guarded(tmp_path: Path) -> Mosquitto:
    """Return a broker that knows one user, `ann`, who may not subscribe to everything."""
    users = tmp_path / "users"
    users.write_text("ann:right\n")
    users.chmod(0o600)
    tool = shutil.which("mosquitto_passwd", path="/usr/bin:/usr/local/bin")
    assert tool is not None
    subprocess.run([tool, "-U", users], check=True)
    return Mosquitto(tmp_path, ["allow_anonymous false", f"password_file {users}"])


@needs_mosquitto
def test_a_wrong_password_is_reported_once_in_words(
    guarded: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """The words name user and url, never the password; it is tried again all the same."""
    guarded.start()
    url = BrokerUrl("127.0.0.1", guarded.port, username="ann")
    connection = Connection(Access(url, "wrong-secret"), QUICK)
    with connection.open(Session("a"), Listener()):
        until(lambda: "user 'ann'" in connection.state().fault)
        guarded.kill()
        until(lambda: "refused" in connection.state().fault)
    lines = [r.getMessage() for r in caplog.records if "user 'ann'" in r.getMessage()]
    assert len(lines) == 1
    assert str(url) in lines[0]
    assert "mqtt.password_file" in lines[0]
    assert "wrong-secret" not in caplog.text


@needs_mosquitto
def test_the_right_password_lets_in(guarded: Mosquitto) -> None:
    """The same broker, the same user."""
    guarded.start()
    url = BrokerUrl("127.0.0.1", guarded.port, username="ann")
    with listening(Connection(Access(url, "right"), QUICK), Session("a")) as listener:
        assert listener.n_up == 1
    guarded.kill()


@needs_mosquitto
def test_two_clients_with_one_id_do_not_fight_without_a_word(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """A copied SD card throws its original out; the log says what to look for."""
    with (
        listening(connect(), Session("same")),
        listening(connect(), Session("same")),
    ):
        until(lambda: "a copy of this state folder" in caplog.text)


@needs_mosquitto
def test_an_acknowledgement_of_an_earlier_connection_is_dropped(
    broker: Mosquitto, connect: Connect
) -> None:
    """Packet ids begin again with each connection: a late one would acknowledge another message."""
    lasting = Session("keeper", ALL, expiry_s=600, manual_ack=True)
    connection, teller = connect(), connect()
    with listening(connection, lasting) as keeper, listening(teller, Session("teller")):
        teller.publish(Message(TOPIC, b"one"))
        until(lambda: len(keeper.deliveries) == 1)
        connection.renew("for the test")
        until(lambda: keeper.n_up == 2)
        until(lambda: len(keeper.deliveries) == 2)
        connection.acknowledge(keeper.deliveries[0])  # too late, hence without effect
        connection.renew("for the test")
        until(lambda: len(keeper.deliveries) == 3)
        connection.acknowledge(keeper.deliveries[2])
        teller.publish(Message(TOPIC, b"two"))
        until(lambda: len(keeper.deliveries) == 4)
    assert [d.payload for d in keeper.deliveries] == [b"one", b"one", b"one", b"two"]


@needs_mosquitto
def test_reconnecting_leaks_no_file_descriptors(connect: Connect) -> None:
    """A station reconnects for years."""
    connection = connect()
    with listening(connection, Session("a")) as listener:
        before = len(os.listdir("/proc/self/fd"))
        for n in range(2, 8):
            connection.renew("for the test")
            until(lambda n=n: listener.n_up == n)  # type: ignore[misc]
        assert len(os.listdir("/proc/self/fd")) <= before


@needs_mosquitto
def test_tls_checks_the_broker_s_certificate(tmp_path: Path) -> None:
    """With the authority that signed it it comes up; without, the words say what is missing."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "broker.pem", tmp_path / "broker.key"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *request.split(), *names, *files], check=True, capture_output=True)
    broker = Mosquitto(
        tmp_path, ["allow_anonymous true", f"certfile {certificate}", f"keyfile {key}"]
    )
    broker.start()
    url = BrokerUrl("127.0.0.1", broker.port, tls=True)
    with listening(Connection(Access(url, ca_file=str(certificate)), QUICK), Session("a")) as good:
        assert good.n_up == 1
    stranger = Connection(Access(url), QUICK)
    with stranger.open(Session("b"), Listener()):
        until(lambda: "mqtt.ca_file" in stranger.state().fault)
    broker.kill()
