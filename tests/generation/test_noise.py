"""A seed is a picture: its noise is the same in every batch, on every machine, for good."""

from __future__ import annotations

from itertools import islice
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldstation.generation.noise import SEED_BITS, noise_for, noises_for, seed_of

SEEDS = st.integers(0, (1 << SEED_BITS) - 1)


def test_the_stream_of_a_seed_never_changes() -> None:
    """These numbers are promised: pictures that were logged can be painted again."""
    noise = noise_for(7, (3, 64, 64))
    assert (noise.dtype, noise.shape) == (np.float32, (3, 64, 64))
    expected = [-0.293339, -1.310901, 0.3532483]
    np.testing.assert_allclose(noise[[0, 1, 2], [0, 7, 63], [0, 9, 63]], expected, rtol=1e-6)


def test_noise_is_standard_normal() -> None:
    """By its first four moments over 100,000 values (standard errors 0.003 to 0.03)."""
    z = noise_for(1, (100_000,)).astype(np.float64)
    moments = [float((z**k).mean()) for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.12)


@given(st.lists(SEEDS, min_size=1, max_size=4))
def test_a_picture_does_not_depend_on_its_neighbours(seeds: list[int]) -> None:
    """Each row of a batch is what its seed gives alone, at every step."""
    together = list(islice(noises_for(seeds, (3, 4)), 3))
    for row, seed in enumerate(seeds):
        for noise, alone in zip(together, noises_for([seed], (3, 4)), strict=False):
            np.testing.assert_array_equal(noise[row], alone[0])
    np.testing.assert_array_equal(together[0][0], noise_for(seeds[0], (3, 4)))
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("seed", [-1, 1 << SEED_BITS])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    """What a database or a reader of JSON would round is no seed."""
    with pytest.raises(ValueError, match=f"seed is {seed}; 0 to 9007199254740991"):
        noise_for(seed, (2,))


@given(st.uuids(), st.integers(0, 100))
def test_an_event_has_a_seed_of_its_own(event_id: UUID, index: int) -> None:
    """In range, different for its second picture, the same whenever it is asked."""
    seed = seed_of(event_id, index)
    assert 0 <= seed < 1 << SEED_BITS
    assert seed != seed_of(event_id, index + 1)
    assert seed == seed_of(UUID(str(event_id)), index)


def test_the_seed_of_an_event_never_changes() -> None:
    """This number is promised too."""
    assert seed_of(UUID("01890a5d-ac96-774b-bcce-b302099a8057")) == 4137471006376023
