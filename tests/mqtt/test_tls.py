"""A hub's broker as shipped: what its access list lets through, and what TLS says when it fails.

One broker serves all the tests of who may what; those of broken certificates have one of their own.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from fieldstation.mqtt.connection import (
    Access,
    BrokerError,
    BrokerUrl,
    Connection,
    Session,
    Subscription,
)
from fieldstation.records import Message
from tests.deploy.hub import Hub, make_certificates, needs_hub
from tests.mqtt.conftest import QUICK
from tests.mqtt.fakes import Listener, listening, until

pytestmark = needs_hub

ROLES = {"hedge": "station", "wood": "station", "anna": "reader", "logger": "hub"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A running hub with two stations, a reader and a logger."""
    found = Hub(tmp_path_factory.mktemp("hub") / "hub")
    for name, role in ROLES.items():
        found.add(role, name)
    found.start()
    yield found
    found.kill()


@contextmanager
def client(hub: Hub, name: str) -> Iterator[tuple[Connection, Listener]]:
    """Give a user's connection, subscribed to everything, and what it hears."""
    connection = Connection(hub.access(name), QUICK)
    session = Session(f"test-{uuid4().hex}", (Subscription("fieldstation/#", own=True),))
    with listening(connection, session) as listener:
        yield connection, listener


def publish(connection: Connection, listener: Listener, topic: str, payload: bytes = b"{}") -> str:
    """Return why the broker refuses a message to a topic; empty if it takes it."""
    n_before = len(listener.published)
    assert connection.publish(Message(topic, payload, retain=False, qos=1)) is not None
    until(lambda: len(listener.published) > n_before)
    return listener.published[-1][1]


@pytest.mark.parametrize(
    ("name", "kind", "may"),
    [
        ("hedge", "hedge/status", True),
        ("hedge", "hedge/detection", True),
        ("hedge", "hedge/image/png", True),
        ("hedge", "wood/detection", False),
        ("hedge", "wood/logged", False),
        ("hedge", "hedgehog/detection", False),
        ("hedge", "logger/detection", False),
        ("anna", "anna/detection", False),
        ("anna", "hedge/detection", False),
        ("anna", "hedge/logged", False),
        ("logger", "hedge/logged", True),
        ("logger", "hedge/image", True),
        ("logger", "wood/image/png", True),
        ("logger", "hedge/detection", False),
        ("logger", "hedge/status", False),
        ("logger", "logger/coverage", False),
    ],
)
def test_everybody_writes_what_is_theirs_and_nothing_else(
    hub: Hub, name: str, kind: str, may: bool
) -> None:
    """Judged by what arrives at somebody who reads everything, not by the broker's word alone."""
    with client(hub, "anna") as (_, reader), client(hub, name) as (connection, listener):
        refusal = publish(connection, listener, f"fieldstation/{kind}")
        with client(hub, "logger") as (last, said):
            publish(last, said, "fieldstation/wood/logged", b"last")
        until(lambda: any(d.payload == b"last" for d in reader.deliveries))
    arrived = [
        d for d in reader.deliveries if d.topic == f"fieldstation/{kind}" and d.payload == b"{}"
    ]
    if may:
        assert refusal == ""
        assert arrived
    else:
        assert refusal == "Not authorized"
        assert not arrived


def test_a_station_hears_only_what_is_below_its_own_topic(hub: Hub) -> None:
    """Also when it asks for everything, and of what is retained."""
    retained = Message("fieldstation/wood/status", b"{}", retain=True, qos=1)
    with client(hub, "wood") as (wood, told):
        wood.publish(retained)
        until(lambda: told.published)
        with client(hub, "hedge") as (_, hedge), client(hub, "logger") as (logger, said):
            publish(logger, said, "fieldstation/wood/logged")
            publish(logger, said, "fieldstation/hedge/logged")
            until(lambda: hedge.deliveries)
            assert {d.topic for d in hedge.deliveries} == {"fieldstation/hedge/logged"}


@pytest.mark.parametrize(
    "access",
    [
        lambda hub: hub.access("hedge", password="wrong"),
        lambda hub: hub.access("hedge", password=None),
        lambda hub: hub.access("hedge", password=hub.password_of("wood")),
        lambda hub: Access(
            BrokerUrl("localhost", hub.port, tls=True), ca_file=str(hub.folder / "ca.crt")
        ),
    ],
    ids=["wrong", "none", "another's", "nobody"],
)
def test_nobody_gets_in_without_their_own_password(hub: Hub, access: object) -> None:
    """The fault names the user and what to check, and no password."""
    opened = access(hub)  # type: ignore[operator]
    said = fault_of(opened)
    assert "the broker refuses" in said
    assert "mqtt.password_file" in said
    assert "wrong" not in said


def test_without_tls_there_is_nothing_to_talk_to(hub: Hub) -> None:
    """A password sent to this port in the clear is never asked for."""
    url = BrokerUrl("localhost", hub.port, username="hedge")
    assert fault_of(Access(url, hub.password_of("hedge"))) != ""


def test_a_revoked_station_is_cut_off_at_once(hub: Hub) -> None:
    """Not at its next connect, and the others stay."""
    hub.add("station", "shed")
    hub.reload()
    with client(hub, "wood") as (wood, _), client(hub, "shed") as (shed, _):
        assert hub.users("revoke", "shed").returncode == 0
        hub.reload()
        until(lambda: "refuses user 'shed'" in shed.state().fault)
        assert wood.state().n_connected == 1
        assert wood.up


def test_who_knows_a_station_s_name_cannot_take_its_place(hub: Hub) -> None:
    """MQTT throws a client out for another of its id: a reader who tries meets nobody.

    Nor does the reader get what the broker keeps for a logger that is away.
    """
    kept = Session("fieldstation-logger-1", (Subscription("fieldstation/+/detection"),), None, 600)
    with listening(Connection(hub.access("logger"), QUICK), kept):
        pass
    station = Connection(hub.access("hedge"), QUICK)
    with listening(station, Session("fieldstation-key")) as said:
        publish(station, said, "fieldstation/hedge/detection")
        for name in ("fieldstation-key", "fieldstation-logger-1"):
            with listening(Connection(hub.access("anna"), QUICK), Session(name, (), None, 600)):
                publish(station, said, "fieldstation/hedge/detection")
        assert station.state().n_connected == 1
    with listening(Connection(hub.access("logger"), QUICK), kept) as logger:
        until(lambda: len(logger.deliveries) == 3)


# What TLS says


def fault_of(access: Access) -> str:
    """Return what a connection that cannot come up says of it."""
    connection = Connection(access, QUICK)
    with connection.open(Session("test-fault"), Listener()):
        until(lambda: connection.state().fault)
        assert not connection.up
        return connection.state().fault


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another authority, with a client's certificate."""
    folder = tmp_path_factory.mktemp("other") / "hub"
    make_certificates(folder, "--client", "hedge")
    return folder


def test_a_broker_of_another_authority_is_refused(hub: Hub, other: Path) -> None:
    """The station names what it compared with."""
    said = fault_of(hub.access("hedge", ca_file=str(other / "ca.crt")))
    assert "its certificate is signed by" in said
    assert "mqtt.ca_file" in said


def test_the_system_s_authorities_do_not_know_a_hub_s_own(hub: Hub) -> None:
    """Who forgot `ca_file` is told of it."""
    assert "mqtt.ca_file" in fault_of(hub.access("hedge", ca_file=""))


def test_a_certificate_for_another_name_is_refused(hub: Hub) -> None:
    """127.0.0.2 answers, but does not stand in it."""
    hub.kill()
    hub.configure((r"(?m)^(listener \d+) .*$", r"\1"))
    hub.start()
    assert "is for another address" in fault_of(hub.access("hedge", host="127.0.0.2"))


def sign(folder: Path, name: str, days: int, usage: str) -> None:
    """Put another certificate for NAME.key in the place of NAME.crt."""
    authority = folder / "authority"
    (folder / "extensions").write_text(f"subjectAltName=DNS:localhost\nextendedKeyUsage={usage}")
    for command in (
        ["req", "-new", "-key", f"{name}.key", "-subj", "/CN=x", "-out", "request"],
        ["x509", "-req", "-in", "request", "-days", str(days), "-extfile", "extensions",
         "-CA", f"{authority}/ca.crt", "-CAkey", f"{authority}/ca.key", "-set_serial", "7",
         "-out", f"{name}.crt"],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Hub]:
    """A running hub that wants to see a certificate of each station."""
    found = Hub(tmp_path / "hub")
    found.add("station", "hedge")
    make_certificates(found.folder, "--client", "hedge")
    found.configure(("(?m)^#(cafile|require_certificate) ", r"\1 "))
    found.start()
    yield found
    found.kill()


def own(folder: Path) -> dict[str, str]:
    return {
        "certificate_file": str(folder / "clients" / "hedge.crt"),
        "key_file": str(folder / "clients" / "hedge.key"),
    }


def test_a_client_certificate_opens_a_broker_that_wants_one(strict: Hub, other: Path) -> None:
    """With it, up; without, expired, or from elsewhere: each said for what it is."""
    with listening(Connection(strict.access("hedge", **own(strict.folder)), QUICK), Session("t")):
        pass
    assert "set mqtt.certificate_file" in fault_of(strict.access("hedge"))
    assert "authority" in fault_of(strict.access("hedge", **own(other)))
    sign(strict.folder, "clients/hedge", -1, "clientAuth")
    said = fault_of(strict.access("hedge", **own(strict.folder)))
    assert said.startswith("the broker refuses our certificate: our certificate has expired")


def test_an_expired_certificate_of_the_broker_is_named(tmp_path: Path) -> None:
    """And, since a clock may be wrong too, the clock."""
    hub = Hub(tmp_path / "hub")
    hub.add("station", "hedge")
    sign(hub.folder, "server", -1, "serverAuth")
    hub.start()
    said = fault_of(hub.access("hedge"))
    hub.kill()
    assert "its certificate has expired" in said
    assert "clock" in said


def test_certificates_that_cannot_be_used_are_named_before_anything_starts(
    hub: Hub, other: Path, tmp_path: Path
) -> None:
    """The setting, its value and the mend; a key with a passphrase does not wait for one."""
    junk = tmp_path / "junk"
    junk.write_text("junk")
    mine = own(other)
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", mine["key_file"], "-aes128", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    wrong = str(shutil.copy(other / "authority" / "ca.key", tmp_path / "wrong.key"))
    for changes, said in (
        ({"ca_file": "/no/ca.crt"}, "mqtt.ca_file is '/no/ca.crt': No such file"),
        ({"ca_file": str(junk)}, "holds no certificate"),
        ({**mine, "certificate_file": str(junk)}, "is no PEM file"),
        ({**mine, "key_file": ""}, "the key in it, is no PEM file"),
        ({**mine, "key_file": wrong}, "belongs to another certificate"),
        ({**mine, "key_file": str(locked)}, "wants a passphrase"),
        ({**mine, "key_file": str(tmp_path)}, "Is a directory"),
    ):
        with ExitStack() as stack:
            refusal = stack.enter_context(pytest.raises(BrokerError))
            Connection(hub.access("hedge", **changes))
        assert said in str(refusal.value)
