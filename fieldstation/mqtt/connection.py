"""A connection to a broker that mends itself. The only importer of paho.

One network thread connects, serves, and after a loss waits with back-off and connects again.
Every attempt has a paho client of its own, so nothing of an earlier one lives on: what was in
flight is the publisher's to send again, and an acknowledgement that comes too late is dropped.
What arrives is handed to a `Listener`, whose methods run in that thread and only take note.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from fieldstation.errors import MendableError, redacted
from fieldstation.mqtt.backoff import Backoff
from fieldstation.records import Message

log = logging.getLogger(__name__)

PORT, TLS_PORT = 1883, 8883
LONGEST_SOCKET_PATH = 107
"""Bytes: unix(7)"""
LOOP_S = 0.25
"""Longest sleep of the network thread: how soon it sees that it shall end"""
LEAVE_S = 2.0
"""How long a goodbye may take before the socket is closed without"""
SERVER_DEFAULT_RECEIVE_MAXIMUM = 65_535
"""MQTT 5, 3.2.2.3.3: what a broker that names none takes"""
N_SHORT_LIVES = 3
"""Connections lost soon after they came up, in a row, before we suspect a second client"""
TAKEN_OVER = "does another client have our id, that is, does a copy of this state folder run?"
REFUSED_CREDENTIALS = ("Bad user name or password", "Not authorized")
REFUSED_CERTIFICATES = {
    "CERTIFICATE_EXPIRED": "our certificate has expired: renew mqtt.certificate_file",
    "CERTIFICATE_REQUIRED": "it wants to see one: set mqtt.certificate_file and mqtt.key_file",
    "CERTIFICATE_REVOKED": "our certificate is revoked: get a new mqtt.certificate_file",
    "UNKNOWN_CA": "another authority signed ours: get mqtt.certificate_file from the broker's",
}
"""What a broker answers in TLS (RFC 8446, 6.2), by the last words of OpenSSL's name for it"""
CERTIFICATE_FAULTS = {
    9: "is not valid yet: set this machine's clock, or the one that made it",
    10: "has expired: renew it at the broker, or set this machine's clock",
    18: "is signed by itself: name it, or the authority, in mqtt.ca_file",
    19: "is signed by an authority that is not in mqtt.ca_file",
    20: "is signed by an authority that is not in mqtt.ca_file",
    62: "is for another name: write mqtt.url with a name that stands in it",
    64: "is for another address: write mqtt.url with a name or address that stands in it",
}
"""By the number of openssl/x509_vfy.h"""

Ticket = tuple[int, int]
"""Names one publish: number of the connection, packet id"""


class BrokerError(MendableError):
    """A broker's url, files or program cannot be used as configured."""


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where a broker listens."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Return the parts of `mqtt://[user@]host[:port]`, or `mqtts://` for TLS.

        Raises:
            BrokerError: it is none of these, or holds a password.
        """
        shown = redacted(text)
        try:
            parts = urlsplit(text)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError:
            # The cause's own text may quote a password that was taken for a port.
            raise BrokerError(
                f"mqtt.url is {shown!r}, in which host or port cannot be read: mqtt://host:1883"
            ) from None
        if parts.password is not None:
            raise BrokerError("mqtt.url holds a password: move it to the file mqtt.password_file")
        if parts.scheme not in ("mqtt", "mqtts") or not host or parts.path.strip("/"):
            raise BrokerError(f"mqtt.url is {shown!r}; mqtt://host:1883 or mqtts://host:8883")
        tls = parts.scheme == "mqtts"
        return cls(host, port or (TLS_PORT if tls else PORT), tls, parts.username or None)

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Access:
    """A broker and what opens it. The password is in no text of this value."""

    url: BrokerUrl
    password: str | None = field(default=None, repr=False)
    ca_file: str = ""
    """Authority that signed the broker's certificate; empty: those of the system"""
    certificate_file: str = ""
    """The client's own certificate, where the broker wants one"""
    key_file: str = ""
    socket: str = ""
    """Path of a Unix socket that leads to the same broker: where it stands, nobody but the owner
    of its folder can listen, while a port that falls free is anybody's"""

    @property
    def name(self) -> str:
        """Return where it leads, for people."""
        return self.socket or str(self.url)

    def client_id(self, name: str) -> str:
        """Return a client id that nobody without our password can guess; the same every time.

        Whoever connects with another client's id throws it out, and gets what the broker kept for
        it: MQTT's rule, whatever user it is. And our names are in what we publish.
        """
        if not self.password:
            return name
        digest = hmac.new(self.password.encode(), name.encode(), "sha256").hexdigest()
        return f"{name}-{digest[:16]}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what mqtts:// needs, None for mqtt://.

        Raises:
            BrokerError: a file cannot be used.
        """
        if not self.url.tls:
            return None
        for name in ("ca_file", "certificate_file", "key_file"):
            if path := getattr(self, name):
                _check_readable(f"mqtt.{name}", path)
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except ssl.SSLError as error:
            raise BrokerError(
                f"mqtt.ca_file is {self.ca_file!r}: it holds no certificate: name a PEM file"
            ) from error
        if self.certificate_file:
            self._load_own(context)
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        try:
            # Without a function for the passphrase, OpenSSL would wait for one at the terminal.
            context.load_cert_chain(self.certificate_file, self.key_file or None, lambda: "")
        except ssl.SSLError as error:
            key = f"mqtt.key_file {self.key_file!r}" if self.key_file else "the key in it"
            wrong = (
                f"{key} belongs to another certificate"
                if error.reason == "KEY_VALUES_MISMATCH"
                else f"it, or {key}, is no PEM file, or wants a passphrase"
            )
            raise BrokerError(
                f"mqtt.certificate_file is {self.certificate_file!r}: {wrong}: name a certificate "
                "and its key, without a passphrase"
            ) from error


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a connection is, in seconds."""

    keepalive_s: int = 30
    """A silent broker is noticed within twice this"""
    connect_s: float = 10.0
    """For the TCP connection, and again for the broker's answer"""
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    stable_s: float = 10.0
    """A connection that lasted so long was good: the next loss begins with the first wait"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter, QoS 1."""

    filter: str
    own: bool = False
    """Whether what this very connection publishes comes back"""


@dataclass(frozen=True, slots=True)
class Session:
    """What a stage wants of its connection."""

    client_id: str
    subscriptions: tuple[Subscription, ...] = ()
    will: Message | None = None
    """What the broker says for us when we are gone, also after a clean goodbye"""
    expiry_s: int = 0
    """How long the broker keeps subscriptions and unacknowledged messages; 0: not at all"""
    manual_ack: bool = False
    receive_maximum: int = 500
    """QoS 1 messages that the broker may leave unacknowledged with us"""
    maximum_packet: int = 512 * 1024
    """Bytes; larger ones the broker does not send us"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message from the broker."""

    topic: str
    payload: bytes
    retained: bool
    ticket: Ticket
    qos: int


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """For health and `check`."""

    up: bool
    fault: str
    """Why not, or what the broker refuses; empty when all is well"""
    n_connected: int
    """How often it came up since the start"""


class Listener(Protocol):
    """Who is told; called in the network thread, so take note and return."""

    def on_up(self) -> None:
        """The broker accepted us, and answered to our subscriptions."""
        ...

    def on_message(self, delivery: Delivery) -> None:
        """A message arrived."""
        ...

    def on_published(self, ticket: Ticket, refusal: str) -> None:
        """The broker has it, or refuses it with this reason."""
        ...


class Connection:
    """A connection that is kept up from `open` to its end."""

    def __init__(self, access: Access, timing: Timing = Timing()) -> None:
        self.access = access
        self._timing = timing
        self._tls = access.tls_context()
        self._life: _Life | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._fault = ""
        self._n_connected = 0

    @property
    def up(self) -> bool:
        """Return whether the broker has accepted us, answered to our subscriptions, and no loss is
        known: what is published now reaches who listens here.
        """
        life = self._life
        return life is not None and life.up

    @property
    def receive_maximum(self) -> int:
        """Return how many unacknowledged QoS 1 messages the broker takes."""
        life = self._life
        return life.receive_maximum if life else SERVER_DEFAULT_RECEIVE_MAXIMUM

    def state(self) -> ConnectionState:
        """Return how it is, for health."""
        return ConnectionState(self.up, self._fault, self._n_connected)

    @contextmanager
    def open(self, session: Session, listener: Listener) -> Iterator[None]:
        """Keep the connection up inside the `with`; at its end say goodbye."""
        self._closing.clear()
        self._thread = threading.Thread(
            target=self._keep_up, args=(session, listener), name=session.client_id, daemon=True
        )
        self._thread.start()
        try:
            yield
        finally:
            self._closing.set()
            if (life := self._life) is not None:
                life.say_goodbye()
            self._thread.join(self._timing.connect_s + 2 * LEAVE_S)
            self._thread = None

    def check(self) -> None:
        """See that the network thread lives.

        Raises:
            RuntimeError: an unexpected exception ended it; its traceback went to stderr.
        """
        if self._thread is not None and not self._thread.is_alive():
            raise RuntimeError(f"the network thread of {self.access.name} ended unexpectedly")

    def publish(self, message: Message) -> Ticket | None:
        """Hand a message to the network thread; None when there is no connection to take it."""
        life = self._life
        return life.publish(message) if life is not None and life.up else None

    def acknowledge(self, delivery: Delivery) -> None:
        """Tell the broker that a delivery is done with; nothing if its connection is gone."""
        life = self._life
        if life is not None and life.number == delivery.ticket[0]:
            life.acknowledge(delivery)

    def renew(self, reason: str) -> None:
        """Give the present connection up, as lost for this reason, and connect again."""
        life = self._life
        if life is not None:
            life.give_up(reason)

    def report(self, fault: str) -> None:
        """Log a fault once, however often it comes, and show it until the next connection."""
        if fault != self._fault:
            log.warning("%s: %s", self.access.name, fault)
        self._fault = fault

    def _keep_up(self, session: Session, listener: Listener) -> None:
        backoff = Backoff(self._timing.first_wait_s, self._timing.longest_wait_s)
        number = n_short = 0
        while not self._closing.is_set():
            number += 1
            life = self._life = _Life(number, self, session, listener, self._tls, self._timing)
            began = time.monotonic()
            ended = life.live(self._closing)
            self._life = None
            if self._closing.is_set():
                return
            lasted = life.was_up and time.monotonic() - began >= self._timing.stable_s
            n_short = n_short + 1 if life.was_up and not lasted else 0
            if lasted:
                backoff.reset()
            # Mosquitto 2.0 closes the older of two without the reason that MQTT 5 has for it.
            suspicion = (
                f" {n_short} times at once: {TAKEN_OVER}" if n_short >= N_SHORT_LIVES else ""
            )
            self.report(f"{ended}{suspicion}; trying again")
            self._closing.wait(backoff.next())

    def _came_up(self) -> None:
        self._n_connected += 1
        self._fault = ""
        log.info("%s: connected", self.access.name)


class _Life:
    """One connection from its attempt to its end, around one paho client."""

    def __init__(
        self,
        number: int,
        connection: Connection,
        session: Session,
        listener: Listener,
        tls: ssl.SSLContext | None,
        timing: Timing,
    ) -> None:
        self.number = number
        self.up = False
        self.was_up = False
        self._said_goodbye = False
        self.receive_maximum = SERVER_DEFAULT_RECEIVE_MAXIMUM
        self._connection = connection
        self._session = session
        self._listener = listener
        self._timing = timing
        self._ended = ""
        self._client = self._make_client(tls)

    def live(self, closing: threading.Event) -> str:
        """Connect and serve until it ends; return why, in words."""
        try:
            self._connect()
            self._serve(closing)
        except OSError as error:  # refused, unreachable, unknown host, certificate
            self._end(f"cannot connect: {_in_words(error)}")
        finally:
            self.up = False
            self._release()
        return self._ended

    def publish(self, message: Message) -> Ticket | None:
        """Queue a message for the socket."""
        sent = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        return (self.number, sent.mid) if sent.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def acknowledge(self, delivery: Delivery) -> None:
        """Queue a PUBACK."""
        self._client.ack(delivery.ticket[1], delivery.qos)

    def say_goodbye(self) -> None:
        """Queue a DISCONNECT on which the broker tells our will; any thread."""
        if self.up and not self._said_goodbye:
            self._said_goodbye = True
            reason = (
                "Disconnect with will message" if self._session.will else "Normal disconnection"
            )
            self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, reason))

    def give_up(self, reason: str) -> None:
        """End at the network thread's next turn."""
        self.up = False
        self._end(reason)

    def _connect(self) -> None:
        access = self._connection.access
        with (
            _within_reach(access.socket) if access.socket else nullcontext(access.url.host) as host
        ):
            self._client.connect(
                host,
                access.url.port,
                self._timing.keepalive_s,
                clean_start=self._session.expiry_s == 0,
                properties=self._connect_properties(),
            )

    def _make_client(self, tls: ssl.SSLContext | None) -> mqtt.Client:
        access = self._connection.access
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=access.client_id(self._session.client_id),
            protocol=mqtt.MQTTv5,
            transport="unix" if access.socket else "tcp",
            manual_ack=self._session.manual_ack,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self._timing.connect_s
        client.max_inflight_messages = 0  # the publisher counts; paho's default of 20 queues more
        client.username_pw_set(access.url.username, access.password)
        if tls is not None:
            client.tls_set_context(tls)
        if will := self._session.will:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_socket_open = _send_at_once
        if tls is not None:
            client.on_log = self._on_log
        # Any function here makes paho leave all writing to the thread that calls `loop`; without
        # one, `publish` and `ack` would write to the socket from their callers' threads.
        client.on_socket_register_write = _nothing_to_do
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _connect_properties(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session.expiry_s
        properties.ReceiveMaximum = self._session.receive_maximum
        properties.MaximumPacketSize = self._session.maximum_packet
        return properties

    def _serve(self, closing: threading.Event) -> None:
        deadline = time.monotonic() + self._timing.connect_s
        while self._client.loop(LOOP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS and not self._ended:
            if closing.is_set():
                self._leave()
                break
            if not self.was_up and time.monotonic() > deadline:
                self._end(f"no answer to CONNECT within {self._timing.connect_s:g} s")
        self._end("connection lost")

    def _leave(self) -> None:
        """Send what waits, and the goodbye behind it, unless the broker takes nothing."""
        self.say_goodbye()
        deadline = time.monotonic() + LEAVE_S
        while self._client.loop(LOOP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            if time.monotonic() > deadline:
                return

    def _release(self) -> None:
        """Close the socket, and let go of the client, whose socket pair ends with it."""
        if (left := self._client.socket()) is not None:
            left.close()
        for name in ("connect", "disconnect", "subscribe", "message", "publish"):
            setattr(self._client, f"on_{name}", None)

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason

    def _on_log(self, _client: mqtt.Client, _data: Any, level: int, text: str) -> None:
        """Take note of why TLS ended: with TLS 1.3 a refusal comes after the handshake."""
        alert = re.search(r"SSL: \w*ALERT_(\w+)\]", text) if level == mqtt.MQTT_LOG_ERR else None
        if alert:
            self._end(_certificate_refused(alert[1]))

    def _on_connect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._end(self._refusal(str(reason)))
            return
        self._client.on_log = None  # paho would put every message into words for it
        self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
        if not self._subscribe():
            self._come_up()

    def _come_up(self, refusals: Iterable[str] = ()) -> None:
        self._connection._came_up()
        self.up = self.was_up = True
        for refusal in refusals:
            self._connection.report(refusal)
        self._listener.on_up()

    def _subscribe(self) -> bool:
        """Ask for our subscriptions; return whether there are any."""
        filters = [
            (wanted.filter, SubscribeOptions(qos=1, noLocal=not wanted.own))
            for wanted in self._session.subscriptions
        ]
        if filters:
            self._client.subscribe(filters)
        return bool(filters)

    def _refusal(self, reason: str) -> str:
        url = self._connection.access.url
        if reason not in REFUSED_CREDENTIALS:
            return f"the broker refuses us: {reason}"
        who = f"user {url.username!r}" if url.username else "a client without a user name"
        return f"the broker refuses {who}: {reason}: check mqtt.username and mqtt.password_file"

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self.up = False
        words = str(reason)
        if words == "Session taken over":
            words += f": {TAKEN_OVER}"
        if flags.is_disconnect_packet_from_server:
            self._end(f"the broker ended the connection: {words}")
        elif words == "Unspecified error":  # what paho makes of a closed socket
            self._end("connection lost")
        else:
            self._end(f"connection lost: {words}")

    def _on_subscribe(
        self, _client: mqtt.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _p: Any
    ) -> None:
        self._come_up(
            f"the broker refuses the subscription to {wanted.filter}: {reason}: "
            "check its access list"
            for wanted, reason in zip(self._session.subscriptions, reasons, strict=False)
            if reason.is_failure
        )

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        ticket = (self.number, message.mid)
        self._listener.on_message(
            Delivery(message.topic, bytes(message.payload), message.retain, ticket, message.qos)
        )

    def _on_publish(
        self, _client: mqtt.Client, _data: Any, mid: int, reason: ReasonCode, _properties: Any
    ) -> None:
        self._listener.on_published((self.number, mid), str(reason) if reason.is_failure else "")


@contextmanager
def _within_reach(path: str) -> Iterator[str]:
    """Give a name of a Unix socket that the kernel takes: one too long is reached by its folder."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        yield path
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


def _send_at_once(_client: mqtt.Client, _data: Any, opened: Any) -> None:
    """Switch Nagle's algorithm off: it holds a small packet back until the last was answered."""
    if isinstance(opened, socket.socket) and opened.family != socket.AF_UNIX:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _nothing_to_do(_client: mqtt.Client, _data: Any, _socket: Any) -> None:
    pass


def _in_words(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        told = error.verify_message
        mend = CERTIFICATE_FAULTS.get(error.verify_code, "cannot be used: see mqtt.ca_file")
        return f"its certificate {mend} ({told})"
    if isinstance(error, ssl.SSLError):
        _, alert, name = (error.reason or "").rpartition("ALERT_")
        return _certificate_refused(name) if alert else f"no TLS with it: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error)


def _certificate_refused(alert: str) -> str:
    """Return a broker's alert in words, where it is about our certificate."""
    mend = REFUSED_CERTIFICATES.get(alert)
    said = alert.replace("_", " ").lower()
    return f"the broker refuses our certificate: {mend}" if mend else f"the broker ends TLS: {said}"


def _check_readable(setting: str, path: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise BrokerError(
            f"{setting} is {path!r}: {error.strerror}: name a PEM file that this user may read"
        ) from error
