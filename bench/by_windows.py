"""A bundle whose events have the times of their windows: for what is timed from a window's end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fieldstation.bundle import Bundle, load_bundle


def told_by_windows(bundle: Bundle, folder: Path) -> Bundle:
    """Return a copy of a bundle, in a folder of its own, which says nothing of frames."""
    shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
    place = folder / "bundle.json"
    described = json.loads(place.read_text("utf-8"))
    described["outputs"]["frame_logits"] = None
    place.write_text(json.dumps(described, indent=1), "utf-8")
    return load_bundle(folder)
