"""From the channels a device or file has to the one the encoder hears."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fieldstation.records import Samples

FULL_SCALE = 0.999
"""16-bit full scale is 32767/32768 on one side; converters also stop a little short of it."""
LOUDEST = 2.0**32
"""Far beyond full scale, which some write as 32-bit integers: what is above it is a broken sample,
whose power an encoder's float32 cannot hold"""


def is_sound(frames: Samples) -> NDArray[np.bool_]:
    """Return which frames, float32 [n, channels], hold no NaN, infinity or absurd sample."""
    return np.asarray((np.abs(frames) <= LOUDEST).all(axis=1))


def to_mono(frames: Samples, channel: int | None) -> tuple[Samples, int]:
    """Return one channel, or the mean of all, and how many of its samples touch full scale.

    Args:
        frames: float32 [n, channels], full scale ±1.
        channel: index of the channel to take; None mixes down.

    Returns:
        float32 [n], contiguous and owned by the caller; the number of frames in which a channel
        that was listened to is at full scale (a mean of channels hides its own clipping).
    """
    heard = frames if channel is None else frames[:, channel : channel + 1]
    n_clipped = int(np.count_nonzero((np.abs(heard) >= FULL_SCALE).any(axis=1)))
    # Column by column: a reduction along the short axis is four times as slow.
    mono: Samples = heard[:, 0].astype(np.float32, copy=True)
    for other in range(1, heard.shape[1]):
        mono += heard[:, other]
    if heard.shape[1] > 1:
        mono /= heard.shape[1]
    return mono, n_clipped


def from_int16(frames: NDArray[np.int16]) -> Samples:
    """Return 16-bit samples as float32, full scale ±1."""
    return np.multiply(frames, np.float32(1 / 32_768), dtype=np.float32)
