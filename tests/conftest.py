"""What holds for every test."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Some tests import onnxruntime themselves; it reads this when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# How long a draw takes says how busy the machine is, and nothing about us.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


TESTS = Path(__file__).parent
ONE_BY_ONE = (TESTS / "faults", TESTS / "system")
"""What these do to a sound server, to systemd or to a disk, and when, is of the whole machine"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, in one of several processes, what must not run beside its like."""
    for item in items:
        if not set(ONE_BY_ONE).isdisjoint(item.path.parents):
            item.add_marker(pytest.mark.xdist_group("machine"))


@pytest.fixture(autouse=True, scope="session")
def hears_ctrl_c() -> None:
    """Let what the tests start be stopped as Ctrl-C does.

    A shell starts what it puts in the background (`nohup … &`, some CI runners) with SIGINT
    ignored, and children inherit that: a station that is asked to stop would not hear it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a command that ran in this process did to logging.

    Its handler writes to a stream that is closed with its test, and takes pytest's place.
    """
    root = logging.getLogger()
    level, before = root.level, set(root.handlers)
    yield
    for handler in set(root.handlers) - before:
        root.removeHandler(handler)
    root.setLevel(level)
