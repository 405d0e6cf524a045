"""A station that listens live: what comes through its standard input is its sound card.

    python -m tests.faults.live --bundle FOLDER [--config FILE] [--state FOLDER]

Everything is as in `fieldstation run` at a microphone but the card: the sound comes at its own
pace, and what nobody takes in time is lost. FIELDSTATION_TEST_QUEUE_S is the length of its queue,
FIELDSTATION_TEST_BRAKE a file with the seconds that the analysis of a window takes longer.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from fieldstation.audio.devices import Device
from fieldstation.audio.microphone import Microphone
from fieldstation.audio.portaudio import OnBlock
from fieldstation.bundle import load_bundle
from fieldstation.commands.context import add_context_arguments, load_context
from fieldstation.records import Prediction
from fieldstation.service import Plan, Service
from tests.faults.played import RATE

PROGRAM = ("-m", "tests.faults.live")
LIVE: dict[str, tuple[str, ...]] = {"program": PROGRAM, "arguments": ()}
"""Options of a Station that listens live"""
QUEUE, BRAKE = "FIELDSTATION_TEST_QUEUE_S", "FIELDSTATION_TEST_BRAKE"
BLOCK = round(0.05 * RATE)


class Card:
    """A sound system with one device, which plays a pipe."""

    def __init__(self, pipe: int, block: int = BLOCK) -> None:
        """Begin to play.

        Args:
            block: samples that come at a time.
        """
        self._pipe, self._block = os.fdopen(pipe, "rb"), block
        self._on_block: OnBlock | None = None
        self.sample_rate, self.n_channels = RATE, 1
        threading.Thread(target=self._play, daemon=True).start()

    @property
    def active(self) -> bool:
        """Return whether it is plugged in: this one always is."""
        return True

    def refresh(self) -> None:
        """Look for it at once, whenever asked."""

    def devices(self) -> list[Device]:
        """Return it while it is plugged in."""
        return [Device(0, "card", "card", 1, RATE, True, "test")] if self.active else []

    def open(self, device: Device, n_channels: int | None, on_block: OnBlock) -> Card:
        """Begin to pass blocks on; until then they are nobody's."""
        self._on_block = on_block
        return self

    def close(self) -> None:
        """Pass nothing on any more."""
        self._on_block = None

    def nobody_listens(self) -> None:
        """Let a block pass that no one takes."""

    def _play(self) -> None:
        while block := self._pipe.read(2 * self._block):
            frames = np.frombuffer(block[: len(block) & ~1], "<i2").reshape(-1, 1)
            if (on_block := self._on_block) is not None:
                on_block(frames.astype(np.float32) / np.float32(32_768), False)
            else:
                self.nobody_listens()


def brake(prediction: Prediction) -> None:
    """Let a window take longer, as a slower encoder would: in its thread."""
    time.sleep(float(Path(os.environ[BRAKE]).read_text()))


def main() -> None:
    """Run until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    add_context_arguments(parser)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    context = load_context(args)
    queue_s = float(os.environ.get(QUEUE, "60"))
    card = Card(os.dup(0))
    plan = Plan(
        settings=context.settings,
        state=context.state,
        who=context.identity(key=context.state.draw_key()),
        bundle=load_bundle(args.bundle),
        open_source=lambda on_wait: Microphone(on_wait=on_wait, queue_s=queue_s, sound=card),
        live=True,
        on_trace=brake if BRAKE in os.environ else None,
    )
    Service(plan).run()


if __name__ == "__main__":
    main()
