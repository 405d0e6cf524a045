"""Measure a generator on a GPU: one picture alone, many at once, and training.

    python bench/generator_gpu.py [--size nano] [--profile field] [-o FILE]

One picture alone is a CUDA graph of the whole chain of the solver (DPM-Solver++ 2M, 8 steps without
guidance: 8 calls; and as it was shipped first, 16 steps with guidance in the middle), noise put in
from outside as a worker would, the picture fetched as bytes. Many at once is the station's own
sampler without a graph. Training is the trainer's own step on lessons made of random numbers, which
cost what photographs cost. Weights are random: they cost what trained ones cost. Medians, after
warming up, by the clock on the wall with the GPU waited for.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldstation.generation.guidance import Counted, DenoiseWith
from fieldstation.generation.sampling import Sampling, sample
from trainer.data.images import GARDEN, ImageSet, Photograph
from trainer.data.recordings import Recording
from trainer.generator.batches import shelf_on
from trainer.generator.course import Lessons, lessons_for
from trainer.generator.diffusion import Denoiser
from trainer.generator.embeddings import Calls
from trainer.generator.networks import UNet, count_macs
from trainer.generator.profiles import PROFILES, Profile, config_named, diffusion_of
from trainer.generator.sheets import denoise_with
from trainer.generator.training import (
    Generator,
    Plan,
    Progress,
    Training,
    compile_network,
    take_step,
)

RESULT = Path(__file__).parent / "results" / "generator_gpu.json"
REPEATS = 50
N_TOGETHER = 32
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--size", default="nano")
    add("--profile", default="field")
    add("--batches", default="64,256", help="of training, with commas (default: %(default)s)")
    add("--seconds", type=float, default=8.0, help="of each training (default: %(default)s)")
    add("--only-compiled", action="store_true", help="leave out training without compiling")
    add("--no-painting", action="store_true", help="training only")
    add("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch sees: bench/generator_step.py is for the CPU")
    profile = PROFILES[options.profile]
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "profile": options.profile,
        "size": options.size,
    }
    if not options.no_painting:
        result |= painting(profile, options.size)
    result["training"] = [
        training_rate(profile, options.size, int(batch), options.seconds, compiles=compiles)
        for batch in filter(None, options.batches.split(","))
        for compiles in ((True,) if options.only_compiled else (True, False))
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


def painting(profile: Profile, size: str) -> dict[str, Any]:
    """Return what pictures cost, in fp32 and in bfloat16."""
    denoiser = Denoiser(UNet(config_named(profile, size)), diffusion_of(profile, 0.5))
    one = torch.randn(1, 3, 64, 64), torch.ones(1), torch.randn(1, 512)
    gmac = round(count_macs(denoiser, *one) / 1e9, 3)
    denoiser.cuda().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = Sampling("dpmpp_2m", 8, 1.0, None, *PROFILES["field"].sigma_range)
    guided = replace(plain, n_steps=16, guidance_scale=1.5, guidance_interval=(0.3, 10.0))
    return {
        "gmac": gmac,
        "one_picture_8_calls": {n: alone(denoiser, plain, d) for n, d in DTYPES.items()},
        "one_picture_shipped_sampler": {n: alone(denoiser, guided, d) for n, d in DTYPES.items()},
        "many_8_calls": {n: together(denoiser, plain, d) for n, d in DTYPES.items()},
        "many_shipped_sampler": {n: together(denoiser, guided, d) for n, d in DTYPES.items()},
    }


def alone(denoiser: Denoiser, sampling: Sampling, dtype: torch.dtype) -> dict[str, float]:
    """Return milliseconds of one picture under a CUDA graph, and its network calls."""
    network = Counted(denoise_with(denoiser, torch.device("cuda"), dtype))
    noise = torch.randn(1, 3, 64, 64, device="cuda")
    condition, null = torch.randn(1, 512, device="cuda"), torch.zeros(1, 512, device="cuda")
    asked = guided(network, null, sampling)
    plain = replace(sampling, guidance_scale=1.0)

    def chain() -> Tensor:
        x: Tensor = sample(asked, condition, null, iter([noise]), plain)
        return ((x.clip(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    with torch.inference_mode():
        graph, painted = captured(chain)
    n_calls = network.n_calls // 4  # three rehearsals and the capture
    fresh = torch.randn(1, 3, 64, 64).pin_memory()

    def paint() -> None:
        noise.copy_(fresh)
        graph.replay()
        painted.cpu()

    return {"ms": timed(paint), "network_calls": n_calls}


def guided(network: DenoiseWith, null: Tensor, sampling: Sampling) -> DenoiseWith:
    """Return a guided network, as the station guides, without the copies that no graph may hold."""
    low, high = sampling.guidance_interval or (0.0, float("inf"))
    scale = sampling.guidance_scale

    def denoise(x: Tensor, sigma: float, condition: Tensor) -> Tensor:
        if scale == 1 or not low <= sigma <= high:
            alone: Tensor = network(x, sigma, condition)
            return alone
        both = network(torch.cat([x, x]), sigma, torch.cat([condition, null]))
        told, untold = both.chunk(2)
        guided: Tensor = untold + scale * (told - untold)
        return guided

    return denoise


def captured(chain: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Return a chain as a graph, and where it leaves its answer."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            chain()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        painted = chain()
    return graph, painted


def together(denoiser: Denoiser, sampling: Sampling, dtype: torch.dtype) -> dict[str, float]:
    """Return pictures a second of many painted at once."""
    network = denoise_with(denoiser, torch.device("cuda"), dtype)
    noise = torch.randn(N_TOGETHER, 3, 64, 64, device="cuda")
    condition, null = torch.randn(N_TOGETHER, 512, device="cuda"), torch.zeros(512, device="cuda")

    def paint() -> None:
        sample(network, condition, null, iter([noise]), sampling).cpu()

    with torch.inference_mode():
        return {"pictures_per_s": round(N_TOGETHER / timed(paint, 10) * 1000, 1)}


def training_rate(
    profile: Profile, size: str, batch_size: int, seconds: float, *, compiles: bool
) -> dict[str, Any]:
    """Return images a second of the trainer's own step."""
    training = training_of(profile, size, batch_size)
    began_at = time.monotonic()
    trouble = compile_network(training) if compiles else ""
    compiled_s = time.monotonic() - began_at
    progress = Progress()
    for _ in range(5):
        take_step(training, progress)
    torch.cuda.synchronize()
    n, began_at = 0, time.monotonic()
    while time.monotonic() - began_at < seconds:
        take_step(training, progress)
        progress.step, n = progress.step + 1, n + 1
    torch.cuda.synchronize()
    rate = n * batch_size / (time.monotonic() - began_at)
    line = {"batch_size": batch_size, "compiled": compiles and not trouble, "trouble": trouble}
    line |= {"compile_s": round(compiled_s, 1), "images_per_s": round(rate)}
    line["gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset()
    print(json.dumps(line), flush=True)
    return line


def training_of(profile: Profile, size: str, batch_size: int) -> Training:
    """Return a training on random lessons."""
    device, lessons = torch.device("cuda"), random_lessons(profile)
    denoiser = Denoiser(UNet(config_named(profile, size)), diffusion_of(profile, 0.5))
    generator = Generator(denoiser, len(lessons.species))
    generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Training(
        generator=generator,
        average=copy.deepcopy(generator).requires_grad_(False),
        optimiser=torch.optim.Adam(generator.parameters(), 3e-4, betas=(0.9, 0.99), fused=True),
        lessons=lessons,
        profile=profile,
        plan=Plan(10**9, 0, batch_size, 3e-4, 0),
        identity={},
        device=device,
        precision=torch.bfloat16,
        folder=Path(tempfile.gettempdir()),
        judge=lambda generator, progress: {},
        shelf=shelf_on(device, lessons, profile),
    )


def random_lessons(profile: Profile, n: int = 2_000) -> Lessons:
    """Return lessons of thirteen species with as many photographs and calls as a garden has."""
    chance, names = np.random.default_rng(0), [f"Species {i}" for i in range(13)]
    photographs = tuple(Photograph(Path(), f"{i}", names[i % 13], GARDEN) for i in range(n))
    pixels = chance.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    recordings = tuple(Recording(Path(), f"{i}", names[i % 13], fold=1) for i in range(300))
    owner = np.arange(n * 4) % 300
    rows = chance.standard_normal((n * 4, 512)).astype(np.float32)
    ones = np.ones(n * 4, np.float32)
    calls = Calls(recordings, rows, rows, owner, np.arange(n * 4) % 4, ones)
    return lessons_for(ImageSet(photographs, pixels), calls, profile, "embedding")


def timed(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median milliseconds, each run waited for."""
    times = []
    for _ in range(repeats + 5):
        torch.cuda.synchronize()
        began_at = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began_at) * 1000)
    return round(statistics.median(times[5:]), 3)


if __name__ == "__main__":
    main()
