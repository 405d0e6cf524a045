"""Measure a generator's training step and a single call.

    python bench/generator_step.py [--size nano] [--threads 2]

Per profile: multiplications a call; images a second of forward and backward pass in fp32 and in
bf16 autocast; milliseconds a call (batch 1) of torch and of onnxruntime, fp32. Medians; the best
is beside them, for cores are shared and the slower half says more about the neighbours.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from trainer.encoder.running import cpu_session
from trainer.generator.diffusion import Denoiser
from trainer.generator.export import export_denoiser
from trainer.generator.networks import UNet, count_macs, count_weights
from trainer.generator.profiles import PROFILES, config_named

RESULT = Path(__file__).parent / "results" / "generator_step.json"
REPEATS = 7


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {
        "device": f"{platform.machine()} CPU, {options.threads} threads",
        "amx": torch.cpu._is_amx_tile_supported(),
        "size": options.size,
        "versions": {
            name: importlib.metadata.version(name) for name in ("onnxruntime", "torch", "numpy")
        },
        "profiles": {name: measure(name, options.size, options.threads) for name in PROFILES},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


def measure(name: str, size: str, n_threads: int) -> dict[str, object]:
    """Return what one profile's network costs."""
    profile = PROFILES[name]
    network = UNet(config_named(profile, size))
    denoiser = Denoiser(network, profile.diffusion(0.5)).to(memory_format=torch.channels_last)
    one = inputs(1)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "denoiser.onnx"
        export_denoiser(denoiser, graph)
        session = cpu_session(graph, n_threads)
        feed = dict(zip(("x", "sigma", "condition"), (t.numpy() for t in one), strict=True))
        ort = timed(lambda: session.run(None, feed))
    with torch.inference_mode():
        alone = timed(lambda: denoiser(*one))
    training = {
        f"images_per_s_{precision}_batch_{n}": rate(denoiser, n, precision)
        for precision in ("fp32", "bf16")
        for n in (16, 32)
    }
    return {
        "n_weights": count_weights(network),
        "gmac": round(count_macs(denoiser, *one) / 1e9, 3),
        **training,
        "call_ms_torch": alone,
        "call_ms_onnxruntime": ort,
    }


def rate(denoiser: Denoiser, n: int, precision: str) -> dict[str, float]:
    """Return images a second through forward and backward pass."""
    x, sigma, condition = inputs(n)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = denoiser(x, sigma, condition).square().mean()
        loss.backward()

    return {key: round(n / (ms / 1000), 1) for key, ms in timed(step).items()}


def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x, sigma and condition of a batch."""
    return torch.randn(n, 3, 64, 64), torch.ones(n), torch.randn(n, 512)


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Return median and best milliseconds, after two calls to warm up."""
    for _ in range(2):
        run()
    times = []
    for _ in range(REPEATS):
        started_at = time.perf_counter()
        run()
        times.append((time.perf_counter() - started_at) * 1000)
    return {"median": round(statistics.median(times), 2), "best": round(float(np.min(times)), 2)}


if __name__ == "__main__":
    main()
