"""Settings: what is read, and what is refused in one line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from fieldstation import config
from fieldstation.config import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "fieldstation.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_run_without_a_file() -> None:
    """No file and no environment give a whole station, named after the host."""
    settings = config.load(None, {})
    assert settings.mqtt.url == "embedded"
    assert settings.station.name
    assert settings.station.timezone


def test_a_file_is_laid_over_the_defaults_and_the_environment_over_the_file(tmp_path: Path) -> None:
    """The order is default, file, environment."""
    path = write(tmp_path, '[station]\nname = "wood"\n[events]\nmax_event_s = 12\n')
    settings = config.load(
        path, {"FIELDSTATION_STATION_NAME": "hedge", "FIELDSTATION_MODEL_THREADS": "2"}
    )
    assert settings.station.name == "hedge"
    assert settings.events.max_event_s == 12.0
    assert settings.model.threads == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[station]\nnaem = 1", r"unknown setting station\.naem: the nearest is station\.name"),
        ("[sttion]\nname = 'a'", r"unknown section sttion: the nearest is station"),
        ("[model]\nthreads = 0", r"model\.threads is 0; .*1 to 64"),
        ("[model]\nthreads = '2'", r"model\.threads is '2'; .*whole number"),
        ("[model]\nthreads = true", r"model\.threads is True"),
        ("[events]\nmax_event_s = nan", r"events\.max_event_s is nan"),
        ("[generation]\nruntime = 'jax'", r"runtime is 'jax'; one of onnxruntime, torch"),
        ("[model]\nprovider = 'gpu'", r"model\.provider is 'gpu'; one of auto, cpu, cuda"),
        ("[model]\nthresholds = {a = 2}", r"'a' is 2; a probability"),
        ("[schedule]\nbackup_at = '25:00'", r"'25:00': not a time of day"),
        ("[schedule]\nrecording = 'sunrise..moon'", "not recording hours"),
        ("[schedule]\nrecording = 'sunrise..sunset'", "station.latitude"),
        ("[station]\ntimezone = 'Mars/Base'", "no IANA time zone"),
        ("[station]\nname = 'a/b'", "not a station name"),
        ("[mqtt]\nurl = 'http://x'", "not a broker"),
        ("[mqtt]\nurl = 'mqtt://a:secret@x'", r"'mqtt://a:\*\*\*@x': .*password_file"),
        ("[mqtt]\nurl = 'mqtt://a:s@cr@t@x'", r"'mqtt://a:\*\*\*@x': .*password_file"),
        ("[mqtt]\nkey_file = '/k'", r"mqtt\.key_file is '/k', but mqtt\.certificate_file"),
        ("[mqtt]\nca_file = '/ca'\nurl = 'mqtt://x'", r"mqtt\.ca_file is '/ca', .* write mqtts"),
        ("[mqtt]\ntrust = ' '", "mqtt.trust is ' ': nobody"),
        ("[log]\ndatabase = 'postgresql://a:secret@x/b'", r"'postgresql://a:\*\*\*@x/b': .*file"),
        ("[log]\ndatabase = 'postgresql:///b?password=x'", r"password=\*\*\*': .*password_file"),
        ("[log]\ndatabase = 'birds.db'", r"sqlite:///birds\.db"),
        ("[metrics]\nlisten = ':9464'", "metrics.listen is ':9464': not an address"),
        ("[metrics]\nlisten = '127.0.0.1:0'", "not an address"),
        ("[metrics]\nlisten = '::1:9464'", r"not an address: .*\[::1\]:9464"),
        ("clips = 3", "it must be a section"),
        ("[station", "not valid TOML"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_value_and_mend(
    tmp_path: Path, text: str, said: str
) -> None:
    """Every refusal is one line that tells the setting and what it must be."""
    with pytest.raises(ConfigError, match=said) as refusal:
        config.load(write(tmp_path, text), {})
    assert "\n" not in str(refusal.value)


def test_a_password_in_a_refused_url_is_the_users_own_text_only(tmp_path: Path) -> None:
    """An unknown variable with our prefix and section is refused by name."""
    with pytest.raises(ConfigError, match=r"FIELDSTATION_MQTT_URI.*mqtt\.url"):
        config.load(None, {"FIELDSTATION_MQTT_URI": "mqtt://x"})


def test_clips_are_turned_off_in_one_line(tmp_path: Path) -> None:
    """`clips = false` needs no section."""
    assert not config.load(write(tmp_path, "clips = false"), {}).clips.enabled


def test_the_example_holds_every_setting_and_uncommented_it_parses(tmp_path: Path) -> None:
    """Removing every # from the example gives a file that is read without complaint."""
    uncommented = re.sub(r"(?m)^#(\w+ = )", r"\1", config.example())
    settings = config.load(write(tmp_path, uncommented), {})
    assert settings.schedule.backups_kept == config.Settings().schedule.backups_kept
    assert list(tomllib.loads(uncommented)) == [f.name for f in fields(config.Settings)]


def test_the_password_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    """The environment goes first; a file is read without its line end."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    settings = config.MqttSettings(password_file=str(secret))
    assert config.read_password(settings, {}) == "s3cret"
    assert config.read_password(settings, {"FIELDSTATION_MQTT_PASSWORD": "other"}) == "other"
    with pytest.raises(ConfigError, match=r"password_file is '/.*/none': No such file"):
        config.read_password(config.MqttSettings(password_file=str(tmp_path / "none")), {})
    secret.write_text("\n")
    with pytest.raises(ConfigError, match="the file is empty"):
        config.read_log_password(config.LogSettings(password_file=str(secret)), {})


def test_a_password_in_the_place_of_its_file_is_not_shown() -> None:
    """A usual mistake, and the journal is read by others."""
    with pytest.raises(ConfigError, match=r"password_file is a bare name.*No such file") as refusal:
        config.read_password(config.MqttSettings(password_file="hunter2"), {})
    assert "hunter2" not in str(refusal.value)


def test_a_bare_name_is_a_credential_of_systemd_where_there_is_one(tmp_path: Path) -> None:
    """LoadCredential= puts it there; a path, or a name that is no credential, stays itself."""
    (tmp_path / "hub-password").write_text("s3cret")
    told = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    settings = config.MqttSettings(password_file="hub-password")
    assert config.read_password(settings, told) == "s3cret"
    assert config.secret_path("/etc/hub-password", told) == "/etc/hub-password"
    assert config.secret_path("other", told) == "other"


def test_the_state_folder_is_the_first_that_is_told(tmp_path: Path) -> None:
    """`--state`, then $STATE_DIRECTORY, then XDG."""
    told = {"STATE_DIRECTORY": "/var/lib/x", "XDG_STATE_HOME": str(tmp_path)}
    assert config.find_state("/a", told) == Path("/a")
    assert config.find_state(None, told) == Path("/var/lib/x")


def test_a_named_configuration_must_exist(tmp_path: Path) -> None:
    """A typing error in --config is not answered with the defaults."""
    with pytest.raises(ConfigError, match="no such file"):
        config.find_config(str(tmp_path / "none.toml"), tmp_path)


def test_a_state_folder_that_this_user_may_not_look_into_is_refused(tmp_path: Path) -> None:
    """Not taken for one without settings: the kernel's reason is told, with the mend."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / ("n" * 300)):
        with pytest.raises(ConfigError, match=f"{folder.name}.*--state"):
            config.find_config(None, folder)


def test_settings_that_cannot_be_read_are_not_passed_over(tmp_path: Path) -> None:
    """A link that leads nowhere, or a folder, in the place of the state folder's file."""
    path = tmp_path / "fieldstation.toml"
    path.symlink_to(tmp_path / "gone.toml")
    assert config.find_config(None, tmp_path) == path
    with pytest.raises(ConfigError, match="name a readable file"):
        config.load(path, {})


def test_an_option_is_checked_as_the_setting_is() -> None:
    """The option is named, since that is what was written."""
    settings = config.load(None, {})
    assert config.with_option(settings, "--channel", "audio.channel", 2).audio.channel == 2
    with pytest.raises(ConfigError, match=r"--channel is 65; .*0 to 64"):
        config.with_option(settings, "--channel", "audio.channel", 65)
    with pytest.raises(ConfigError, match="not a station name"):
        config.with_option(settings, "--name", "station.name", "a\nb")
