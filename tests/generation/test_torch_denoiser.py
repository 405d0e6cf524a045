"""The denoiser in torch: onnxruntime's numbers, and a word for whatever it cannot do."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from fieldstation.bundle import SHIPPED, Bundle, BundleError, load_bundle  # noqa: E402
from fieldstation.errors import PassingError  # noqa: E402
from fieldstation.generation import torch_denoiser  # noqa: E402
from fieldstation.generation.conditions import load_conditions  # noqa: E402
from fieldstation.generation.denoiser import (  # noqa: E402
    ON_CPU,
    TORCH_CPU,
    TORCH_CUDA,
    Denoiser,
    OnnxDenoiser,
    PaintingError,
    check_generator,
)
from fieldstation.generation.noise import noises_for  # noqa: E402
from fieldstation.generation.painter import LEAST_PSNR, Painter, psnr  # noqa: E402
from fieldstation.generation.runtimes import open_denoiser  # noqa: E402
from fieldstation.generation.torch_denoiser import TorchDenoiser  # noqa: E402
from fieldstation.generation.torch_graph import TorchGraph  # noqa: E402
from fieldstation.onnx_session import ProviderMissing  # noqa: E402
from tests.generation.test_denoiser import network, random_weights  # noqa: E402
from tests.onnx_models import make_painting_bundle, make_tone_bundle  # noqa: E402

MOST_APART = 1e-3
"""Of a pixel in -1..1, between two backends of fp32"""
SIDE = 16


@pytest.fixture(scope="module")
def garden() -> Bundle:
    """Return the shipped bundle."""
    return load_bundle(SHIPPED / "garden")


@pytest.fixture
def own(tmp_path: Path) -> Bundle:
    """Return a painting bundle that the test may damage."""
    return make_painting_bundle(tmp_path / "own", image_size=SIDE)


def apart(ours: Denoiser, theirs: Denoiser, side: int, sigma: float, n: int) -> float:
    """Return the largest difference between two denoisers' answers to the same noise."""
    x = np.float32(sigma) * next(noises_for(range(n), (3, side, side)))
    condition = next(noises_for(range(n), (512,)))
    first = ours(x, sigma, condition)
    assert (first.dtype, first.shape) == (np.float32, x.shape)
    return float(np.abs(first - theirs(x, sigma, condition)).max())


@pytest.mark.parametrize("sigma", [0.002, 1.0, 80.0])
def test_the_shipped_network_gives_the_numbers_of_onnxruntime(garden: Bundle, sigma: float) -> None:
    """Attention, resampling, weights stored as fp16; a batch of two and one alone."""
    ours, theirs = open_denoiser(garden, "torch", "cpu"), open_denoiser(garden, provider="cpu")
    assert apart(ours, theirs, 64, sigma, n=2) < MOST_APART
    assert apart(ours, theirs, 64, sigma, n=1) < MOST_APART


def test_the_same_seed_is_the_same_picture(garden: Bundle) -> None:
    """The shipped bundle's guided chain, in fewer steps; other seeds are other pictures."""
    conditions = load_conditions(garden).labels[:2]
    ours, theirs = (
        Painter(garden, open_denoiser(garden, runtime, "cpu")).paint(conditions, [1, 2], n_steps=5)
        for runtime in ("torch", "onnxruntime")
    )
    assert min(psnr(a, b) for a, b in zip(ours, theirs, strict=True)) >= LEAST_PSNR
    assert psnr(ours[0], theirs[1]) < LEAST_PSNR / 2


def test_a_small_generator_passes_its_golden_check(painting: Bundle) -> None:
    """Whole numbers that say a shape, a softmax; the provider says what ran."""
    denoiser = open_denoiser(painting, "torch", "auto", n_threads=2)
    assert check_generator(denoiser, painting) < MOST_APART
    assert apart(denoiser, OnnxDenoiser(painting, "cpu"), 64, 0.7, n=5) < MOST_APART
    assert denoiser.provider == (TORCH_CUDA if torch.cuda.is_available() else TORCH_CPU)
    assert open_denoiser(painting, "torch", "cpu").provider in ON_CPU


def test_it_computes_in_whole_fp32(painting: Bundle) -> None:
    """Tensor cores that round to ten bits would paint another picture of the same seed."""
    torch.backends.cudnn.allow_tf32 = True
    TorchDenoiser(painting, "cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_its_threads_do_not_spin(painting: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a busy ear they have next to no processor to wait on; who knows better is asked."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    open_denoiser(painting, "torch", "cpu")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    open_denoiser(painting, "torch", "cpu")
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


SANDBOXED = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, since Linux 6.3
    sys.exit("no such sandbox")
from fieldstation.bundle import SHIPPED, load_bundle
from fieldstation.generation.denoiser import check_generator
from fieldstation.generation.runtimes import open_denoiser
garden = load_bundle(SHIPPED / "garden")
print(check_generator(open_denoiser(garden, "torch", "cpu"), garden) < 1e-3)
"""


def test_it_writes_no_code_of_its_own() -> None:
    """The worker's unit forbids memory that was written to be executed; oneDNN would want it."""
    words = [sys.executable, "-c", SANDBOXED]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    if "no such sandbox" in ended.stderr:
        pytest.skip("the kernel forbids no such memory")
    assert ended.stdout == "True\n", ended.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(painting: Bundle) -> None:
    """Whoever insists on one is told; nothing is painted elsewhere behind his back."""
    with pytest.raises(ProviderMissing, match=r"generation\.provider is 'cuda'.* finds no CUDA"):
        open_denoiser(painting, "torch", "cuda")


def test_without_torch_the_error_says_what_to_install(
    painting: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who did not ask for torch needs it; who did, and has none, is told in a line."""
    monkeypatch.delitem(sys.modules, "fieldstation.generation.torch_denoiser")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ProviderMissing, match=r"'torch'.* pip install 'fieldstation\[train\]'"):
        open_denoiser(painting, "torch")
    assert open_denoiser(painting).provider not in (TORCH_CPU, TORCH_CUDA)


def test_an_operator_that_is_not_known_is_named(own: Bundle) -> None:
    """Onnxruntime may compute it: the error says how to ask for that."""
    onnx.save(network(random_weights()), own.denoiser_path)
    message = r'has Relu, Tanh, which .* set generation\.runtime = "onnxruntime"'
    with pytest.raises(BundleError, match=message):
        open_denoiser(own, "torch")


def rewritten(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Return what changes a graph's file."""

    def rewrite(path: Path) -> None:
        model = onnx.load(path)
        change(model.graph)
        onnx.save(model, path)

    return rewrite


def rename_input(graph: Any) -> None:
    graph.input[0].name = graph.node[7].input[0] = "y"


def halve_a_weight(graph: Any) -> None:
    next(tensor for tensor in graph.initializer if tensor.name == "colours").dims[0] = 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"no graph"), "cannot be opened: .*: fetch it again"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cannot be opened: "),
        (lambda path: path.unlink(), "cannot be opened: "),
        (rewritten(lambda graph: graph.node.pop(0)), "cannot be opened: "),
        (rewritten(halve_a_weight), "cannot be opened: ValueError"),
        (rewritten(rename_input), r"has the inputs y .* must have x \['batch', 3, 16, 16\]"),
    ],
)
def test_a_damaged_graph_is_refused(
    own: Bundle, damage: Callable[[Path], object], message: str
) -> None:
    """By its path, in one line, as onnxruntime refuses it."""
    damage(own.denoiser_path)
    with pytest.raises(BundleError, match=message) as error:
        open_denoiser(own, "torch", "cpu")
    assert str(own.denoiser_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bundle_that_does_not_paint_is_refused(tmp_path: Path) -> None:
    """An ear alone has no denoiser."""
    with pytest.raises(BundleError, match="bundle ear does not paint"):
        open_denoiser(make_tone_bundle(tmp_path / "ear"), "torch")


def test_what_torch_cannot_do_is_a_painting_error(painting: Bundle) -> None:
    """One name for every failure of a run, with the first line of torch's reason."""
    denoiser = open_denoiser(painting, "torch", "cpu")
    with pytest.raises(PaintingError, match=r"denoiser\.onnx failed: RuntimeError: ") as error:
        denoiser(np.zeros((1, 3, 5, 5), np.float32), 1.0, np.zeros((1, 7), np.float32))
    assert "\n" not in str(error.value)


class Full(TorchGraph):
    """A graph that takes some memory, and finds no more."""

    taken: weakref.ref[Any]

    def __call__(self, *arguments: object) -> Any:
        block = torch.zeros(8)
        self.taken = weakref.ref(block)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee there.")


def test_a_gpu_without_memory_holds_nothing_back(
    painting: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden check that follows finds the memory free, while the error is still looked at."""
    monkeypatch.setattr(torch_denoiser, "TorchGraph", Full)
    denoiser = TorchDenoiser(painting, "cpu")
    with pytest.raises(PaintingError) as error:
        denoiser(np.zeros((1, 3, 64, 64), np.float32), 1.0, np.zeros((1, 512), np.float32))
    assert denoiser._graph.taken() is None  # type: ignore[attr-defined]
    error.match(r"failed: OutOfMemoryError: CUDA .* 2 GiB\.$")


def test_a_gpu_that_others_have_filled_may_be_tried_again(
    painting: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service is started again: the same command may succeed later."""
    graphless: Any = failing(torch.OutOfMemoryError("CUDA out of memory."))
    monkeypatch.setattr(torch_denoiser, "TorchGraph", graphless)
    with pytest.raises(PassingError, match="free its memory"):
        TorchDenoiser(painting, "cpu")


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_a_gpu_too_full_to_begin_may_be_tried_again_too(
    painting: Bundle, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """CUDA itself finds no memory: neither is it missing, nor is the CPU taken for good."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", failing(RuntimeError("CUDA error: out of memory\nSee.")))
    with pytest.raises(PassingError, match=r"RuntimeError: CUDA error: out of memory: free its"):
        TorchDenoiser(painting, provider)


def test_a_gpu_that_computes_nothing_leaves_the_cpu(
    painting: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `auto` it is passed by; who insists is told the reason."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", failing(RuntimeError("CUDA error: no kernel image")))
    assert TorchDenoiser(painting, "auto").provider == TORCH_CPU
    with pytest.raises(ProviderMissing, match=r"compute there .*no kernel image"):
        TorchDenoiser(painting, "cuda")


def failing(error: Exception) -> Callable[..., object]:
    """Return a call that fails."""

    def call(*arguments: object, **named: object) -> None:
        raise error

    return call
