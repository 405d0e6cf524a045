"""`fieldstation run` whose sound card plays what comes through its standard input.

    python -m bench.soak_station [options of `run`]

Only PortAudio is replaced. The card tells when the analysis is done with a block, so that simulated
time (simulated.py), which passes with the blocks, can wait for a busy machine as no day does.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import numpy as np

from bench.simulated import tell, told
from fieldstation import cli
from fieldstation.audio import microphone
from fieldstation.audio.devices import Device, DeviceNotFound
from fieldstation.audio.portaudio import OnBlock
from fieldstation.audio.source import OnWait, ignore_wait
from fieldstation.records import AudioChunk

RATE = 22_050
BLOCK_S = 1.5
"""A hop of the shipped bundle; a real card gives 0.05"""
BLOCK = round(BLOCK_S * RATE)


class Card:
    """A sound system with one device, which plays a pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = os.fdopen(pipe, "rb")
        self._on_block: OnBlock | None = None
        self.sample_rate, self.n_channels = RATE, 1
        threading.Thread(target=self._play, daemon=True).start()

    @property
    def active(self) -> bool:
        """Return whether it is plugged in."""
        return not told("is_unplugged")

    def refresh(self) -> None:
        """Look for it at once, whenever asked."""

    def devices(self) -> list[Device]:
        """Return it while it is plugged in."""
        return [Device(0, "card", "card", 1, RATE, True, "test")] if self.active else []

    def open(self, device: Device, n_channels: int | None, on_block: OnBlock) -> Card:
        """Begin to pass blocks on; until then they are nobody's."""
        if not self.active:
            raise DeviceNotFound("the card was pulled")
        self._on_block = on_block
        return self

    def close(self) -> None:
        """Pass nothing on any more."""
        self._on_block = None

    def _play(self) -> None:
        while block := self._pipe.read(2 * BLOCK):
            frames = np.frombuffer(block[: len(block) & ~1], "<i2").reshape(-1, 1)
            if (on_block := self._on_block) is not None:
                on_block(frames.astype(np.float32) / np.float32(32_768), False)
            else:
                take()


def take() -> None:
    """Tell that one more block was heard, or was nobody's."""
    tell("n_taken", told("n_taken") + 1)


class PlayedTo(microphone.Microphone):
    """The microphone of `run`, at a card that plays standard input."""

    def __init__(
        self,
        device: str | int | None = None,
        channel: int | None = None,
        on_wait: OnWait = ignore_wait,
        wait: bool = True,
        patience: microphone.Patience | None = None,
    ) -> None:
        """Listen to it, whatever device is asked for."""

        def on_card_wait(cause: str) -> None:
            if cause == microphone.DEAD:  # a block of nothing, which is never yielded
                take()
            on_wait(cause)

        super().__init__(
            device,
            channel,
            on_wait=on_card_wait,
            wait=wait,
            sound=Card(os.dup(0)),
            patience=patience,
        )

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield the blocks as chunks."""
        for chunk in super().__iter__():
            yield chunk
            take()


def main() -> int:
    """Run as `fieldstation run` does."""
    microphone.Microphone = PlayedTo  # type: ignore[misc, assignment]
    return cli.main(["run", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
