"""List the microphones, with the ids that stay the same across reboots."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

EXAMPLES = """  fieldstation devices
  fieldstation run --device usb:0d8c:0014:A1B2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--format", choices=("table", "jsonl"), default="table", help="default: table"
    )


def run(args: argparse.Namespace) -> int:
    """Print what there is; exit 1 where there is no microphone."""
    from fieldstation.audio.microphone import list_devices

    devices = list_devices()
    if args.format == "jsonl":
        for device in devices:
            print(json.dumps(asdict(device)))
    else:
        for device in devices:
            mark = "*" if device.is_default else " "
            print(
                f"{mark} {device.index:>3}  {device.name}  {device.n_channels} ch  "
                f"{device.sample_rate:.0f} Hz  {device.hostapi}  {device.stable_id}"
            )
        print(
            "* default" if devices else "no microphone: plug one in, or try fieldstation run --demo"
        )
    return 0 if devices else 1
