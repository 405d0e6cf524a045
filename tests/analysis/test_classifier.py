"""The classifier runs real ONNX graphs and refuses, in one line, what does not fit its bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fieldstation.analysis.classifier import Classifier, activate, check_golden
from fieldstation.bundle import Bundle, BundleError, Outputs, hash_file, load_bundle
from fieldstation.onnx_session import CPU, CUDA, ProviderMissing
from fieldstation.records import FileOrigin, Window
from tests.onnx_models import FRAME, make_tone_bundle, tone


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that hears 2 kHz as a Chaffinch and 4 kHz as a Great Tit."""
    return make_tone_bundle(tmp_path_factory.mktemp("bundles") / "tones")


def window(samples: np.ndarray[Any, Any], file: FileOrigin | None = None) -> Window:
    """Return a window at the epoch."""
    return Window(samples, started_at=0, offset=0, n_new=len(samples), file=file)


def test_a_tone_is_named_with_its_probability_and_embedding(bundle: Bundle) -> None:
    """2 kHz is a Chaffinch, 4 kHz a Great Tit, silence no bird."""
    names = [label.common_name for label in bundle.labels]
    sounds = [tone(2_000, 1), tone(4_000, 1), np.zeros(22_050, np.float32)]
    predictions = Classifier(bundle).predict([window(sound) for sound in sounds])
    assert [names[int(p.probabilities.argmax())] for p in predictions] == [
        "Chaffinch",
        "Great Tit",
        "no bird",
    ]
    for prediction, sound in zip(predictions, sounds, strict=True):
        assert prediction.probabilities.dtype == np.float32
        assert prediction.probabilities.max() > 0.99
        assert prediction.probabilities.sum() == pytest.approx(1)
        assert prediction.embedding is not None
        assert prediction.embedding.shape == (512,)
        assert prediction.window.samples is sound


def test_a_batch_gives_what_its_windows_give_alone(bundle: Bundle) -> None:
    """How windows are batched changes no result."""
    classifier = Classifier(bundle)
    sounds = [window(tone(f, 1, amplitude=0.03)) for f in (1_990, 2_000, 2_400, 4_000)]
    together = classifier.predict(sounds)
    alone = [classifier.predict([sound])[0] for sound in sounds]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)
    assert classifier.predict([]) == []


def test_a_graph_with_a_fixed_batch_of_one_is_run_one_by_one(tmp_path: Path) -> None:
    """A foreign graph of batch 1 gives the same as an open one."""
    open_batch = Classifier(make_tone_bundle(tmp_path / "open"))
    fixed = Classifier(make_tone_bundle(tmp_path / "fixed", batch=1))
    sounds = np.stack([tone(f, 1) for f in (2_000, 3_000, 4_000)])
    for one, other in zip(open_batch.run(sounds), fixed.run(sounds), strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_graph_without_embedding_gives_none(tmp_path: Path) -> None:
    """A foreign bundle with logits alone works."""
    bundle = make_tone_bundle(tmp_path / "bare", extras=False)
    (prediction,) = Classifier(bundle).predict([window(tone(2_000, 1))])
    assert prediction.embedding is None


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("batch", [None, 1])
def test_frames_say_when_a_tone_was_heard(
    tmp_path: Path, activation: str, batch: int | None
) -> None:
    """Each frame has probabilities of its own: those of a window that were all like it."""
    bundle = make_tone_bundle(tmp_path / "a", activation=activation, batch=batch, frames=True)
    sound = np.concatenate([tone(2_000, 0.5), tone(4_000, 0.5)])
    chaffinch, silence = Classifier(bundle).predict([window(sound), window(0 * sound)])
    assert chaffinch.frames is not None
    assert chaffinch.frames.shape == (3, 22_050 // FRAME)
    assert (chaffinch.frames[0, :20] > 0.99).all()
    assert (chaffinch.frames[0, 23:] < 0.01).all()
    assert (chaffinch.frames[1, 23:] > 0.99).all()
    assert silence.frames is not None
    np.testing.assert_allclose(silence.frames[:, 7], silence.probabilities, atol=1e-6)


def test_frames_are_calibrated_like_windows(tmp_path: Path) -> None:
    """Temperature and each label's own offset hold for its frames too."""
    bundle = make_tone_bundle(tmp_path / "a", activation="sigmoid", frames=True)
    bundle = replace(bundle, temperature=2.0, offsets=(0.5, -1.0, 0.25))
    (prediction,) = Classifier(bundle).predict([window(tone(2_000, 1, amplitude=0.05))])
    assert prediction.frames is not None
    np.testing.assert_allclose(prediction.frames[:, 7], prediction.probabilities, atol=0.01)


def test_a_graph_without_frames_gives_none(bundle: Bundle) -> None:
    """What a bundle does not say is absent, not made up."""
    (prediction,) = Classifier(bundle).predict([window(tone(2_000, 1))])
    assert prediction.frames is None


def test_several_tones_are_heard_at_once_with_sigmoid(tmp_path: Path) -> None:
    """With sigmoid each label stands for itself."""
    bundle = make_tone_bundle(tmp_path / "many", activation="sigmoid")
    (prediction,) = Classifier(bundle).predict([window(tone(2_000, 1) + tone(4_000, 1))])
    assert (prediction.probabilities[:2] > 0.99).all()


def test_a_window_that_is_not_finite_is_refused_by_name(bundle: Bundle) -> None:
    """One NaN among good windows is an error that names instant and file."""
    broken = tone(2_000, 1)
    broken[7] = np.nan
    file = FileOrigin("field.wav", "00", 0)
    with pytest.raises(ValueError, match=r"1970-01-01T00:00:00\S+ of field.wav .* not finite"):
        Classifier(bundle).predict([window(tone(2_000, 1)), window(broken, file)])


def test_a_window_that_overflows_the_encoder_is_refused(bundle: Bundle) -> None:
    """Finite samples whose power exceeds float32 do not become silent NaN."""
    with pytest.raises(ValueError, match=r"its peak is 1e\+30, full scale is 1"):
        Classifier(bundle).predict([window(tone(2_000, 1, amplitude=1) * np.float32(1e30))])


def test_a_window_of_another_length_is_refused(bundle: Bundle) -> None:
    """A window cut for another bundle is an error, not a crash inside the runtime."""
    with pytest.raises(ValueError, match=r"\(22049,\) samples; must be \(22050,\)"):
        Classifier(bundle).predict([window(np.zeros(22_049, np.float32))])


@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    st.floats(0.1, 10),
    st.sampled_from(["softmax", "sigmoid"]),
)
def test_probabilities_stay_in_range_for_any_logits(
    logits: np.ndarray[Any, Any], temperature: float, activation: str
) -> None:
    """No finite logits, however large, give a NaN or leave 0..1."""
    described = plain_bundle(activation=activation, temperature=temperature)
    probabilities = activate(logits, described)
    assert probabilities.dtype == np.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if activation == "softmax":
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_activation_follows_its_closed_form() -> None:
    """softmax and sigmoid of logits / temperature + offsets, against float64 arithmetic."""
    logits = np.array([[2.0, -1.0, 0.5]], np.float32)
    z = np.array([2.0, -1.0, 0.5]) / 2 + np.array([0.1, 0.2, -0.3])
    described = plain_bundle(temperature=2.0, offsets=(0.1, 0.2, -0.3))
    expected = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(activate(logits, described)[0], expected, rtol=1e-6)
    sigmoid = replace(described, activation="sigmoid")
    np.testing.assert_allclose(activate(logits, sigmoid)[0], 1 / (1 + np.exp(-z)), rtol=1e-6)


def plain_bundle(**fields: Any) -> Bundle:
    """Return a bundle of which only the calibration matters."""
    return Bundle(Path(), "plain", "", (), (), 22_050, 22_050, **fields)


def test_the_golden_check_measures_the_difference(bundle: Bundle) -> None:
    """On the machine that made the bundle the golden input gives its logits."""
    assert check_golden(Classifier(bundle), bundle) < 1e-4


def test_the_golden_check_fails_above_the_tolerance(bundle: Bundle) -> None:
    """A bundle whose logits were made by another graph is refused with both numbers."""
    strict = replace(bundle, tolerance={CPU: -1.0})
    with pytest.raises(BundleError, match=r"off by .* on CPUExecutionProvider; at most -1"):
        check_golden(Classifier(bundle), strict)


def test_the_golden_check_is_of_the_graph_not_of_the_calibration(tmp_path: Path) -> None:
    """Another graph under the same description is found out, with the amount."""
    bundle = make_tone_bundle(tmp_path / "tones")
    with np.load(bundle.path / "golden.npz") as arrays:
        changed = {"waveform": arrays["waveform"], "logits": arrays["logits"] + 0.5}
    np.savez(bundle.path / "golden.npz", **changed)
    with pytest.raises(BundleError, match=r"off by 0\.5 "):
        check_golden(Classifier(bundle), bundle)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08\x12"])
def test_a_damaged_graph_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """Whatever the damage, the error names the file in one line."""
    bundle = make_tone_bundle(tmp_path / "tones")
    bundle.encoder_path.write_bytes(content)
    with pytest.raises(BundleError, match=r"encoder\.onnx cannot be opened: .*fetch") as error:
        Classifier(bundle)
    assert "\n" not in str(error.value)


def test_a_truncated_graph_is_refused(tmp_path: Path) -> None:
    """A download that broke off does not open."""
    bundle = make_tone_bundle(tmp_path / "tones")
    content = bundle.encoder_path.read_bytes()
    bundle.encoder_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"encoder\.onnx cannot be opened"):
        Classifier(bundle)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": "audio"}, r"has the inputs waveform; the bundle says audio alone"),
        ({"samples_per_window": 22_051}, r"the bundle says \[batch, 22051\]"),
        ({"outputs": Outputs(logits="scores")}, r"outputs logits, .*; the bundle's logits is 'sc"),
        ({"outputs": Outputs(embedding="vector")}, r"the bundle's embedding is 'vector'"),
        ({"outputs": Outputs(mel="picture")}, r"the bundle's mel is 'picture'"),
        ({"outputs": Outputs(logits="embedding")}, r"logits is \['batch', 512\]; must be .* 3\]"),
        ({"outputs": Outputs(embedding="logits")}, r"must be \[batch, 512\]"),
        ({"outputs": Outputs(frame_logits="frames")}, r"the bundle's frame_logits is 'frames'"),
        ({"outputs": Outputs(frame_logits="logits")}, r"must be \[batch, 3, frames\]"),
        (
            {"outputs": Outputs(frame_logits="mel")},
            r"is \['batch', 2, 43\]; must be \[batch, 3, fr",
        ),
    ],
)
def test_a_graph_that_is_not_what_the_bundle_says_is_refused(
    bundle: Bundle, wrong: dict[str, Any], message: str
) -> None:
    """Names, shapes and label count are compared before the first window."""
    with pytest.raises(BundleError, match=message):
        Classifier(replace(bundle, **wrong))


def test_a_fixed_batch_of_more_than_one_is_refused(tmp_path: Path) -> None:
    """A batch frozen at 4 by an export is named."""
    path = make_tone_bundle(tmp_path / "tones").path
    edit_graph(path, lambda graph: set_dimension(graph.input[0], 0, 4))
    with pytest.raises(BundleError, match="its batch is fixed at 4"):
        Classifier(load_bundle(path))


def test_a_graph_of_another_type_is_refused(tmp_path: Path) -> None:
    """A float16 input is named with the type it must have."""
    path = make_tone_bundle(tmp_path / "tones").path

    def halve(graph: Any) -> None:
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        graph.input[0].name = "half"
        cast = onnx.helper.make_node("Cast", ["half"], ["waveform"], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)

    edit_graph(path, halve, input="half")
    with pytest.raises(BundleError, match=r"tensor\(float16\); must be tensor\(float\)"):
        Classifier(load_bundle(path))


def test_a_graph_with_open_dimensions_is_checked_when_it_runs(tmp_path: Path) -> None:
    """Where the graph names no label count, the golden check finds the wrong one."""
    path = make_tone_bundle(tmp_path / "tones").path

    def open_up(graph: Any) -> None:
        """Let the logits pass a node whose width no shape inference can tell."""
        (last,) = [node for node in graph.node if "logits" in node.output]
        last.output[0] = "all_logits"
        kept = onnx.numpy_helper.from_array(np.ones(3, bool), "kept")
        graph.initializer.append(kept)
        compress = onnx.helper.make_node("Compress", ["all_logits", "kept"], ["logits"], axis=1)
        graph.node.append(compress)
        set_dimension(graph.output[0], 1, "labels")
        set_dimension(graph.input[0], 1, "samples")

    edit_graph(path, open_up)
    opened = load_bundle(path)
    assert check_golden(Classifier(opened), opened) < 1e-4
    fewer = replace(opened, labels=opened.labels[:2], thresholds=opened.thresholds[:2])
    with pytest.raises(BundleError, match=r"gives logits \[1, 3\]; must be \[1, 2\]"):
        Classifier(fewer).run(np.zeros((1, 22_050), np.float32))


def edit_graph(path: Path, edit: Any, **described: Any) -> None:
    """Change a bundle's graph, and its description so that the hash fits again."""
    model = onnx.load(path / "encoder.onnx")
    edit(model.graph)
    onnx.save(model, path / "encoder.onnx")
    raw = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    raw |= {"encoder_id": hash_file(path / "encoder.onnx")[:16], **described}
    (path / "bundle.json").write_text(json.dumps(raw), encoding="utf-8")


def set_dimension(value: Any, axis: int, size: int | str) -> None:
    """Set a dimension of a graph's input or output to a number or to an open name."""
    dimension = value.type.tensor_type.shape.dim[axis]
    dimension.Clear()
    if isinstance(size, int):
        dimension.dim_value = size
    else:
        dimension.dim_param = size


def test_auto_says_which_provider_runs(bundle: Bundle) -> None:
    """The provider is what onnxruntime runs, not what was asked for."""
    assert Classifier(bundle, "cpu").provider == CPU
    assert Classifier(bundle, "auto").provider in (CPU, CUDA)


def test_without_onnxruntime_both_extras_are_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation without either extra says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderMissing, match=r"fieldstation\[cpu\] and fieldstation\[gpu\]"):
        Classifier(bundle)


def test_cuda_without_a_cuda_runtime_is_an_error(bundle: Bundle) -> None:
    """Asked for `cuda`, a CPU build of onnxruntime is refused with the mend."""
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ProviderMissing, match=r"no CUDA: .*fieldstation\[gpu\]"):
        Classifier(bundle, "cuda")


def test_cuda_that_cannot_start_is_an_error_and_auto_goes_on(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU build without a GPU gives the CPU to `auto` and an error to `cuda`."""
    asked: list[Any] = []
    monkeypatch.setitem(sys.modules, "onnxruntime", gpu_build_without_gpu(asked))
    assert Classifier(bundle, "auto").provider == CPU
    assert asked == [(CUDA, {"use_tf32": 0}), CPU]
    with pytest.raises(ProviderMissing, match="could not start CUDA"):
        Classifier(bundle, "cuda")


def gpu_build_without_gpu(asked: list[Any]) -> SimpleNamespace:
    """Return onnxruntime as its GPU build behaves on a machine without one."""
    import onnxruntime as real

    def open_on_cpu(path: Path, sess_options: Any, providers: list[Any]) -> Any:
        asked[:] = providers
        return real.InferenceSession(path, sess_options=sess_options, providers=[CPU])

    return SimpleNamespace(
        capi=real.capi,
        ExecutionMode=real.ExecutionMode,
        SessionOptions=real.SessionOptions,
        get_available_providers=lambda: [CUDA, CPU],
        preload_dlls=lambda: None,
        InferenceSession=open_on_cpu,
    )
