"""Options of a session are timed one beside the other, and none pays for another."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from bench import encoder
from tests.onnx_models import make_tone_bundle


def test_each_options_have_a_process_of_their_own(tmp_path: Path) -> None:
    """What one's threads do behind its call is in no other's CPU time."""
    bundle = make_tone_bundle(tmp_path / "tones")
    chosen = {"station": {}, "spinning": {"threads": 2, "spinning": True, "level": "basic"}}
    took = encoder.by_turns(bundle, chosen, 3)
    assert {name: len(times) for name, times in took.items()} == {"station": 3, "spinning": 3}
    assert all(cpu_s > 0 and wall_s > 0 for times in took.values() for cpu_s, wall_s in times)
    for child in multiprocessing.active_children():
        child.join(20)
    assert multiprocessing.active_children() == []
