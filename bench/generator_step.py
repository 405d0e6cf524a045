"""Measure a generator's training step and a single call.

    python bench/generator_step.py [--size nano] [--batch-size 16]

Per profile: multiplications of a call; images a second of forward and backward pass in fp32 and in
bf16 autocast; milliseconds of a call (one picture) in torch and in onnxruntime, fp32. One thread
throughout, and processor time instead of time passed: cores are shared. The median of each, and
the best, which says more about the code and less about its neighbours.
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
from trainer.generator.profiles import PROFILES, config_named, diffusion_of

RESULT = Path(__file__).parent / "results" / "generator_step.json"
REPEATS = 7


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "device": f"{platform.machine()} CPU, one thread",
        "amx": torch.cpu._is_amx_tile_supported(),
        "size": options.size,
        "batch_size": options.batch_size,
        "versions": {
            name: importlib.metadata.version(name) for name in ("onnxruntime", "torch", "numpy")
        },
        "profiles": {name: measure(name, options.size, options.batch_size) for name in PROFILES},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


def measure(name: str, size: str, batch_size: int) -> dict[str, object]:
    """Return what one profile's network costs."""
    profile = PROFILES[name]
    network = UNet(config_named(profile, size))
    denoiser = Denoiser(network, diffusion_of(profile, 0.5)).to(memory_format=torch.channels_last)
    one = inputs(1)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "denoiser.onnx"
        export_denoiser(denoiser, graph)
        session = cpu_session(graph, 1)
        feed = dict(zip(("x", "sigma", "condition"), (t.numpy() for t in one), strict=True))
        ort = timed(lambda: session.run(None, feed))
    with torch.inference_mode():
        alone = timed(lambda: denoiser.eval()(*one))
    training = {
        f"images_per_s_{precision}": rate(denoiser, batch_size, precision)
        for precision in ("fp32", "bf16")
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
    denoiser.train()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = denoiser(x, sigma, condition).square().mean()
        loss.backward()

    return {key: round(n / (ms / 1000), 1) for key, ms in timed(step).items()}


def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return x, sigma and condition of a batch."""
    return torch.randn(n, 3, 64, 64), torch.ones(n), torch.randn(n, 512)


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Return median and best milliseconds of the processor, after two calls to warm up."""
    for _ in range(2):
        run()
    times = []
    for _ in range(REPEATS):
        started_at = time.process_time()
        run()
        times.append((time.process_time() - started_at) * 1000)
    return {"median": round(statistics.median(times), 2), "best": round(float(np.min(times)), 2)}


if __name__ == "__main__":
    main()
