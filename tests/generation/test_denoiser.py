"""The denoiser on onnxruntime: what the card says, nothing else, and as torch has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fieldstation.bundle import Bundle, BundleError
from fieldstation.generation.denoiser import (
    Denoiser,
    OnnxDenoiser,
    PaintingError,
    check_generator,
)
from fieldstation.generation.golden import load_generator_golden, save_generator_golden
from fieldstation.generation.noise import noises_for
from fieldstation.generation.painter import psnr, to_pixels
from fieldstation.generation.sampling import Sampling, sample
from fieldstation.onnx_session import CPU, CUDA, ProviderMissing
from tests.onnx_models import make_painting_bundle, make_tone_bundle

Floats = NDArray[np.float32]
SIDE, CHANNELS = 16, 8


@pytest.fixture
def own(tmp_path: Path) -> Bundle:
    """Return a painting bundle that the test may damage."""
    return make_painting_bundle(tmp_path / "own", image_size=SIDE)


def test_it_denoises_whole_batches(painting: Bundle) -> None:
    """Any batch, one level for all; each row as it is alone."""
    denoiser: Denoiser = OnnxDenoiser(painting, "cpu", n_threads=2)
    x = next(noises_for(range(5), (3, 64, 64)))
    condition = next(noises_for(range(5), (512,)))
    together = denoiser(x, 0.7, condition)
    assert (together.dtype, together.shape) == (np.float32, x.shape)
    for row in range(5):
        alone = denoiser(x[[row]], 0.7, condition[[row]])
        np.testing.assert_allclose(together[[row]], alone, atol=1e-6)


def test_the_provider_is_the_one_that_runs(painting: Bundle) -> None:
    """`auto` says what it got; `cuda` on a machine without is refused, naming its own setting."""
    assert OnnxDenoiser(painting, "cpu").provider == CPU
    assert OnnxDenoiser(painting, "auto").provider in (CPU, CUDA)
    if CUDA not in onnxruntime.get_available_providers():
        with pytest.raises(ProviderMissing, match=r"generation\.provider is 'cuda'"):
            OnnxDenoiser(painting, "cuda")


def test_the_golden_check_passes_as_it_was_written(painting: Bundle) -> None:
    """The same graph on the same kind of machine gives the same numbers."""
    assert check_generator(OnnxDenoiser(painting, "cpu"), painting) < 1e-5


@pytest.mark.parametrize("error", [0.002, np.inf])
def test_another_answer_to_the_golden_input_is_refused(own: Bundle, error: float) -> None:
    """Weights that were damaged where no checksum looked are noticed before they paint."""
    golden = load_generator_golden(own)
    denoised = golden.denoised.copy()
    denoised.flat[7] += error
    save_generator_golden(own.path, replace(golden, denoised=denoised))
    message = r"golden check is off by .* on CPUExec|is \[2, 3, 16, 16\], or not finite"
    with pytest.raises(BundleError, match=message):
        check_generator(OnnxDenoiser(own, "cpu"), own)


def test_the_golden_check_holds_to_the_tolerance_of_the_card(own: Bundle) -> None:
    """What the card allows passes, and by a hair more does not."""
    golden = load_generator_golden(own)
    save_generator_golden(own.path, replace(golden, denoised=golden.denoised + np.float32(0.005)))
    assert own.generator is not None

    def check(tolerance: float) -> float:
        card = replace(own.generator, tolerance={CPU: tolerance})
        return check_generator(OnnxDenoiser(own, "cpu"), replace(own, generator=card))

    assert check(0.0051) == pytest.approx(0.005, rel=1e-3)
    with pytest.raises(BundleError, match=r"off by 0.005 on CPUExecutionProvider; at most 0.0049"):
        check(0.0049)


def without_golden(path: Path) -> None:
    (path / "generator_golden.npz").unlink()


def with_golden(path: Path, **changes: Any) -> None:
    """Exchange arrays of generator_golden.npz; None leaves one out."""
    with np.load(path / "generator_golden.npz") as arrays:
        kept = {**arrays, **changes}
    kept = {name: array for name, array in kept.items() if array is not None}
    np.savez(path / "generator_golden.npz", **kept)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_golden, "is missing or damaged"),
        (lambda path: (path / "generator_golden.npz").write_bytes(b"PK"), "missing or damaged"),
        (lambda path: with_golden(path, denoised=None), "damaged: .*denoised"),
        (lambda path: with_golden(path, x=np.zeros((2, 3, 8, 8))), r"x is \[2, 3, 8, 8\]"),
        (lambda path: with_golden(path, sigma=np.float32(1)), r"must be \[0"),
        (lambda path: with_golden(path, sigma=np.array([1, np.nan])), "or not finite"),
        (lambda path: with_golden(path, picture=np.zeros(3)), r"picture is \[3\]"),
        (lambda path: with_golden(path, picture_seed=np.array("seven")), "missing or damaged"),
    ],
)
def test_a_golden_file_that_cannot_be_used_is_refused(
    own: Bundle, damage: Callable[[Path], object], message: str
) -> None:
    """A check that cannot be made is an error, never one that passes."""
    damage(own.path)
    with pytest.raises(BundleError, match=message) as error:
        load_generator_golden(own)
    assert "\n" not in str(error.value)


def test_a_bundle_that_does_not_paint_is_refused(tmp_path: Path) -> None:
    """An ear alone has no denoiser; the error says where to find one that has."""
    bundle = make_tone_bundle(tmp_path / "ear")
    for act in (OnnxDenoiser, load_generator_golden):
        with pytest.raises(BundleError, match="bundle ear does not paint"):
            act(bundle)


def test_a_damaged_graph_is_refused(own: Bundle) -> None:
    """What is no graph is named by its path, in one line."""
    own.denoiser_path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"denoiser\.onnx cannot be opened: ") as error:
        OnnxDenoiser(own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda graph: rename(graph.input[0], "y"),
            r"has the inputs y .* must have x \['batch', 3",
        ),
        (lambda graph: fix(graph.input[2], 1, 128), r"must have condition \['batch', 512\]"),
        (lambda graph: fix(graph.input[0], 2, 32), r"must have x \['batch', 3, 16, 16\]"),
    ],
)
def test_a_graph_with_other_ends_is_refused(
    own: Bundle, change: Callable[[Any], None], message: str
) -> None:
    """The card says how the graph is asked; one that must be asked otherwise is not run."""
    model = onnx.load(own.denoiser_path)
    change(model.graph)
    model.graph.ClearField("node")  # so that nothing hangs on the ends' old names and shapes
    model.graph.ClearField("initializer")
    size = np.array([1, 3, SIDE, SIDE], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(size, "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["denoised"]))
    onnx.save(model, own.denoiser_path)
    with pytest.raises(BundleError, match=message):
        OnnxDenoiser(own)


def rename(value: Any, name: str) -> None:
    value.name = name


def fix(value: Any, axis: int, size: int) -> None:
    value.type.tensor_type.shape.dim[axis].dim_value = size


def test_what_onnxruntime_cannot_do_is_a_painting_error(painting: Bundle) -> None:
    """A failure in a run has one name, whatever onnxruntime calls it."""
    with pytest.raises(PaintingError, match=r"denoiser\.onnx failed: "):
        OnnxDenoiser(painting, "cpu")(np.zeros((1, 3, 5, 5), np.float32), 1.0, np.zeros((1, 512)))


def test_torch_and_onnxruntime_paint_the_same_picture(tmp_path: Path) -> None:
    """A network with weights: |Δ| < 1e-3 a call, and the whole guided chain above 45 dB."""
    torch = pytest.importorskip("torch")
    weights = random_weights()
    bundle = make_painting_bundle(tmp_path / "network", image_size=SIDE)
    onnx.save(network(weights), bundle.denoiser_path)
    denoiser = OnnxDenoiser(bundle, "cpu", n_threads=2)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}

    def in_torch(x: Any, sigma: float, condition: Any) -> Any:
        scale = 1 / np.sqrt(0.25 + sigma**2)
        h = torch.conv2d(x * scale, tensors["in"], padding=1)
        h = torch.relu(h + (condition @ tensors["mix"])[:, :, None, None])
        return 0.25 * scale**2 * x + sigma * scale * 0.5 * torch.tanh(
            torch.conv2d(h, tensors["out"], padding=1)
        )

    condition = next(noises_for(range(4), (512,)))
    null = np.zeros(512, np.float32)
    x = next(noises_for(range(4), (3, SIDE, SIDE)))
    for sigma in (0.002, 0.1, 1.0, 10.0, 80.0):
        ours = denoiser(sigma * x, sigma, condition)
        theirs = in_torch(torch.from_numpy(sigma * x), sigma, torch.from_numpy(condition)).numpy()
        assert np.abs(ours - theirs).max() < 1e-4, sigma
    sampling = Sampling("dpmpp_2m", 16, 2.0, (0.1, 10.0), 0.002, 80.0)
    for solver in ("dpmpp_2m", "heun", "ancestral"):
        chosen = replace(sampling, solver=solver, n_steps=50 if solver == "ancestral" else 16)
        noises = noises_for(range(4), (3, SIDE, SIDE))
        ours = sample(denoiser, condition, null, noises, chosen)
        noises = map(torch.from_numpy, noises_for(range(4), (3, SIDE, SIDE)))
        theirs = sample(
            in_torch, torch.from_numpy(condition), torch.from_numpy(null), noises, chosen
        ).numpy()
        assert ours.std() > 0.1
        assert psnr(to_pixels(ours), to_pixels(theirs)) >= 45, solver


def random_weights() -> dict[str, Floats]:
    """Return the weights of two convolutions and of what the condition adds between them."""
    random = np.random.default_rng(20_261_121)
    shapes = {"in": (CHANNELS, 3, 3, 3), "mix": (512, CHANNELS), "out": (3, CHANNELS, 3, 3)}
    fans = {"in": 27, "mix": 512, "out": 9 * CHANNELS}
    return {
        name: (2 * random.standard_normal(shape) / np.sqrt(fans[name])).astype(np.float32)
        for name, shape in shapes.items()
    }


def network(weights: dict[str, Floats]) -> Any:
    """Return a small network as Karras et al. (2022, table 1) condition theirs, sigma_data 0.5."""
    scalars = {"quarter": 0.25, "half": 0.5}
    constants = {
        **weights,
        **{name: np.array([value], np.float32) for name, value in scalars.items()},
        "column": np.array([-1, 1, 1, 1], np.int64),
        "pixel": np.array([-1, CHANNELS, 1, 1], np.int64),
    }
    steps = [
        ("Reshape", ["sigma", "column"], "level"),
        ("Mul", ["level", "level"], "noise"),
        ("Add", ["noise", "quarter"], "total"),
        ("Sqrt", ["total"], "spread"),
        ("Div", ["x", "spread"], "scaled"),
        ("Conv", ["scaled", "in"], "seen"),
        ("MatMul", ["condition", "mix"], "told"),
        ("Reshape", ["told", "pixel"], "bias"),
        ("Add", ["seen", "bias"], "both"),
        ("Relu", ["both"], "hidden"),
        ("Conv", ["hidden", "out"], "raw"),
        ("Tanh", ["raw"], "bounded"),
        ("Div", ["quarter", "total"], "skip"),
        ("Mul", ["x", "skip"], "kept"),
        ("Div", ["level", "spread"], "strength"),
        ("Mul", ["strength", "half"], "halved"),
        ("Mul", ["bounded", "halved"], "added"),
        ("Add", ["kept", "added"], "denoised"),
    ]
    nodes = [
        helper.make_node(
            kind, inputs, [output], **({"pads": [1, 1, 1, 1]} if kind == "Conv" else {})
        )
        for kind, inputs, output in steps
    ]
    shapes: dict[str, list[Any]] = {
        "x": ["batch", 3, SIDE, SIDE],
        "sigma": ["batch"],
        "condition": ["batch", 512],
        "denoised": ["batch", 3, SIDE, SIDE],
    }
    ends = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [ends["x"], ends["sigma"], ends["condition"]],
        [ends["denoised"]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)
