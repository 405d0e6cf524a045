"""What stands between PortAudio's callback and the analysis: a queue that never makes it wait."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from fieldstation.records import Samples


@dataclass(slots=True, eq=False)
class Block:
    """What one callback brought."""

    frames: Samples
    """float32 [n, channels]"""
    arrived: float
    """Monotonic seconds"""
    overflowed: bool = False
    """The device lost samples before it, how many is unknown"""
    n_dropped: int = 0
    """Samples that the queue dropped before it"""


class BlockQueue:
    """Holds at most `max_frames`; a block too many drops the oldest, which the next one counts.

    Bounded by sound, not by blocks: devices choose their own block size.
    """

    def __init__(self, max_frames: int) -> None:
        self._max_frames = max_frames
        self._blocks: deque[Block] = deque()
        self._n_frames = 0
        self._filled = threading.Condition(threading.Lock())

    def limit(self, max_frames: int) -> None:
        """Hold so many from the next block on."""
        self._max_frames = max_frames

    def put(self, block: Block) -> None:
        """Append a block; never waits for a reader."""
        with self._filled:
            self._blocks.append(block)
            self._n_frames += len(block.frames)
            while self._n_frames > self._max_frames and len(self._blocks) > 1:
                self._drop_oldest()
            self._filled.notify()

    def get(self, timeout_s: float) -> Block | None:
        """Return the oldest block, or None when none came in time."""
        with self._filled:
            if not self._blocks:
                self._filled.wait(timeout_s)
            if not self._blocks:
                return None
            block = self._blocks.popleft()
            self._n_frames -= len(block.frames)
            return block

    def _drop_oldest(self) -> None:
        oldest, after = self._blocks.popleft(), self._blocks[0]
        self._n_frames -= len(oldest.frames)
        after.n_dropped += oldest.n_dropped + len(oldest.frames)
        after.overflowed |= oldest.overflowed
