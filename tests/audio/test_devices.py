"""Names that outlive a reboot, and who holds a device, from a /proc and /sys made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from fieldstation.audio.devices import DeviceNotFound, choose_device, holder, stable_id
from tests.audio.fakes import a_device

NAME = "AT2020USB+: Audio (hw:2,0)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with a USB microphone as card 2 and a built-in one as card 0."""
    interface = tmp_path / "sys/devices/pci/usb1/1-1/1-1.2/1-1.2:1.0"
    interface.mkdir(parents=True)
    card = tmp_path / "sys/class/sound/card2"
    card.mkdir(parents=True)
    (card / "device").symlink_to(interface)
    write(tmp_path / "proc/asound/card2/usbid", "0909:001c\n")
    write(tmp_path / "proc/asound/card2/pcm0c/sub0/status", "closed\n")
    write(tmp_path / "proc/asound/card0/pcm0c/sub0/status", "closed\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_usb_microphone_is_called_by_vendor_product_and_serial(root: Path) -> None:
    """The card's number is not in the name; the second input of a card is told apart."""
    write(root / "sys/devices/pci/usb1/1-1/1-1.2/serial", "X123\n")
    assert stable_id(NAME, root) == "usb:0909:001c:X123"
    assert stable_id("AT2020USB+: Audio (hw:2,1)", root) == "usb:0909:001c:X123,1"


def test_without_a_serial_the_port_tells_two_apart(root: Path) -> None:
    """Two cheap microphones of one kind stay what they are while they stay plugged."""
    assert stable_id(NAME, root) == "usb:0909:001c:@1-1.2"


def test_other_devices_are_called_by_name(root: Path) -> None:
    """A built-in card loses its number, a sound server's device keeps its name."""
    assert stable_id("HDA Intel PCH: ALC257 (hw:0,0)", root) == "HDA Intel PCH: ALC257"
    assert stable_id("pipewire", root) == "pipewire"


def test_a_device_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    """Index (as text, too), stable id, name, or a part that only it has, in any case."""
    built_in = a_device(0, "HDA Intel: ALC257 (hw:0,0)", stable_id="HDA Intel: ALC257")
    usb = a_device(3, NAME, is_default=True)
    devices = [built_in, usb]
    for spec in (3, "3", "usb:0d8c:0014:a1", NAME, "at2020", None, ""):
        assert choose_device(devices, spec, tmp_path) == usb
    assert choose_device(devices, "HDA Intel: ALC257", tmp_path) == built_in
    assert choose_device([built_in], None, tmp_path) == built_in


def test_what_is_not_found_lists_what_there_is(tmp_path: Path) -> None:
    """A person can copy the right name out of the error."""
    devices = [a_device(0, "left (hw:0,0)"), a_device(1, "right (hw:1,0)")]
    with pytest.raises(DeviceNotFound, match=r"'Yeti'.*0 'left.*usb:0d8c:0014:A1.*1 'right"):
        choose_device(devices, "Yeti", tmp_path)
    with pytest.raises(DeviceNotFound, match=r"fits 0 'left .*, 1 'right .*: name one"):
        choose_device(devices, "hw:", tmp_path)
    with pytest.raises(DeviceNotFound, match="no microphone: the system lists no input"):
        choose_device([], None, tmp_path)


def test_the_holder_of_a_busy_device_is_named(root: Path) -> None:
    """ALSA tells the process; PortAudio leaves the device out, so not finding it tells, too."""
    write(root / "proc/asound/card2/pcm0c/sub0/status", "state: RUNNING\nowner_pid   : 412\n")
    write(root / "proc/412/comm", "arecord\n")
    assert holder(NAME, root) == "arecord (process 412)"
    with pytest.raises(DeviceNotFound, match=r"hw:2,0 is held by arecord \(process 412\): stop"):
        choose_device([], None, root)


def test_the_holder_is_found_by_its_open_file(root: Path) -> None:
    """Where ALSA tells nothing, whoever has the device file open holds it."""
    descriptors = root / "proc/77/fd"
    descriptors.mkdir(parents=True)
    (descriptors / "5").symlink_to("/dev/null")
    (descriptors / "9").symlink_to("/dev/snd/pcmC2D0c")
    assert holder(NAME, root) == "a process (process 77)"


def test_nobody_holds_a_free_device(root: Path) -> None:
    """Neither a closed device nor one that is not ALSA's has a holder."""
    assert holder(NAME, root) is None
    assert holder("pipewire", root) is None
