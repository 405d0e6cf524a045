"""The recording that `fieldstation run --demo` plays. LICENSE and NOTICE beside it are its own."""

from pathlib import Path

RECORDING = Path(__file__).parent / "CHE_01_20190101_163443.flac"
"""30 s of a Chaffinch, 48 kHz mono 16-bit FLAC"""
