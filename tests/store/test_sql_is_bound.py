"""No statement is put together from text: what comes from outside is a bound value."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "fieldstation"
SQL = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|PRAGMA|ATTACH|VACUUM|CREATE (TABLE|VIEW|INDEX)|"
    r"DROP (TABLE|VIEW|INDEX)|ALTER TABLE|ORDER BY|WHERE)\b"
)
TAKES_SQL = {"text", "execute", "executemany", "executescript", "exec_driver_sql", "literal_column"}


def is_made(node: ast.AST) -> bool:
    """Return whether a text is put together here, from more than our own constants."""
    if isinstance(node, ast.JoinedStr):
        values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return not all(isinstance(v, ast.Name) and v.id.isupper() for v in values)
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", "") in ("format", "join")
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add)


def literal(node: ast.AST) -> str:
    return " ".join(
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


def suspects(source: str) -> list[int]:
    """Return the lines at which a statement is made from values."""
    tree = ast.parse(source)
    lines = [n.lineno for n in ast.walk(tree) if is_made(n) and SQL.search(literal(n))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and is_made(node.args[0]):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            lines += [node.lineno] if name in TAKES_SQL else []
    return sorted(set(lines))


@pytest.mark.parametrize(
    "source",
    [
        'connection.execute(f"SELECT * FROM events WHERE id = {name}")',
        'statement = "DELETE FROM events WHERE id = %s" % name',
        'statement = "SELECT seq FROM " + table',
        'text("PRAGMA {}".format(name))',
        'text(f"{statement}")',
    ],
)
def test_a_statement_made_from_text_is_found(source: str) -> None:
    """Or this test would find nothing, ever."""
    assert suspects(source)


@pytest.mark.parametrize("source", ['text("SELECT 1")', 'log.info(f"{n} rows")', "a + b"])
def test_what_is_no_such_statement_is_let_through(source: str) -> None:
    """Plain statements, and texts for people."""
    assert not suspects(source)


@pytest.mark.parametrize(
    "path",
    # A migration writes tables and views of fixed names, before anything from outside is there.
    sorted(path for path in ROOT.rglob("*.py") if "migrations" not in path.parts),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_file_makes_a_statement_from_text(path: Path) -> None:
    """Names of tables and columns are SQLAlchemy's, values are parameters."""
    assert suspects(path.read_text("utf-8")) == []
