"""The real PortAudio, as far as a machine without a sound card shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fieldstation.audio import portaudio
from fieldstation.audio.devices import DeviceError, DeviceNotFound
from fieldstation.audio.portaudio import PA_DEVICE_UNAVAILABLE, PortAudio
from tests.audio.fakes import a_device


@pytest.fixture
def sound() -> PortAudio:
    """PortAudio, where its library is."""
    sound = PortAudio()
    try:
        sound.devices()
    except DeviceNotFound as error:
        pytest.skip(str(error))
    return sound


def test_looking_anew_finds_the_same_inputs(sound: PortAudio) -> None:
    """Terminating and initialising leaves PortAudio as it was, any number of times."""
    before = sound.devices()
    for _ in range(2):
        sound.refresh()
        assert sound.devices() == before
    assert all(device.n_channels > 0 for device in before)


def test_a_device_that_is_not_there_is_a_device_error(sound: PortAudio) -> None:
    """PortAudio's own error comes out as one line that names the device."""
    gone = a_device(10_000, "Yeti (hw:99,0)")
    with pytest.raises(DeviceError, match=r"'Yeti \(hw:99,0\)' cannot be opened"):
        sound.open(gone, None, lambda frames, overflowed: None)


def test_a_busy_device_says_that_it_is_held() -> None:
    """Also where nobody tells by whom."""
    busy = RuntimeError("Error opening InputStream: Device unavailable", PA_DEVICE_UNAVAILABLE)
    text = portaudio._why_not(a_device(0, "Yeti (hw:99,0)"), busy)
    assert text.startswith("'Yeti (hw:99,0)' is held by another program: stop it")


@pytest.mark.parametrize(("has", "opens"), [(1, 1), (6, 6), (64, 2)])
def test_a_sound_servers_placeholder_is_opened_in_stereo(has: int, opens: int) -> None:
    """PipeWire says it has 64 channels; copying them all for one microphone helps nobody."""
    assert portaudio._usual_channels(a_device(n_channels=has)) == opens


def test_a_portaudio_that_does_not_start_is_no_microphone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing sounddevice starts it, and fails with an error of its own: a later try may do."""
    (tmp_path / "sounddevice.py").write_text(
        "class PortAudioError(Exception): pass\n"
        "raise PortAudioError('Error initializing PortAudio')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    for attempt in (PortAudio().devices, PortAudio().refresh):
        with pytest.raises(DeviceNotFound, match=r"Error initializing PortAudio.*sound server"):
            attempt()
