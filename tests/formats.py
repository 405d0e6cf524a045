"""Files as recorders and archives write them: one of each way to be decoded."""

from __future__ import annotations

FORMATS: list[tuple[str, dict[str, str]]] = [
    ("a.wav", {}),
    ("a.flac", {}),
    ("a.ogg", {"subtype": "VORBIS"}),
    ("a.mp3", {}),
    ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
]
"""(name, what soundfile is told besides)"""
