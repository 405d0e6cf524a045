"""The import rules of the house: who may know whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "librosa", "scipy", "sklearn")

# What each room may import of ours. A room is a top-level module or folder of fieldstation;
# `room/file` narrows it to one file. Nothing imports what is not named here.
FOUNDATION = {"records", "errors", "clock"}
ALLOWED: dict[str, set[str]] = {
    "records": set(),
    "errors": set(),
    "clock": set(),
    "memory": set(),
    "notify": {"clock"},
    "processes": set(),
    "config": {"errors"},
    "state": {"errors"},
    "ageing": FOUNDATION | {"state"},
    "access": {"config", "mqtt"},
    "metrics": set(),
    "stages": {"clock", "errors"},
    "supervisor": {"clock", "notify", "stages"},
    "schedule": set(),
    "words": set(),
    "identity": FOUNDATION,
    "generator_card": set(),
    "bundle": FOUNDATION | {"generator_card"},
    "coverage": FOUNDATION,
    "demo": set(),
    "audio": FOUNDATION | {"words"},
    "store": FOUNDATION,
    "mqtt": FOUNDATION | {"processes"},
    "mqtt/messages": FOUNDATION,
    "onnx_session": FOUNDATION | {"bundle"},
    "analysis": FOUNDATION | {"bundle", "onnx_session"},
    "label_lists": FOUNDATION | {"bundle"},
    "adoption": FOUNDATION | {"bundle", "onnx_session", "analysis"},
    "clips": FOUNDATION,
    "gallery": FOUNDATION,
    "worker_process": {"processes", "mqtt/backoff"},
    "pictures": FOUNDATION | {"config", "bundle", "gallery", "store", "words"},
    "generation": FOUNDATION | {"bundle", "generator_card", "onnx_session"},
    "station": FOUNDATION
    | {"config", "bundle", "identity", "audio", "analysis", "clips", "mqtt/messages"},
}
ALLOWED["listening"] = ALLOWED["station"] | {"station"}
TOP = {"service", "painting", "hub_pictures", "upkeep", "commands", "cli", "__main__"}
ONE_FILE = {
    "sounddevice": "fieldstation/audio/portaudio.py",
    "paho": "fieldstation/mqtt/connection.py",
}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the full names of every module that a file imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def room_of(name: str) -> tuple[str, str]:
    """Return (room, room/file) of a dotted name below fieldstation."""
    parts = [*name.split(".")[1:], "", ""]
    return parts[0], f"{parts[0]}/{parts[1]}"


@pytest.mark.parametrize(
    "path", python_files("fieldstation"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_imports_only_rooms_below_it(path: Path) -> None:
    """No import runs upward, and fieldstation never imports trainer."""
    relative = path.relative_to(ROOT / "fieldstation").with_suffix("").parts
    room = relative[0]
    assert not any(name.split(".")[0] == "trainer" for name in imports(path))
    if room in TOP or room == "__init__":
        return
    allowed = ALLOWED.get("/".join(relative[:2]), ALLOWED.get(room))
    assert allowed is not None, f"{room} is a new room: say in this test what it may import"
    for name in imports(path):
        if name.split(".")[0] != "fieldstation" or name == "fieldstation.__version__":
            continue
        there, file = room_of(name)
        assert there == room or there in allowed or file in allowed, f"{path} imports {name}"


@pytest.mark.parametrize(("package", "home"), ONE_FILE.items())
def test_a_device_library_is_imported_in_one_file(package: str, home: str) -> None:
    """What wraps the device is the only place to look when the device misbehaves."""
    users = [
        str(p.relative_to(ROOT))
        for p in python_files("fieldstation")
        if any(name.split(".")[0] == package for name in imports(p))
    ]
    assert users == [home]


@pytest.mark.parametrize("package", HEAVY)
def test_only_the_generation_room_may_import_what_is_heavy(package: str) -> None:
    """250 MB of torch or librosa never reach the ear."""
    users = [
        p
        for p in python_files("fieldstation")
        if any(name.split(".")[0] == package for name in imports(p))
    ]
    assert all(p.parent.name == "generation" for p in users)


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    """Not even through a library's own imports."""
    code = "import sys, fieldstation.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = set(loaded.stdout.split())
    assert not modules & {*HEAVY, "numpy", "sqlalchemy", "paho", "onnxruntime", "sounddevice"}


def test_no_import_goes_in_a_circle() -> None:
    """The rooms can be read in an order."""
    edges: dict[str, set[str]] = {}
    for path in python_files("fieldstation"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        edges[module] = imports(path)
    modules = set(edges)

    def targets(module: str) -> set[str]:
        found = {n if n in modules else n.rpartition(".")[0] for n in edges[module]}
        return (found & modules) - {module, "fieldstation"}

    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' -> '.join([*path, module])}"
        if module in done:
            return
        for target in targets(module):
            visit(target, (*path, module))
        done.add(module)

    for module in modules:
        visit(module, ())
