"""The queue between the callback and the analysis."""

from __future__ import annotations

import numpy as np

from fieldstation.audio.block_queue import Block, BlockQueue


def block(n: int, overflowed: bool = False) -> Block:
    return Block(np.zeros((n, 1), np.float32), 0.0, overflowed)


def test_blocks_come_out_in_order() -> None:
    """First in, first out, and nothing when it is empty."""
    queue = BlockQueue(100)
    first, second = block(10), block(20)
    queue.put(first)
    queue.put(second)
    assert queue.get(0) is first
    assert queue.get(0) is second
    assert queue.get(0.001) is None


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    """The block behind what was dropped carries all of it, and what had been lost before."""
    queue = BlockQueue(100)
    for overflowed in (False, True, False, False, False):
        queue.put(block(40, overflowed))
    kept = queue.get(0)
    assert kept is not None
    assert (kept.n_dropped, kept.overflowed) == (120, True)
    last = queue.get(0)
    assert last is not None
    assert (last.n_dropped, last.overflowed) == (0, False)


def test_a_block_longer_than_the_queue_is_kept() -> None:
    """There is always the newest."""
    queue = BlockQueue(10)
    queue.put(block(40))
    assert queue.get(0) is not None


def test_room_that_was_taken_out_is_free_again() -> None:
    """A reader that keeps up loses nothing."""
    queue = BlockQueue(100)
    for _ in range(10):
        queue.put(block(60))
        taken = queue.get(0)
        assert taken is not None
        assert taken.n_dropped == 0
