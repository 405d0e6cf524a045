"""The example settings that the service starts with."""

from __future__ import annotations

from pathlib import Path

from fieldstation import config

SHIPPED = Path(__file__).parents[2] / "deploy" / "fieldstation.toml"


def test_the_example_says_what_is_read() -> None:
    """deploy/fieldstation.toml is what `config.example()` writes; if not, write it again."""
    assert SHIPPED.read_text(encoding="utf-8") == config.example()


def test_the_example_changes_nothing() -> None:
    """With every line commented out, the service runs on the defaults."""
    assert config.load(SHIPPED, {}) == config.load(None, {})
