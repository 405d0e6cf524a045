"""Random numbers that are the same on every machine: a seed is a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

SEED_BITS = 53
"""What JSON readers and databases hold without loss"""


def noise_for(seed: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return standard normal noise, float32, of a seed in 0..2⁵³ - 1."""
    return np.asarray(next(noises_for([seed], shape))[0])


def noises_for(seeds: Sequence[int], shape: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """Yield, without end, noise float32 [n, *shape], each row of its own seed.

    The first is `noise_for` of each seed; a picture's noise does not depend on its neighbours.
    """
    for seed in seeds:
        if not 0 <= seed < 1 << SEED_BITS:
            raise ValueError(f"seed is {seed}; 0 to {(1 << SEED_BITS) - 1}")
    streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
    while True:
        yield np.stack([stream.standard_normal(shape, np.float32) for stream in streams])


def seed_of(event_id: UUID, index: int = 0) -> int:
    """Return the seed of an event's picture; index 1 is its second.

    Taken from the id's last bits, which are random in a UUIDv7 and hashed in a UUIDv5.
    """
    return (event_id.int + index) % (1 << SEED_BITS)
