"""Options and fixtures of the fault tests.

pytest tests/faults                                 short forms, as CI runs them
pytest tests/faults --long --counts counts.jsonl    long forms, and what they counted
python -m tests.faults.report counts.jsonl          the rows of docs/reliability.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from tests.faults.played import Player, make_bundle
from tests.faults.station import Station

Counts = Callable[..., None]
MakeStation = Callable[..., Station]
LONG_TIMEOUT_S = 3 * 3_600


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what chooses the long forms, and the file for what is counted."""
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", help="run the long forms of the fault tests")
    group.addoption("--counts", metavar="FILE", help="append what was counted, a JSON line a test")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long forms their time."""
    for item in items:
        if config.getoption("--long", False) and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.fixture
def long(pytestconfig: pytest.Config) -> bool:
    """Return whether the long form was asked for."""
    return bool(pytestconfig.getoption("--long", False))


@pytest.fixture
def long_only(long: bool) -> None:
    """Leave a test to the long form."""
    if not long:
        pytest.skip("only in the long form (--long)")


@pytest.fixture
def counts(request: pytest.FixtureRequest, long: bool) -> Counts:
    """Return what notes `made`, `promised` and the counts that were `seen` in this test."""
    path = request.config.getoption("--counts", None)

    def note(made: str, promised: str, **seen: object) -> None:
        where = request.node.nodeid
        command = f"pytest {where}{' --long' if long else ''}"
        line = {"made": made, "promised": promised, "seen": seen, "command": command}
        print(json.dumps(line))
        if path:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    return note


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle that names the calls of `played`."""
    return make_bundle(tmp_path_factory.mktemp("model") / "calls")


@pytest.fixture
def player() -> Iterator[Player]:
    """Return what plays calls in real time."""
    found = Player()
    yield found
    found.end()


@pytest.fixture
def make_station(tmp_path: Path, bundle: Bundle) -> Iterator[MakeStation]:
    """Return what makes stations, which end with the test."""
    made: list[Station] = []

    def make(name: str = "garden", **options: object) -> Station:
        made.append(Station(tmp_path / name, bundle, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for station in made:
        station.end()
