"""Tiny real encoders for tests: an ONNX graph that names tones as birds, in milliseconds.

    bundle = make_tone_bundle(tmp_path / "tones")           # 2 kHz: Chaffinch, 4 kHz: Great Tit
    samples = tone(2_000, seconds=3, sample_rate=bundle.sample_rate)

The graph measures the energy at each label's frequency in frames of 512 samples and compares the
window's mean with that of a tone of amplitude 0.03: louder is the label, quieter is not. A tone
of the default amplitude need cover only a fifth of a window to be named.

    bundle = make_painting_bundle(tmp_path / "paints")      # the same ear; red for 2 kHz, green …

adds a generator whose pictures are grains around one colour a bird: it is the ideal denoiser of
pixels drawn from N(colour, GRAIN²), so what its samplers must give is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fieldstation.bundle import Bundle, Golden, Outputs, save_bundle, save_generator
from fieldstation.generation.conditions import Conditions, save_conditions
from fieldstation.generation.golden import GeneratorGolden, save_generator_golden
from fieldstation.generation.noise import noise_for, noises_for
from fieldstation.generation.painter import to_pixels
from fieldstation.generation.sampling import Sampling, sample
from fieldstation.generator_card import GeneratorCard
from fieldstation.records import Label, LabelKind

TONES: Mapping[str, float] = {"Fringilla coelebs": 2_000.0, "Parus major": 4_000.0}
"""Hertz per scientific name"""
COMMON_NAMES = {"Fringilla coelebs": "Chaffinch", "Parus major": "Great Tit"}
NO_BIRD = Label("no bird", "no bird", LabelKind.NO_BIRD)
FRAME = 512
REFERENCE_ENERGY = 1e-3
"""Mean frame energy (amplitude squared) at which a label is as likely as not"""
SLOPE = 2.0
FLOOR = 1e-8
COLOURS = ((0.8, -0.8, -0.8), (-0.8, 0.8, -0.8), (-0.8, -0.8, 0.8))
"""Red, green and blue in -1..1: of the first tone, the second, the third, the first again …"""
GRAIN = 0.1
"""Standard deviation of a picture's pixels"""
LABEL_STRENGTH = 4.0
"""A label's vector is that many of its tone's direction in the embedding"""


def tone(
    frequency: float, seconds: float, sample_rate: int = 22_050, amplitude: float = 0.2
) -> NDArray[np.float32]:
    """Return a sine as float32 [n]."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return (amplitude * np.sin(2 * np.pi * frequency * t)).astype(np.float32)


def make_tone_bundle(
    folder: Path,
    frequencies: Mapping[str, float] = TONES,
    sample_rate: int = 22_050,
    samples: int = 22_050,
    activation: str = "softmax",
    threshold: float = 0.5,
    batch: int | None = None,
    extras: bool = True,
    frames: bool = False,
) -> Bundle:
    """Write a bundle whose encoder hears tones; the last label is `no bird`.

    Args:
        folder: is made; its name is the bundle's.
        frequencies: hertz per scientific name, at least 200 Hz apart.
        samples: per window.
        activation: `softmax` names one tone at a time, `sigmoid` several at once (and then
            `no bird` is always at one half).
        batch: a number freezes the graph's batch; None leaves it open.
        extras: whether the graph has the outputs `embedding` and `mel`.
        frames: whether it has the output `frame_logits`: the same by frame.
    """
    folder.mkdir(parents=True)
    graph = tone_encoder(frequencies, sample_rate, samples, batch, extras, frames)
    onnx.save(graph, folder / "encoder.onnx")
    labels = [Label(name, COMMON_NAMES.get(name, name)) for name in frequencies]
    bundle = Bundle(
        path=folder,
        name=folder.name,
        encoder_id="",
        labels=(*labels, NO_BIRD),
        thresholds=(threshold,) * (len(labels) + 1),
        sample_rate=sample_rate,
        samples_per_window=samples,
        outputs=_outputs(extras, frames),
        activation=activation,
        licence="CC0-1.0",
        trained_on={"data": "none: the graph was written by hand"},
    )
    return save_bundle(bundle, _golden(bundle, frequencies), "Made by a test.")


def tone_encoder(
    frequencies: Mapping[str, float],
    sample_rate: int,
    samples: int,
    batch: int | None = None,
    extras: bool = True,
    frames: bool = False,
) -> Any:
    """Return the ONNX model: waveform [batch, samples] -> logits [batch, tones + 1]."""
    n, n_tones = batch or "batch", len(frequencies)
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [n, n_tones + 1])]
    n_frames = samples // FRAME
    if extras:
        outputs += [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [n, 512]),
            helper.make_tensor_value_info("mel", TensorProto.FLOAT, [n, n_tones, n_frames]),
        ]
    if frames:
        shape = [n, n_tones + 1, n_frames]
        outputs.append(helper.make_tensor_value_info("frame_logits", TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        _nodes(extras, frames),
        "tones",
        [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [n, samples])],
        outputs,
        [
            numpy_helper.from_array(array, name)
            for name, array in _weights(list(frequencies.values()), sample_rate).items()
            if (extras or name != "to_embedding") and (frames or name != "to_frame_logits")
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    return model


def _outputs(extras: bool, frames: bool) -> Outputs:
    outputs = Outputs() if extras else Outputs(embedding=None, mel=None)
    return replace(outputs, frame_logits="frame_logits") if frames else outputs


def _nodes(extras: bool, frames: bool) -> list[Any]:
    """Return the graph: Hann-windowed sines and cosines, squared, summed, averaged, compared."""
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "channel_axis"], ["framed"]),
        helper.make_node("Conv", ["framed", "waves"], ["parts"], strides=[FRAME]),
        helper.make_node("Mul", ["parts", "parts"], ["squares"]),
        helper.make_node("MatMul", ["pairs", "squares"], ["energy"]),
        helper.make_node("ReduceMean", ["energy"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("Add", ["mean", "floor"], ["floored"]),
        helper.make_node("Div", ["floored", "reference"], ["ratio"]),
        helper.make_node("Log", ["ratio"], ["log_ratio"]),
        helper.make_node("Gemm", ["log_ratio", "to_logits"], ["logits"]),
    ]
    if extras:
        nodes += [
            helper.make_node("MatMul", ["log_ratio", "to_embedding"], ["embedding"]),
            helper.make_node("Identity", ["energy"], ["mel"]),
        ]
    if frames:
        nodes += [
            helper.make_node("Add", ["energy", "floor"], ["frame_floored"]),
            helper.make_node("Div", ["frame_floored", "reference"], ["frame_ratio"]),
            helper.make_node("Log", ["frame_ratio"], ["frame_log_ratio"]),
            helper.make_node("MatMul", ["to_frame_logits", "frame_log_ratio"], ["frame_logits"]),
        ]
    return nodes


def _weights(frequencies: list[float], sample_rate: int) -> dict[str, NDArray[Any]]:
    n_tones = len(frequencies)
    hann = np.hanning(FRAME + 1)[:-1]
    phase = 2 * np.pi * np.outer(frequencies, np.arange(FRAME)) / sample_rate
    waves = np.stack([np.sin(phase), np.cos(phase)], axis=1) * (2 * hann / hann.sum())
    return {
        "channel_axis": np.array([1], np.int64),
        "waves": waves.reshape(2 * n_tones, 1, FRAME).astype(np.float32),
        "pairs": np.kron(np.eye(n_tones), np.ones(2)).astype(np.float32),
        "floor": np.float32(FLOOR).reshape(1),
        "reference": np.float32(REFERENCE_ENERGY).reshape(1),
        "to_logits": (SLOPE * np.eye(n_tones, n_tones + 1)).astype(np.float32),
        "to_frame_logits": (SLOPE * np.eye(n_tones + 1, n_tones)).astype(np.float32),
        "to_embedding": _to_embedding(n_tones),
    }


def _to_embedding(n_tones: int) -> NDArray[np.float32]:
    """Return the direction of each tone in the embedding, float32 [n_tones, 512]."""
    return np.random.default_rng(0).normal(size=(n_tones, 512)).astype(np.float32)


def _golden(bundle: Bundle, frequencies: Mapping[str, float]) -> Golden:
    """Return every tone once and silence, with what onnxruntime makes of them."""
    rows = [tone(f, bundle.window_s, bundle.sample_rate) for f in frequencies.values()]
    rows.append(np.zeros(bundle.samples_per_window, np.float32))
    session = onnxruntime.InferenceSession(bundle.encoder_path, providers=["CPUExecutionProvider"])
    logits = [session.run(["logits"], {"waveform": row[None]})[0] for row in rows]
    return Golden(np.stack(rows), np.concatenate(logits))


def make_painting_bundle(
    folder: Path,
    frequencies: Mapping[str, float] = TONES,
    paints: Sequence[str] | None = None,
    image_size: int = 64,
    n_steps: int = 6,
    guidance_scale: float = 1.5,
    **ear: Any,
) -> Bundle:
    """Write a bundle that hears tones and paints each in its colour, a picture in milliseconds.

    Args:
        folder: is made; its name is the bundle's.
        frequencies: hertz per scientific name.
        paints: scientific names; default: all of `frequencies`.
        ear: as of `make_tone_bundle`.
    """
    bundle = make_tone_bundle(folder, frequencies, **ear)
    names = tuple(frequencies)
    directions = _to_embedding(len(names))
    onnx.save(painting_denoiser(directions, image_size), bundle.denoiser_path)
    conditions = Conditions(
        mean=np.zeros(512, np.float32),
        scale=np.full(512, 2.0, np.float32),
        labels=LABEL_STRENGTH * directions,
        label_names=names,
        null=np.zeros(512, np.float32),
    )
    save_conditions(folder, conditions)
    card = GeneratorCard(
        encoder_id=bundle.encoder_id,
        paints=tuple(paints if paints is not None else names),
        image_size=image_size,
        n_steps=n_steps,
        guidance_scale=guidance_scale,
        guidance_interval=(0.05, 20.0),
        licence="CC0-1.0",
    )
    save_generator_golden(folder, _generator_golden(bundle, conditions, card))
    return save_generator(bundle, card, "Made by a test.")


def painting_denoiser(directions: NDArray[np.float32], side: int) -> Any:
    """Return the ONNX model: (GRAIN² x + sigma² colour) / (GRAIN² + sigma²).

    The colour is that of the tone whose direction the condition has most of, a mixture for none:
    COLOURS by the softmax of the condition along each direction.
    """
    colours = np.array([COLOURS[i % len(COLOURS)] for i in range(len(directions))])
    weights = {
        "directions": directions.T / np.square(directions).sum(axis=1),
        "colours": colours,
        "variance": np.full(1, GRAIN**2),
        "column": np.array([-1, 1, 1, 1], np.int64),
        "pixel": np.array([-1, 3, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["condition", "directions"], ["along"]),
        helper.make_node("Softmax", ["along"], ["share"], axis=1),
        helper.make_node("MatMul", ["share", "colours"], ["rgb"]),
        helper.make_node("Reshape", ["rgb", "pixel"], ["colour"]),
        helper.make_node("Reshape", ["sigma", "column"], ["level"]),
        helper.make_node("Mul", ["level", "level"], ["noise"]),
        helper.make_node("Mul", ["noise", "colour"], ["known"]),
        helper.make_node("Mul", ["x", "variance"], ["seen"]),
        helper.make_node("Add", ["known", "seen"], ["sum"]),
        helper.make_node("Add", ["noise", "variance"], ["total"]),
        helper.make_node("Div", ["sum", "total"], ["denoised"]),
    ]
    picture = ["batch", 3, side, side]
    graph = helper.make_graph(
        nodes,
        "colours",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, picture),
            helper.make_tensor_value_info("sigma", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("condition", TensorProto.FLOAT, ["batch", 512]),
        ],
        [helper.make_tensor_value_info("denoised", TensorProto.FLOAT, picture)],
        [
            numpy_helper.from_array(a if a.dtype == np.int64 else a.astype(np.float32), name)
            for name, a in weights.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    return model


def _generator_golden(
    bundle: Bundle, conditions: Conditions, card: GeneratorCard
) -> GeneratorGolden:
    """Return what onnxruntime makes of each species at two noise levels, and of one seed."""
    session = onnxruntime.InferenceSession(bundle.denoiser_path, providers=["CPUExecutionProvider"])

    def denoise(x: Any, sigma: Any, condition: Any) -> Any:
        levels = np.broadcast_to(np.float32(sigma), len(x))
        inputs = {"x": x, "sigma": levels, "condition": condition}
        return session.run(["denoised"], inputs)[0]

    n, seed = len(conditions.labels), 20_261_121
    shape = (3, card.image_size, card.image_size)
    sigma = np.resize(np.array([0.5, 5.0], np.float32), n)
    x = sigma[:, None, None, None] * np.stack([noise_for(i, shape) for i in range(n)])
    picture = sample(
        denoise,
        conditions.labels[:1],
        conditions.null,
        noises_for([seed], shape),
        Sampling.of_card(card),
    )
    return GeneratorGolden(
        x=x,
        sigma=sigma,
        condition=conditions.labels,
        denoised=denoise(x, sigma, conditions.labels),
        picture_condition=conditions.labels[0],
        picture_seed=seed,
        picture=to_pixels(picture)[0],
    )
