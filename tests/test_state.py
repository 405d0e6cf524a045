"""The state folder: one key, one station."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fieldstation.state import State, StateError


def test_the_key_is_made_once(tmp_path: Path) -> None:
    """The first call makes it, every later one reads it."""
    state = State(tmp_path)
    key = state.key()
    assert key == state.key() == (tmp_path / "station.key").read_text().strip()
    assert len(key) == 16


def test_a_drawn_key_is_kept_only_when_that_is_asked(tmp_path: Path) -> None:
    """Who is refused before it begins leaves nothing behind; the first that is kept stays."""
    state = State(tmp_path)
    key = state.draw_key()
    assert key != state.draw_key()
    assert list(tmp_path.iterdir()) == []
    assert state.keep_key(key) == state.draw_key() == state.keep_key("0" * 16) == key
    assert list(tmp_path.iterdir()) == [tmp_path / "station.key"]


def test_a_damaged_key_is_not_silently_replaced(tmp_path: Path) -> None:
    """Another key would be another station."""
    (tmp_path / "station.key").write_text("zz")
    with pytest.raises(StateError, match="damaged"):
        State(tmp_path).key()


def test_one_station_per_folder_and_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    """A second station is refused with the first one's process id; after a kill it may run."""
    code = (
        "from pathlib import Path; from fieldstation.state import State; import sys, time;"
        f"lock = State(Path({str(tmp_path)!r})).lock(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        state = State(tmp_path)
        with pytest.raises(StateError, match=rf"process {holder.pid}"):
            state.lock()
        assert state.holder() == holder.pid
        holder.kill()
    with state.lock():
        pass
    assert state.holder() is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The text names the folder and the mend."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/state cannot be written: .*--state"):
        State(tmp_path / "file" / "state").prepare()


def test_vitals_are_read_as_they_were_written_and_a_torn_file_is_nothing(tmp_path: Path) -> None:
    """`check` reads what the running station last said, not what an earlier one did."""
    state = State(tmp_path / "state")
    state.prepare()
    vitals = state.vitals({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert state.read_health(3) == {}
    assert not state.has_run
    with state.lock() as lock:
        lock.tell(vitals)
        assert state.holder() == os.getpid()
        assert state.read_health(3) == {}
        vitals.write("health", {"problems": ["x" * 10_000], "pid": 3})
        vitals.write("health", {"n_waiting": 3, "pid": 3})
        assert state.read_health(3) == {"n_waiting": 3, "pid": 3}
        assert state.read_health(4) == {}
        vitals.path("health").write_text('{"n_wai')
        assert state.read_health(3) == {}
    assert state.told_vitals() == vitals
    assert state.has_run
    assert {file.name for file in state.folder.iterdir()} == {"station.lock"}


def test_vitals_lie_in_memory_where_there_is_some(tmp_path: Path) -> None:
    """Each state folder has its own; without such a folder they are in the state itself."""
    first, second = State(tmp_path / "first"), State(tmp_path / "second")
    environment = {"RUNTIME_DIRECTORY": str(tmp_path), "XDG_RUNTIME_DIR": "/nowhere"}
    assert first.vitals(environment).path("health").parent == tmp_path
    assert first.vitals(environment) != second.vitals(environment)
    assert first.vitals({"XDG_RUNTIME_DIR": "/nowhere"}).path("pulse").parent == first.folder
    assert first.vitals({}).path("pulse").parent == first.folder


def test_vitals_are_renewed_where_no_room_is_left(tmp_path: Path) -> None:
    """Each keeps its file and its size: a full disk refuses new files and more blocks only."""
    vitals = State(tmp_path).vitals({})
    vitals.write("health", {"problems": []})
    before = vitals.path("health").stat()
    vitals.write("health", {"problems": ["the disk is full"] * 9})
    after = vitals.path("health").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert list(tmp_path.iterdir()) == [vitals.path("health")]


def test_asking_for_the_holder_leaves_no_trace_and_turns_no_station_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` at the moment of a start must not make the start exit 2, never to be tried again."""
    state = State(tmp_path)
    assert state.holder() is None
    assert not list(tmp_path.iterdir())
    (tmp_path / "station.lock").write_text("12345\n")  # of a station that was killed
    assert state.holder() is None
    assert (tmp_path / "station.lock").read_text() == "12345\n"
    with (tmp_path / "station.lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr("fieldstation.state.ASKING_S", 5.0)  # the timer's thread may be late
        timer = threading.Timer(0.1, fcntl.flock, (asking, fcntl.LOCK_UN))
        timer.start()
        state.lock().release()
        timer.join()
