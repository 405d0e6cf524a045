"""Tables and migrations."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from fieldstation.store import log_tables, station_tables
from fieldstation.store.database import Database
from fieldstation.store.errors import NewerDatabase, StoreError, StoreUnavailable
from fieldstation.store.log_db import LogStore
from fieldstation.store.schema import Schema
from fieldstation.store.station_db import StationStore
from tests.store.conftest import full_disk


def differences(database: Database, schema: Schema) -> list[object]:
    """Return what the migrations made otherwise than the tables in the code say."""
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, schema.metadata))


def test_the_migrations_make_the_log_that_the_code_knows(log: LogStore) -> None:
    """One source of truth: nothing is made by the metadata."""
    assert differences(log.database, log_tables.SCHEMA) == []
    with log.database.read() as connection:
        assert inspect(connection).get_view_names() == ["detection_view"]


def test_the_migrations_make_the_station_that_the_code_knows(store: StationStore) -> None:
    """Also its AUTOINCREMENT and its partial index, which a comparison does not see."""
    assert differences(store.database, station_tables.SCHEMA) == []
    with store.database.read() as connection:
        sql = connection.execute(text("SELECT sql FROM sqlite_schema")).scalars().all()
    made = "\n".join(filter(None, sql))
    assert made.count("AUTOINCREMENT") == 2
    assert "WHERE confirmed_at IS NULL" in made


@pytest.mark.parametrize("schema", [station_tables.SCHEMA, log_tables.SCHEMA])
def test_the_code_knows_its_newest_migration(schema: Schema) -> None:
    """Each migration follows the one before, and the last is the head that is opened."""
    config = Config()
    config.set_main_option("script_location", str(schema.migrations))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [schema.head]
    assert len(list(scripts.walk_revisions())) == schema.number


def set_version(path: Path, version: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    connection.close()


@pytest.mark.parametrize("readonly", [False, True])
def test_a_newer_database_is_left_alone(tmp_path: Path, readonly: bool) -> None:
    """The text names the file, its version, and the mend."""
    path = tmp_path / "log.db"
    LogStore(str(path)).close()
    set_version(path, "log_0099")
    before = path.read_bytes()
    with pytest.raises(NewerDatabase) as caught:
        LogStore(str(path), readonly=readonly)
    assert str(caught.value) == (
        f"{path} has tables of version 99, this fieldstation knows {log_tables.SCHEMA.number}: "
        "update fieldstation, or name another database"
    )
    assert path.read_bytes() == before


def test_a_newer_log_on_a_server_is_left_alone(postgres_url: str) -> None:
    """On PostgreSQL alike."""
    log = LogStore(postgres_url)
    with log.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'log_0099'"))
    log.close()
    with pytest.raises(NewerDatabase, match="has tables of version 99"):
        LogStore(postgres_url)


def test_the_two_databases_are_not_exchanged(tmp_path: Path) -> None:
    """A station.db is no log, and the other way round."""
    StationStore(tmp_path / "station.db").close()
    LogStore(str(tmp_path / "log.db")).close()
    with pytest.raises(StoreError, match="is a station database, not a log one"):
        LogStore(str(tmp_path / "station.db"))
    with pytest.raises(StoreError, match="is a log database, not a station one"):
        StationStore(tmp_path / "log.db")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    """Its tables are named; ours are not put among them, also where it uses Alembic."""
    path = tmp_path / "birds.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sightings (bird TEXT)")
    with pytest.raises(StoreError, match=r"holds other tables \(sightings\)"):
        LogStore(str(path))
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES ('1975ea83b712')")
    connection.commit()
    with pytest.raises(StoreError, match="is a foreign database, not a log one"):
        LogStore(str(path))
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (2,)
    connection.close()


def test_a_reader_does_not_upgrade(tmp_path: Path) -> None:
    """It says who does."""
    path = tmp_path / "log.db"
    sqlite3.connect(path).close()
    path.touch()
    with pytest.raises(StoreError, match=r"has tables of version 0, .* start the station"):
        LogStore(str(path), readonly=True)


def test_an_upgrade_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """All of the tables, or none: with space again the next start makes them."""
    path = tmp_path / "log.db"
    with full_disk(20_000), pytest.raises(StoreUnavailable, match="check its free space"):
        LogStore(str(path))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == []
    connection.close()
    LogStore(str(path)).close()


def test_another_programs_view_is_no_empty_database(tmp_path: Path) -> None:
    """A database of nothing but views is not ours either."""
    with sqlite3.connect(tmp_path / "birds.db") as connection:
        connection.execute("CREATE VIEW birds AS SELECT 1")
    connection.close()
    with pytest.raises(StoreError, match=r"holds other tables \(birds\)"):
        LogStore(str(tmp_path / "birds.db"))


def test_alembic_is_not_imported_for_an_up_to_date_database(tmp_path: Path) -> None:
    """Opening it is then a matter of one read."""
    LogStore(str(tmp_path / "log.db")).close()
    code = (
        "import sys; from fieldstation.store.log_db import LogStore;"
        "LogStore(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "log.db")], check=True)
