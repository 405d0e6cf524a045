"""Which microphone is meant, by a name that outlives a reboot, and who holds it.

ALSA numbers its cards in the order they appear, so `hw:1,0` is another device tomorrow; a USB
device's vendor, product and serial number stay. This module reads /proc and /sys only; what
PortAudio knows comes in as `Device`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldstation.errors import MendableError

ALSA_ADDRESS = re.compile(r"\s*\(hw:(?P<card>\d+),(?P<device>\d+)\)")
"""How PortAudio ends the name of an ALSA hardware device"""


class DeviceError(MendableError):
    """The device is there, but cannot be listened to now: busy, refused, too few channels."""


class DeviceNotFound(DeviceError):
    """No such device; the text lists what there is."""


@dataclass(frozen=True, slots=True)
class Device:
    """Something with an input."""

    index: int
    """PortAudio's number, until the devices change"""
    name: str
    stable_id: str
    """Same after a reboot: `usb:VENDOR:PRODUCT:SERIAL` where the system tells, else the name"""
    n_channels: int
    sample_rate: int
    """The device's own default, hertz"""
    is_default: bool
    hostapi: str

    def __str__(self) -> str:
        """Return one entry of a list for people."""
        known_as = "" if self.stable_id == self.name else f" ({self.stable_id})"
        return f"{self.index} {self.name!r}{known_as}"


def choose_device(
    devices: Sequence[Device], spec: str | int | None, root: Path = Path("/")
) -> Device:
    """Return the device that is meant.

    Args:
        spec: index, stable id, name or a part of a name that only one device has; None is the
            default, or else the first there is.
        root: where /proc is, to tell of busy devices, which PortAudio leaves out of its list.

    Raises:
        DeviceNotFound: none or several fit.
    """
    found = _matching(devices, spec)
    if len(found) == 1:
        return found[0]
    held = "".join(f"; {holder}" for holder in all_holders(root))
    if not devices:
        raise DeviceNotFound(f"no microphone: the system lists no input; plug one in{held}")
    listed = ", ".join(map(str, devices))
    if found:
        raise DeviceNotFound(
            f"audio.device is {spec!r}, which fits {', '.join(map(str, found))}: name one of them"
        )
    raise DeviceNotFound(
        f"audio.device is {spec!r}; no input is called so: there are {listed}{held}"
    )


def _matching(devices: Sequence[Device], spec: str | int | None) -> list[Device]:
    if spec is None or spec == "":
        return [d for d in devices if d.is_default][:1] or list(devices[:1])
    if isinstance(spec, int) or spec.isdecimal():
        return [d for d in devices if d.index == int(spec)]
    wanted = spec.casefold()
    for exact in (
        [d for d in devices if d.stable_id.casefold() == wanted],
        [d for d in devices if d.name.casefold() == wanted],
    ):
        if exact:
            return exact[:1]
    return [d for d in devices if wanted in d.name.casefold()]


def stable_id(name: str, root: Path = Path("/")) -> str:
    """Return what a device is called after any reboot, from PortAudio's name for it.

    Args:
        name: such as `USB Audio: #0 (hw:1,0)`.
        root: where /proc and /sys are.
    """
    address = ALSA_ADDRESS.search(name)
    if not address:
        return name
    usb = _usb_id(int(address["card"]), root)
    if usb is None:
        return ALSA_ADDRESS.sub("", name)
    return usb if address["device"] == "0" else f"{usb},{address['device']}"


def _usb_id(card: int, root: Path) -> str | None:
    try:
        vendor_product = (root / f"proc/asound/card{card}/usbid").read_text().strip()
    except OSError:
        return None  # not a USB card
    # The card's device is the USB interface; the device with the serial number is above it.
    usb_device = (root / f"sys/class/sound/card{card}/device").resolve().parent
    try:
        serial = (usb_device / "serial").read_text().strip()
    except OSError:
        # Cheap devices have none: the port tells two of them apart (`@1-1.2`).
        serial = f"@{usb_device.name}"
    return f"usb:{vendor_product}:{serial}"


def holder(name: str, root: Path = Path("/")) -> str | None:
    """Return who captures from an ALSA hardware device, for people: `arecord (process 412)`."""
    address = ALSA_ADDRESS.search(name)
    if not address:
        return None
    card, device = int(address["card"]), int(address["device"])
    pid = _owner(root / f"proc/asound/card{card}/pcm{device}c") or _opener(
        f"/dev/snd/pcmC{card}D{device}c", root
    )
    return None if pid is None else _describe(pid, root)


def all_holders(root: Path = Path("/")) -> Iterator[str]:
    """Yield one phrase for each ALSA input that some process captures from."""
    for pcm in sorted((root / "proc/asound").glob("card*/pcm*c")):
        pid = _owner(pcm)
        if pid is not None:
            address = f"hw:{pcm.parent.name.removeprefix('card')},{pcm.name[3:-1]}"
            yield f"{address} is held by {_describe(pid, root)}: stop it"


def _owner(pcm: Path) -> int | None:
    for status in sorted(pcm.glob("sub*/status")):
        try:
            owner = re.search(r"^owner_pid\s*:\s*(\d+)", status.read_text(), re.MULTILINE)
        except OSError:
            continue
        if owner:
            return int(owner[1])
    return None


def _opener(device_file: str, root: Path) -> int | None:
    """Return who has a device file open, as far as this user may see."""
    for descriptor in (root / "proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == device_file:
                return int(descriptor.parent.parent.name)
        except OSError:
            continue  # it ended, or is another user's
    return None


def _describe(pid: int, root: Path) -> str:
    try:
        name = (root / f"proc/{pid}/comm").read_text().strip()
    except OSError:
        name = "a process"
    return f"{name} (process {pid})"
