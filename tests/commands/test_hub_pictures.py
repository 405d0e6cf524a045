"""Pictures and a hub: it keeps what a station paints, and paints for one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from tests.commands.conftest import Run, needs_mosquitto
from tests.commands.test_hub import command, read_until, wait_for
from tests.commands.test_worker import rows
from tests.mosquitto import Mosquitto
from tests.onnx_models import make_painting_bundle

pytestmark = needs_mosquitto


@pytest.fixture(scope="module")
def paints(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that hears tones and paints each in its colour."""
    return make_painting_bundle(tmp_path_factory.mktemp("model") / "paints")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """Return a running broker, as a hub has one."""
    found = Mosquitto(tmp_path)
    found.start()
    yield found
    found.kill()


def test_a_hub_keeps_what_a_station_paints_and_watch_tells_it(
    broker: Mosquitto, cli: Run, paints: Bundle, recording: Path, tmp_path: Path
) -> None:
    """Files and rows as the station has them; nothing is painted twice."""
    where = ("--broker", broker.url, "--state", tmp_path / "hub")
    log = tmp_path / "hub" / "hub" / "log.db"
    with command("log", *where) as hub, command("watch", *where) as watcher:
        read_until(hub, "connected")
        read_until(watcher, "connected")
        ended = cli(
            *("run", "--source", recording, "--bundle", paints.path, "--name", "hedge"),
            *("--broker", broker.url, "--wait-images"),
        )
        assert ended.returncode == 0, ended.stdout
        assert wait_for(lambda: rows(log, "SELECT count(*) FROM images") == [(2,)])
        read_until(watcher, "hedge  generated picture of")
    found = rows(log, "SELECT file, station, paint_ms, published_at FROM images")
    assert all((tmp_path / "hub" / "images" / str(file)).is_file() for file, *_ in found)
    assert {tuple(rest[:2]) for _, *rest in found} == {("hedge", None)}
    assert rows(log, "SELECT count(*) FROM jobs") == [(0,)]


def test_a_hub_paints_for_a_station_that_only_listens(
    broker: Mosquitto, cli: Run, paints: Bundle, recording: Path, tmp_path: Path
) -> None:
    """From the calls: their embeddings came with the messages."""
    settings = tmp_path / "station.toml"
    settings.write_text(
        '[log]\nenabled = false\n[mqtt]\ntrust = "any"\n[generation]\nenabled = true\n'
    )
    state = tmp_path / "hub"
    log = state / "hub" / "log.db"
    bundle = ("--bundle", paints.path)
    with command("log", "--pictures", *bundle, "--broker", broker.url, "--state", state) as hub:
        read_until(hub, "connected")
        ended = cli(
            *("run", "--source", recording, *bundle, "--name", "hedge"),
            *("--broker", broker.url, "--config", settings),
        )
        assert ended.returncode == 0, ended.stdout
        painted = cli(
            *("worker", "--once", *bundle, "--broker", broker.url),
            *("--database", f"sqlite:///{log}", "--images", state / "images"),
        )
        assert painted.returncode == 0, painted.stdout + painted.stderr
    found = rows(log, "SELECT station, is_of_call, published_at > 0 FROM images")
    assert found == [("hedge", 1, 1)] * 2
    assert len(list((state / "images").rglob("*.png"))) == 2
