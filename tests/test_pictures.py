"""What the settings want of pictures, and how long they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fieldstation.bundle import Bundle
from fieldstation.config import (
    ConfigError,
    GenerationSettings,
    MqttSettings,
    Settings,
    load,
)
from fieldstation.gallery import Gallery
from fieldstation.pictures import are_wanted, job_maker, retain, sends_embeddings
from fieldstation.store.images import record_image
from fieldstation.store.log_db import LogStore
from tests.onnx_models import make_painting_bundle, make_tone_bundle
from tests.store.examples import DAWN, detection, image

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def paints(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_painting_bundle(
        tmp_path_factory.mktemp("model") / "paints", paints=["Fringilla coelebs"]
    )


@pytest.fixture(scope="module")
def names_only(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tone_bundle(tmp_path_factory.mktemp("model") / "tones")


def settings(enabled: bool | None = None, embedding: bool | None = None) -> Settings:
    return Settings(
        mqtt=MqttSettings(embedding=embedding), generation=GenerationSettings(enabled=enabled)
    )


def test_a_bundle_that_paints_has_its_events_painted(paints: Bundle, names_only: Bundle) -> None:
    """Unless the settings say otherwise, either way."""
    assert are_wanted(settings(), paints)
    assert not are_wanted(settings(), names_only)
    assert not are_wanted(settings(enabled=False), paints)
    assert are_wanted(settings(enabled=True), names_only)


def test_the_settings_may_leave_it_to_the_bundle(tmp_path: Path) -> None:
    """Set in file or environment it is one or the other; what is no truth value is refused."""
    assert load(None, {}).generation.enabled is None
    file = tmp_path / "fieldstation.toml"
    file.write_text("[generation]\nenabled = false\n[mqtt]\nembedding = true\n")
    assert load(file, {}).generation.enabled is False
    assert load(file, {}).mqtt.embedding is True
    assert load(file, {"FIELDSTATION_GENERATION_ENABLED": "true"}).generation.enabled is True
    with pytest.raises(ConfigError, match="must be true or false"):
        load(None, {"FIELDSTATION_GENERATION_ENABLED": "perhaps"})


def test_embeddings_travel_where_pictures_are_painted(paints: Bundle, names_only: Bundle) -> None:
    """The key of its own counts more: a hub may want them for something else."""
    assert sends_embeddings(settings(), paints)
    assert not sends_embeddings(settings(), names_only)
    assert sends_embeddings(settings(enabled=True), names_only)
    assert not sends_embeddings(settings(embedding=False), paints)
    assert sends_embeddings(settings(embedding=True), names_only)


def test_the_policy_knows_what_the_bundle_paints(paints: Bundle, names_only: Bundle) -> None:
    """Without a generator here, another machine's bundle decides."""
    made = job_maker(settings(), paints)
    assert made
    assert made.policy.paints == {"Fringilla coelebs"}
    assert made.policy.encoder_id == paints.encoder_id
    elsewhere = job_maker(settings(enabled=True), names_only)
    assert elsewhere
    assert elsewhere.policy.paints is None
    assert job_maker(settings(), names_only) is None


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    log = LogStore(str(tmp_path / "log.db"))
    yield log
    log.close()


def keep(log: LogStore, gallery: Gallery, number: int, made_at: int) -> None:
    """Let a picture of a megabyte have been made."""
    picture = image(number, made_at=made_at, file=f"2026-05-01/{number}.png", n_bytes=1_000_000)
    gallery.write(str(picture.file), b"png")
    log.record([detection(number)], DAWN)
    with log.database.write() as connection:
        record_image(connection, picture)


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (GenerationSettings(max_age_days=2, max_size_mb=100), {"3.png", "4.png"}),
        (GenerationSettings(max_age_days=0, max_size_mb=1), {"4.png"}),
        (GenerationSettings(max_age_days=0, max_size_mb=100), {f"{n}.png" for n in range(1, 5)}),
    ],
)
def test_old_pictures_go_by_age_and_by_size(
    log: LogStore, tmp_path: Path, kept: GenerationSettings, left: set[str]
) -> None:
    """The oldest first; what is left is as it was, and a second time nothing happens."""
    gallery = Gallery(tmp_path / "images")
    now = DAWN + 4 * DAY
    for number in range(1, 5):
        keep(log, gallery, number, now - (5 - number) * DAY + DAY // 2)
    n = 4 - len(left)
    assert retain(lambda: log.database, gallery, kept, now) == (
        f"{n} pictures removed" if n else ""
    )
    assert retain(lambda: log.database, gallery, kept, now) == ""
    assert {path.name for path in gallery.folder.rglob("*.png")} == left


def test_more_than_a_page_goes_at_once(log: LogStore, tmp_path: Path) -> None:
    """A limit that was lowered takes effect whole."""
    gallery = Gallery(tmp_path / "images")
    with log.database.write() as connection:
        for number in range(1_200):
            record_image(connection, image(number, file=f"a/{number}.png", n_bytes=1_000))
    kept = replace(GenerationSettings(), max_age_days=0, max_size_mb=1)
    assert retain(lambda: log.database, gallery, kept, DAWN) == "200 pictures removed"
