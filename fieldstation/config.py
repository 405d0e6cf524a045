"""Settings: one TOML file and the environment, checked before anything starts.

Order: defaults here, then the file, then `FIELDSTATION_<SECTION>_<KEY>`, then the command line
(which the commands lay on top with `dataclasses.replace`). `example()` writes the file that
`deploy/fieldstation.toml` holds, so that it cannot drift from what is read.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import socket
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fieldstation.errors import MendableError, redacted

ENVIRONMENT_PREFIX = "FIELDSTATION_"
SYSTEM_CONFIG = Path("/etc/fieldstation/fieldstation.toml")
SERVICE_STATE = Path("/var/lib/fieldstation")


class ConfigError(MendableError):
    """A setting that cannot be used; the text names it, its value and the mend."""


def setting(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[Any], str | None] | None = None,
    shown: object = None,
) -> Any:
    """Return a dataclass field that knows its range and its line in the example file.

    Args:
        check: returns what is wrong with a value, or None.
        shown: stands in the example file where the default is None.
    """
    metadata = {
        "doc": doc,
        "low": low,
        "high": high,
        "choices": choices,
        "check": check,
        "shown": shown,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _wrong_zone(name: str) -> str | None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "no IANA time zone: write one such as Europe/Berlin, or remove the line"
    return None


def _wrong_time(text: str) -> str | None:
    if text and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        return 'not a time of day: write HH:MM such as "03:30", or "" for never'
    return None


_BOUND = r"(?:(?:[01]\d|2[0-3]):[0-5]\d|(?:sunrise|sunset|dawn|dusk)(?:[+-]\d{1,3})?)"


def _wrong_hours(text: str) -> str | None:
    if text != "always" and not re.fullmatch(rf"{_BOUND}\.\.{_BOUND}", text):
        return 'not recording hours: "always", "05:00..21:30", or "sunrise-30..sunset+30" (minutes)'
    return None


def _wrong_name(text: str) -> str | None:
    if not re.fullmatch(r"[\w][\w .-]{0,62}", text):
        return "not a station name: letters, digits, space, dot, hyphen; at most 63"
    return None


def _wrong_thresholds(table: Mapping[str, Any]) -> str | None:
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            return f"{name!r} is {value!r}; a probability above 0 and at most 1"
    return None


def _wrong_broker(url: str) -> str | None:
    if redacted(url) != url:
        return "a password in a url is seen by everyone: use mqtt.password_file"
    if url != "embedded" and not re.fullmatch(r"mqtts?://[^/\s]+/?", url):
        return 'not a broker: "embedded", mqtt://host[:port] or mqtts://host[:port]'
    return None


def _wrong_trust(word: str) -> str | None:
    if not word.strip():
        return "nobody, so no message would ever be done: own, any, none, or a logger's id"
    return None


def _wrong_database(url: str) -> str | None:
    if redacted(url) != url:
        return "a password in a url is seen by everyone: use log.password_file"
    if url and "://" not in url:
        return f"not a SQLAlchemy url: sqlite:///{url} or postgresql://…"
    return None


def _wrong_listen(address: str) -> str | None:
    if not address:
        return None
    try:
        split_address(address)
    except ValueError:
        return "not an address: 127.0.0.1:9464, [::1]:9464, or 0.0.0.0:9464 for every network"
    return None


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `192.0.2.7:9464` or `[::1]:9464`.

    Raises:
        ValueError: it is neither.
    """
    from ipaddress import ip_address  # for this one setting only

    host, _, port = address.rpartition(":")
    ip = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    if (ip.version == 6) != host.startswith("[") or not 1 <= int(port) <= 65_535:
        raise ValueError(address)
    return str(ip), int(port)


def system_timezone() -> str:
    """Return the machine's IANA zone, or UTC where it tells none."""
    named = os.environ.get("TZ", "").lstrip(":")
    if named and _wrong_zone(named) is None:
        return named
    for text in (_read_line(Path("/etc/timezone")), _zone_of_link(Path("/etc/localtime"))):
        if text and _wrong_zone(text) is None:
            return text
    return "UTC"


def _read_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _zone_of_link(path: Path) -> str:
    return os.path.realpath(path).partition("/zoneinfo/")[2]


def _host_name() -> str:
    return re.sub(r"[^\w.-]", "-", socket.gethostname())[:63] or "station"


@dataclass(frozen=True, slots=True)
class StationSettings:
    """Who and where the station is."""

    name: str = setting("", "Name below fieldstation/ on the wire; empty: the host's name")
    timezone: str = setting("", "IANA zone of local dates and hours; empty: the machine's")
    place: str = setting("", "Where it stands, in words")
    latitude: float | None = setting(
        None, "Degrees north; sunrise needs it", low=-90, high=90, shown=52.52
    )
    longitude: float | None = setting(
        None, "Degrees east; sunrise needs it", low=-180, high=180, shown=13.4
    )


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """What is listened to."""

    device: str = setting(
        "", "Microphone by name, index or id (`fieldstation devices`); empty: default"
    )
    channel: int = setting(0, "Channel to hear, from 1; 0 mixes all", low=0, high=64)
    dead_s: float = setting(
        60.0,
        "Seconds of nothing but zeros that are a dead microphone; 0: never",
        low=0,
        high=86_400,
    )


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What names the birds."""

    bundle: str = setting("", "Bundle by name or folder; empty: the one in use, else the shipped")
    provider: str = setting("auto", "Where the encoder runs", choices=("auto", "cpu", "cuda"))
    threads: int = setting(1, "Threads of the encoder", low=1, high=64)
    hop_s: float = setting(0.0, "Seconds between windows; 0: half a window", low=0, high=60)
    thresholds: dict[str, float] = setting(
        {}, "Probability that a species must reach, over the bundle's own", check=_wrong_thresholds
    )


@dataclass(frozen=True, slots=True)
class EventSettings:
    """How windows become events."""

    max_event_s: float = setting(
        30.0, "An event is closed and written at this length", low=1, high=600
    )


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """Recordings of events. `clips = false` on one line turns them off."""

    enabled: bool = setting(True, "Keep a recording of each event in which no human voice is found")
    pre_roll_s: float = setting(3.0, "Seconds kept before the event", low=0, high=30)
    post_roll_s: float = setting(3.0, "Seconds kept after the event", low=0, high=30)
    max_age_days: int = setting(90, "Older clips are removed; 0: never", low=0, high=36_500)
    max_size_mb: int = setting(
        2_000, "Beyond it the oldest clips are removed", low=1, high=10_000_000
    )


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """The broker."""

    url: str = setting(
        "embedded", "embedded, mqtt://host[:port] or mqtts://host[:port]", check=_wrong_broker
    )
    username: str = setting("", "User at the broker")
    password_file: str = setting("", "File that holds the password; or FIELDSTATION_MQTT_PASSWORD")
    ca_file: str = setting("", "Certificate authority of an mqtts:// broker; empty: the system's")
    certificate_file: str = setting("", "Our certificate, where an mqtts:// broker wants one")
    key_file: str = setting("", "Its key; empty: in certificate_file too")
    port: int = setting(1883, "First choice of the embedded broker", low=0, high=65_535)
    trust: str = setting(
        "own",
        "Logger whose receipt ends a message: own, any, none (PUBACK suffices), or a logger's id",
        check=_wrong_trust,
    )
    embedding: bool | None = setting(
        None,
        "Send the call's embedding with each detection; not set: where pictures are painted",
        shown=True,
    )
    outbox_max_mb: int = setting(
        1_000,
        "Disk for events that wait for their receipt; a full outbox hears nothing, and says so",
        low=1,
        high=10_000_000,
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log that people query."""

    enabled: bool = setting(True, "Write a log here; false for a station that a hub logs")
    database: str = setting(
        "", "SQLAlchemy url; empty: sqlite log.db in the state folder", check=_wrong_database
    )
    password_file: str = setting(
        "", "File that holds the database's password; or PGPASSWORD, or PostgreSQL's ~/.pgpass"
    )
    max_age_days: int = setting(
        0, "Months older than this leave the log; 0: never", low=0, high=36_500
    )


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Pictures of the callers, painted from their calls."""

    enabled: bool | None = setting(
        None, "Have events painted; not set: where the bundle paints", shown=True
    )
    which: str = setting(
        "every",
        "Of them: every one, daily the first of each species, hourly at most per_hour",
        choices=("every", "daily", "hourly"),
    )
    per_hour: int = setting(12, "Pictures of an hour of birds", low=1, high=10_000)
    min_probability: float = setting(0.0, "Less probable events are not painted", low=0, high=1)
    queue: int = setting(
        1_000, "Most that may wait; beyond it the oldest give way", low=1, high=100_000
    )
    worker: bool = setting(
        True, "At a terminal `run` starts the worker too; a service has a unit for it"
    )
    runtime: str = setting(
        "onnxruntime",
        "What computes them; torch is not installed with the station",
        choices=("onnxruntime", "torch"),
    )
    provider: str = setting("auto", "Where it paints", choices=("auto", "cpu", "cuda"))
    threads: int = setting(1, "Threads of the generator on a CPU", low=1, high=64)
    keep_days: int = setting(30, "Days for which an event can be painted again", low=1, high=36_500)
    max_age_days: int = setting(365, "Older pictures are removed; 0: never", low=0, high=36_500)
    max_size_mb: int = setting(
        1_000, "Beyond it the oldest pictures are removed", low=1, high=10_000_000
    )


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """What happens by the clock, in the station's zone."""

    recording: str = setting(
        "always", "Hours: always, 05:00..21:30 or sunrise-30..sunset+30", check=_wrong_hours
    )
    backup_at: str = setting(
        "03:30", "Nightly backup of both databases; empty: never", check=_wrong_time
    )
    backups_kept: int = setting(7, "Backups kept", low=1, high=1_000)
    summary_at: str = setting("21:00", "Daily summary; empty: never", check=_wrong_time)


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """Numbers for Prometheus."""

    listen: str = setting(
        "", "Address to serve /metrics at, such as 127.0.0.1:9464; empty: none", check=_wrong_listen
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked."""

    station: StationSettings = field(default_factory=StationSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    events: EventSettings = field(default_factory=EventSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    mqtt: MqttSettings = field(default_factory=MqttSettings)
    log: LogSettings = field(default_factory=LogSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read, lay the environment on top, and check.

    Args:
        path: the TOML file; None means defaults and environment only.
        environment: `os.environ` unless told.

    Raises:
        ConfigError: unreadable file, unknown section or key, wrong type or range.
    """
    tables = _read_toml(path) if path else {}
    if isinstance(tables.get("clips"), bool):
        tables["clips"] = {"enabled": tables["clips"]}
    where = str(path) if path else "settings"
    sections = {f.name: f for f in fields(Settings)}
    for name, table in tables.items():
        if name not in sections:
            raise ConfigError(f"{where}: {_unknown(name, sections, 'section')}")
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: {name} is {table!r}; it must be a section: [{name}]")
    overlay = _from_environment(os.environ if environment is None else environment)
    settings = Settings(
        **{
            name: _section(_section_class(f), name, tables.get(name, {}), overlay, where)
            for name, f in sections.items()
        }
    )
    return _complete(settings)


def with_option(settings: Settings, option: str, name: str, value: Any) -> Settings:
    """Return the settings with one value from the command line, checked as the file's are.

    Args:
        option: what the user wrote, such as `--channel`, for the error's text.
        name: the setting, `section.key`.

    Raises:
        ConfigError: wrong type or range.
    """
    section, _, key = name.partition(".")
    table = getattr(settings, section)
    (found,) = (f for f in fields(table) if f.name == key)
    checked = _checked(type(table), found, value, option)
    changed: Any = {section: replace(table, **{key: checked})}
    return _complete(replace(settings, **changed))


def read_password(
    settings: MqttSettings, environment: Mapping[str, str] | None = None
) -> str | None:
    """Return the broker's password from the environment or its file, or None.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    environment = os.environ if environment is None else environment
    if secret := environment.get("FIELDSTATION_MQTT_PASSWORD"):
        return secret
    return _read_secret("mqtt.password_file", settings.password_file, environment)


def read_log_password(
    settings: LogSettings, environment: Mapping[str, str] | None = None
) -> str | None:
    """Return the database's password from its file, or None: its driver may know another way.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    environment = os.environ if environment is None else environment
    return _read_secret("log.password_file", settings.password_file, environment)


def secret_path(name: str, environment: Mapping[str, str] | None = None) -> str:
    """Return where a file of the settings is: a bare name may be one of systemd's credentials."""
    environment = os.environ if environment is None else environment
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder or not name or "/" in name:
        return name
    credential = Path(folder) / name
    return str(credential) if credential.exists() else name


def _read_secret(setting: str, name: str, environment: Mapping[str, str]) -> str | None:
    if not name:
        return None
    # Whoever writes the password itself there shall not read it in the journal.
    shown = repr(name) if "/" in name else "a bare name (not shown: it may be the password itself)"
    try:
        secret = Path(secret_path(name, environment)).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(
            f"{setting} is {shown}: {reason}: name a file that this user may read"
        ) from None
    if not secret:
        raise ConfigError(f"{setting} is {shown}: the file is empty: write the password into it")
    return secret


def find_state(given: str | None, environment: Mapping[str, str] | None = None) -> Path:
    """Return the state folder: `--state`, $STATE_DIRECTORY, an installed service's, or XDG's.

    Raises:
        ConfigError: there is an installed service's, which this user may not use.
    """
    environment = os.environ if environment is None else environment
    if given:
        return Path(given)
    if systemd := environment.get("STATE_DIRECTORY"):
        return Path(systemd.split(":")[0])
    if _is_there(SERVICE_STATE / "station.key"):
        return SERVICE_STATE
    home = environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "fieldstation"


def find_config(given: str | None, state: Path) -> Path | None:
    """Return the file named, else the state folder's, else the system's, else None.

    Raises:
        ConfigError: a file was named and is not there, or this user may not look.
    """
    if given:
        if not Path(given).is_file():
            raise ConfigError(f"--config is {given!r}: no such file: name an existing TOML file")
        return Path(given)
    for path in (state / "fieldstation.toml", SYSTEM_CONFIG):
        if _is_there(path):
            return path
    return None


def _is_there(path: Path) -> bool:
    """Return whether there is anything at a path, be it a link that leads nowhere.

    Raises:
        ConfigError: this user may not look.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: name another folder with --state, or join the group that "
            "may use this one"
        ) from error
    return True


def example() -> str:
    """Return a TOML file in which every setting stands, commented out, at its default."""
    lines = ["# fieldstation: every setting with its default. Remove the # of what you change."]
    for section in fields(Settings):
        kind = _section_class(section)
        lines += ["", f"# {(kind.__doc__ or '').strip()}", f"[{section.name}]"]
        for key in fields(kind):
            lines.append(f"# {key.metadata['doc']}{_range_text(key)}")
            lines.append(f"#{key.name} = {_toml(_default(key))}")
    return "\n".join(lines) + "\n"


def _complete(settings: Settings) -> Settings:
    """Fill in what the machine tells, and check what only makes sense together."""
    station = replace(
        settings.station,
        name=settings.station.name or _host_name(),
        timezone=settings.station.timezone or system_timezone(),
    )
    for key, wrong in (("name", _wrong_name), ("timezone", _wrong_zone)):
        if problem := wrong(getattr(station, key)):
            raise ConfigError(f"station.{key} is {getattr(station, key)!r}: {problem}")
    sunny = re.search("sun|dawn|dusk", settings.schedule.recording)
    if sunny and (station.latitude is None or station.longitude is None):
        raise ConfigError(
            f"schedule.recording is {settings.schedule.recording!r}, but station.latitude and "
            "station.longitude are not set: set both, or give hours by the clock"
        )
    if problem := _wrong_encryption(settings.mqtt):
        raise ConfigError(problem)
    return replace(settings, station=station)


def _wrong_encryption(mqtt: MqttSettings) -> str | None:
    if mqtt.key_file and not mqtt.certificate_file:
        return (
            f"mqtt.key_file is {mqtt.key_file!r}, but mqtt.certificate_file is not set: "
            "name the certificate that the key belongs to"
        )
    for key in ("ca_file", "certificate_file"):
        if (path := getattr(mqtt, key)) and mqtt.url.startswith("mqtt://"):
            return (
                f"mqtt.{key} is {path!r}, but {mqtt.url} is not encrypted: write mqtts://, or "
                "remove the line"
            )
    return None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}: name a readable file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Return {(section, key): text} of the variables that name a section of ours."""
    overlay: dict[tuple[str, str], str] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == "FIELDSTATION_MQTT_PASSWORD":
            continue
        section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        if key and any(section == f.name for f in fields(Settings)):
            overlay[section, key] = text
    return overlay


def _section(
    kind: type[Any],
    name: str,
    table: Mapping[str, Any],
    overlay: Mapping[tuple[str, str], str],
    where: str,
) -> Any:
    known = {f.name: f for f in fields(kind)}
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{where}: {_unknown(f'{name}.{key}', _full(name, known), 'setting')}"
            )
    values = {k: _checked(kind, known[k], v, f"{where}: {name}.{k}") for k, v in table.items()}
    for (section, key), text in overlay.items():
        if section != name:
            continue
        variable = f"{ENVIRONMENT_PREFIX}{name}_{key}".upper()
        if key not in known:
            raise ConfigError(
                f"{variable}: {_unknown(f'{name}.{key}', _full(name, known), 'setting')}"
            )
        values[key] = _checked(kind, known[key], _from_text(kind, known[key], text), variable)
    return kind(**values)


def _full(section: str, known: Mapping[str, object]) -> list[str]:
    return [f"{section}.{key}" for key in known]


def _unknown(name: str, known: typing.Iterable[str], what: str) -> str:
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown {what} {name}: the nearest is {nearest[0]}; known are {', '.join(known)}"


def _from_text(kind: type[Any], key: Field[Any], text: str) -> Any:
    """Read an environment variable's text as the setting's type; `_checked` judges the result."""
    wanted = _types(kind)[key.name]
    if wanted is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(kind: type[Any], key: Field[Any], value: Any, where: str) -> Any:
    wanted = _types(kind)[key.name]
    value = float(value) if wanted is float and type(value) is int else value
    if type(value) is not wanted:
        raise ConfigError(
            f"{where} is {value!r}; it must be {_type_name(wanted)}{_range_text(key)}"
        )
    low, high = key.metadata["low"], key.metadata["high"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside = (low is None or value >= low) and (high is None or value <= high)
        if not (math.isfinite(value) and inside):
            raise ConfigError(f"{where} is {value}; it must be a number{_range_text(key)}")
    if (choices := key.metadata["choices"]) and value not in choices:
        raise ConfigError(f"{where} is {value!r}; one of {', '.join(choices)}")
    if (check := key.metadata["check"]) and (problem := check(value)):
        # What is wrong with a url may be its password, which no error shows.
        shown = redacted(value) if isinstance(value, str) else value
        raise ConfigError(f"{where} is {shown!r}: {problem}")
    return value


def _types(kind: type[Any]) -> dict[str, type[Any]]:
    """Return each setting's plain type: `float | None` counts as float, dict[...] as dict."""
    plain: dict[str, type[Any]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        choices = [t for t in typing.get_args(hint) if t is not type(None)]
        optional = type(None) in typing.get_args(hint)
        plain[name] = choices[0] if optional else (typing.get_origin(hint) or hint)
    return plain


def _section_class(section: Field[Any]) -> type[Any]:
    return typing.cast("type[Any]", typing.get_type_hints(Settings)[section.name])


def _type_name(kind: type[Any]) -> str:
    names = {str: "text in quotes", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(kind, "a table")


def _range_text(key: Field[Any]) -> str:
    low, high, choices = key.metadata["low"], key.metadata["high"], key.metadata["choices"]
    if choices:
        return f" ({', '.join(choices)})"
    return f" ({low:,} to {high:,})" if low is not None and high is not None else ""


def _default(key: Field[Any]) -> Any:
    default = key.default_factory() if callable(key.default_factory) else key.default
    return key.metadata["shown"] if default is None else default


def _toml(value: Any) -> str:
    return "{}" if value == {} else json.dumps(value)
