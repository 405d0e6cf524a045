"""The shipped recording is what its NOTICE says."""

import soundfile

from fieldstation.demo import RECORDING


def test_the_demo_is_short_mono_sixteen_bit_and_under_two_megabytes() -> None:
    """The demo is 30 s of 48 kHz mono 16-bit FLAC, small enough to ship."""
    info = soundfile.info(RECORDING)
    assert (info.frames, info.samplerate, info.channels) == (30 * 48_000, 48_000, 1)
    assert (info.format, info.subtype) == ("FLAC", "PCM_16")
    assert RECORDING.stat().st_size < 2_000_000


def test_the_demo_carries_its_licence_and_source() -> None:
    """Licence and notice lie beside the recording and name it."""
    folder = RECORDING.parent
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert RECORDING.name in (folder / "NOTICE").read_text(encoding="utf-8")
