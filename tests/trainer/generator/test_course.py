"""What is drawn for a step: photographs, and for each a condition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tests.trainer.generator.tiny import HEARD, UNHEARD, calls, lessons, photographs  # noqa: E402
from trainer.data.images import GARDEN, PRETRAIN, load_images, read_photographs  # noqa: E402
from trainer.data.recordings import DataError  # noqa: E402
from trainer.generator.course import (  # noqa: E402
    NULL,
    Draw,
    Lessons,
    circular,
    draw,
    lessons_for,
    pixels_of,
    representative_rows,
    shuffled,
)
from trainer.generator.profiles import PROFILES  # noqa: E402

FIELD, PAPER = PROFILES["field"], PROFILES["paper"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Lessons:
    """Return lessons of two species with calls and one without."""
    return lessons(tmp_path_factory.mktemp("lessons"))


def many(given: Lessons, group: str = GARDEN, n: int = 4000) -> Draw:
    """Return a large batch."""
    return draw(given, FIELD, group, n, np.random.default_rng(5))


def species_of_rows(given: Lessons, drawn: Draw) -> np.ndarray:
    """Return the species of each drawn call; -2 where there is none."""
    names = calls().species
    index = {name: i for i, name in enumerate(given.species)}
    return np.array([index[names[row]] if row >= 0 else -2 for row in drawn.row])


def test_a_call_is_paired_with_a_photograph_of_its_species(given: Lessons) -> None:
    """Never with another's; every one of its calls comes up."""
    drawn = many(given)
    heard = drawn.row >= 0
    at = given.species_of_image[drawn.image]
    np.testing.assert_array_equal(species_of_rows(given, drawn)[heard], at[heard])
    assert set(drawn.row[heard]) == set(range(len(calls().recording)))


def test_val_is_never_drawn(given: Lessons) -> None:
    """Neither in training nor in pre-training."""
    drawn = {*many(given).image, *many(given, PRETRAIN).image}
    assert not drawn & set(given.validation)
    assert len(given.validation) == 6


def test_vectors_stand_in_as_often_as_the_profile_says(given: Lessons) -> None:
    """A seventh of the heard species' draws by label, a seventh by nothing; the rest by call."""
    drawn = many(given)
    heard = np.isin([given.species[s] for s in given.species_of_image[drawn.image]], HEARD)
    is_null = (drawn.row < 0) & (drawn.species == NULL)
    assert is_null.mean() == pytest.approx(FIELD.null_share, abs=0.02)
    by_label = heard & (drawn.species != NULL)
    assert by_label.sum() / heard.sum() == pytest.approx(FIELD.label_share, abs=0.02)


def test_a_species_without_calls_always_has_its_vector(given: Lessons) -> None:
    """The unheard, and all that is only for pre-training."""
    drawn = many(given)
    unheard = given.species_of_image[drawn.image] == given.species.index(UNHEARD)
    assert (drawn.row[unheard] == -1).all()
    assert (many(given, PRETRAIN).row == -1).all()


def test_a_vector_is_never_the_wrong_species(given: Lessons) -> None:
    """A label vector belongs to the photograph that it stands beside."""
    drawn = many(given)
    named = drawn.species != NULL
    np.testing.assert_array_equal(drawn.species[named], given.species_of_image[drawn.image][named])


def test_the_circular_pairing_goes_round_the_shorter_list(given: Lessons) -> None:
    """Every call as it was heard and every photograph is in a pair, each call once if it can."""
    rows = lessons_rows(given)
    for species in map(given.species.index, HEARD):
        mine = given.groups[GARDEN][given.species_of_image[given.groups[GARDEN]] == species]
        few = replace(given, rows_of={species: rows[:4]})
        assert [list(circular(few, i, species)) for i in mine] == [
            [rows[k]] for k in (0, 1, 2, 3, 0, 1)
        ]
        more = replace(given, rows_of={species: rows[:8]})
        pairs = [list(circular(more, i, species)) for i in mine]
        assert sorted(row for pair in pairs for row in pair) == sorted(rows[:8])


def lessons_rows(given: Lessons) -> np.ndarray:
    """Return rows to pair by hand."""
    return np.concatenate(list(given.rows_of.values()))


def test_the_paper_hears_each_window_once(tmp_path: Path) -> None:
    """No variants in its pairs."""
    given = lessons(tmp_path, profile="paper")
    rows = np.concatenate(list(given.rows_of.values()))
    assert set(calls().variant[rows]) == {0}
    assert set(draw(given, PAPER, GARDEN, 500, np.random.default_rng(1)).row) <= {-1, *rows}


def test_the_label_line_hears_nothing(tmp_path: Path) -> None:
    """Its only conditions are vectors."""
    drawn = many(lessons(tmp_path, condition="label"))
    assert (drawn.row == -1).all()


def test_the_mel_line_has_its_own_values(tmp_path: Path) -> None:
    """Standardised by themselves: twice the values, twice the scale."""
    by_embedding, by_mel = lessons(tmp_path / "a"), lessons(tmp_path / "b", condition="mel")
    np.testing.assert_allclose(by_mel.scale, 2 * by_embedding.scale, rtol=1e-5)
    np.testing.assert_allclose(by_mel.conditions, by_embedding.conditions, atol=1e-5)


def test_a_fold_that_is_left_out_is_not_drawn(given: Lessons) -> None:
    """Not one window of its recordings, nor in mean and scale."""
    kept = calls().without_fold(0)
    assert {kept.recordings[i].fold for i in kept.recording} == {1, 2}
    assert len(kept.embedding) == len(kept.mel) == len(kept.variant) == len(kept.probability) == 16
    fewer = lessons_for(given.images, kept, FIELD, "embedding")
    np.testing.assert_allclose(fewer.mean, kept.embedding.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_rare_species_come_up_more_often_than_their_photographs(tmp_path: Path) -> None:
    """n^½: a species with a quarter of the photographs is drawn half as often."""
    folder = photographs(tmp_path / "photographs")
    rows = [p for p in read_photographs(folder) if p.split == "train"]
    blackbirds = [p for p in rows if p.scientific_name == HEARD[0]]
    tits = [p for p in rows if p.scientific_name == HEARD[1]]
    images = load_images([*blackbirds[:1], *tits[:4]], tmp_path / "cache")
    given = lessons_for(images, calls(), FIELD, "embedding")
    drawn = many(given, n=6000)
    share = (given.species_of_image[drawn.image] == given.species.index(HEARD[0])).mean()
    assert share == pytest.approx(1 / 3, abs=0.02)


def test_windows_without_the_bird_are_drawn_rarely(given: Lessons) -> None:
    """Where the encoder hears its species, a window counts by that probability."""
    some = calls()
    doubted = replace(some, probability=np.where(some.variant == 1, 0.0, 0.8).astype(np.float32))
    drawn = many(lessons_for(given.images, doubted, FIELD, "embedding"))
    rows = drawn.row[drawn.row >= 0]
    assert (some.variant[rows] == 1).mean() == pytest.approx(0.02 / 0.82, abs=0.015)


def test_the_shuffled_twin_pairs_with_any_call(given: Lessons) -> None:
    """Half of its pairs are of the other species: nothing to learn there."""
    drawn = many(shuffled(given))
    heard = drawn.row >= 0
    same = species_of_rows(given, drawn)[heard] == given.species_of_image[drawn.image][heard]
    assert same.mean() == pytest.approx(0.5, abs=0.04)


def test_a_sheet_shows_the_likeliest_calls(given: Lessons) -> None:
    """As many as asked for, over again if need be, of the right species."""
    at = given.species.index(HEARD[1])
    rows = representative_rows(given, at, 30)
    assert len(rows) == 30
    assert set(rows) <= set(given.rows_of[at])


def test_pixels_lie_between_minus_one_and_one(given: Lessons) -> None:
    """uint8 0 and 255 become -1 and 1; channels come first."""
    pixels = pixels_of(given, given.groups[GARDEN][:2])
    assert pixels.shape == (2, 3, 64, 64)
    expected = given.images.pixels[given.groups[GARDEN][0]][5, 7] / 127.5 - 1
    np.testing.assert_allclose(pixels[0, :, 5, 7], expected, atol=1e-6)


def test_folders_that_share_no_species_are_refused(given: Lessons) -> None:
    """One line that says where the names must be the same."""
    strange = calls()
    renamed = tuple(replace(r, scientific_name="Nemo nemo") for r in strange.recordings)
    with pytest.raises(DataError, match="no species has both recordings and photographs"):
        lessons_for(given.images, replace(strange, recordings=renamed), FIELD, "embedding")
