"""`fieldstation run` whose sound card plays what comes through its standard input.

    python -m bench.soak_station [options of `run`]

Only PortAudio is replaced. The card tells when the analysis is done with a block, so that simulated
time (simulated.py), which passes with the blocks, can wait for a busy machine as no day does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from bench.simulated import tell, told
from fieldstation import cli
from fieldstation.audio import microphone
from fieldstation.audio.devices import Device, DeviceNotFound
from fieldstation.audio.portaudio import OnBlock
from fieldstation.audio.source import OnWait, ignore_wait
from fieldstation.records import AudioChunk
from tests.faults.live import Card
from tests.faults.played import RATE

BLOCK_S = 1.5
"""A hop of the shipped bundle; a real card gives 0.05"""
BLOCK = round(BLOCK_S * RATE)


class SoakedCard(Card):
    """A card that is pulled and put back, and that tells of every block."""

    @property
    def active(self) -> bool:
        """Return whether it is plugged in."""
        return not told("is_unplugged")

    def open(self, device: Device, n_channels: int | None, on_block: OnBlock) -> Card:
        """Begin to pass blocks on, if it is there."""
        if not self.active:
            raise DeviceNotFound("the card was pulled")
        return super().open(device, n_channels, on_block)

    def nobody_listens(self) -> None:
        """Tell that the block is done with."""
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
            sound=SoakedCard(os.dup(0), BLOCK),
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
