"""A model bundle: a folder that describes itself.

    bundle.json    labels in logit order, sample rate, outputs, temperature, thresholds, card
    encoder.onnx   waveform [batch, samples] -> logits [batch, labels]
                   (+ embedding, mel, frame_logits)
    golden.npz     an input and what the encoder must make of it
    NOTICE         licence and sources of what it was trained on (free text)

and, where it can paint what it hears:

    denoiser.onnx           x [batch, 3, side, side], sigma, condition [batch, 512] -> denoised
    conditions.npz          how an embedding or a species becomes a condition
    generator_golden.npz    an input and what the denoiser must make of it
    NOTICE.generator        licence and sources of the pictures that it was trained on

This module reads, checks and writes the folder; it runs nothing. `docs/bundle.md` has the fields.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fieldstation.errors import MendableError
from fieldstation.generator_card import GeneratorCard, check_card, read_card
from fieldstation.records import Label, LabelKind

SCHEMA = 1
SHIPPED = Path(__file__).parent / "bundles"
SAMPLE_RATES = 1_000, 384_000
"""Hertz: the least and the most that a graph may want"""
WINDOW_S = 0.1, 60.0
"""Seconds: the least and the most that a graph may listen to at once"""
ACTIVATIONS = ("softmax", "sigmoid", "none")
DEFAULT_TOLERANCE = {"CPUExecutionProvider": 1e-3, "CUDAExecutionProvider": 1e-2}
DENOISER = "denoiser.onnx"
CONDITIONS = "conditions.npz"
GENERATOR_GOLDEN = "generator_golden.npz"

_DAMAGED_ARRAYS = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    BadZipFile,
    RuntimeError,
    zlib.error,
)
"""What numpy and zipfile raise on a damaged .npz"""


class BundleError(MendableError):
    """The bundle cannot be used; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Names of the graph's outputs; None where a foreign bundle has none."""

    logits: str = "logits"
    embedding: str | None = "embedding"
    mel: str | None = "mel"
    frame_logits: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """An input and its expected outputs, from the machine that made the bundle."""

    waveform: NDArray[np.float32]
    """float32 [batch, samples]"""
    logits: NDArray[np.float32]
    """float32 [batch, labels]"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle."""

    path: Path
    name: str
    encoder_id: str
    """First 16 hexadecimal digits of the sha256 of encoder.onnx"""
    labels: tuple[Label, ...]
    thresholds: tuple[float, ...]
    """Per label, in 0..1"""
    sample_rate: int
    """Hertz"""
    samples_per_window: int
    outputs: Outputs = Outputs()
    input: str = "waveform"
    activation: str = "softmax"
    temperature: float = 1.0
    """Logits are divided by it"""
    offsets: tuple[float, ...] = ()
    """Added to the logits after the temperature; empty means none"""
    generator: GeneratorCard | None = None
    """None where the bundle does not paint"""
    licence: str = "unknown"
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tolerance: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_TOLERANCE))
    """Largest |Δlogit| of the golden check, per onnxruntime provider"""

    @property
    def encoder_path(self) -> Path:
        """Return where the encoder's graph is."""
        return self.path / "encoder.onnx"

    @property
    def denoiser_path(self) -> Path:
        """Return where the generator's graph is."""
        return self.path / DENOISER

    @property
    def generator_id(self) -> str | None:
        """Return the generator's id; None where there is none."""
        return self.generator.generator_id if self.generator else None

    @property
    def window_s(self) -> float:
        """Return the window's length in seconds."""
        return self.samples_per_window / self.sample_rate

    @property
    def species(self) -> tuple[Label, ...]:
        """Return the labels that can become events."""
        return tuple(label for label in self.labels if label.kind is LabelKind.SPECIES)


def find_bundle(name: str, state: Path | None = None) -> Path:
    """Return the folder of a bundle named by path, or by name below the state or the package.

    Raises:
        BundleError: there is none.
    """
    places = [Path(name)] if os.sep in name or name in (".", "..") else []
    if not places:
        places = [*([state / "bundles" / name] if state else []), SHIPPED / name, Path(name)]
    for place in places:
        if (place / "bundle.json").is_file():
            return place
    shipped = sorted(p.parent.name for p in SHIPPED.glob("*/bundle.json"))
    raise BundleError(
        f"model.bundle is {name!r}; no bundle.json in {', '.join(map(str, places))}: "
        f"name a folder or one of {', '.join(shipped) or '(none shipped)'}"
    )


def load_bundle(path: Path) -> Bundle:
    """Read and check a bundle's description; the graph itself is opened by the classifier.

    Raises:
        BundleError: a file is missing or damaged, or a field is wrong.
    """
    raw = _read_description(path)
    if raw.get("schema") != SCHEMA:
        raise BundleError(
            f"{path}/bundle.json has schema {raw.get('schema')!r}; this fieldstation reads "
            f"{SCHEMA}: update fieldstation or fetch the bundle again"
        )
    try:
        labels = tuple(_label(entry) for entry in raw["labels"])
        bundle = Bundle(
            path=path,
            name=str(raw["name"]),
            encoder_id=str(raw["encoder_id"]),
            generator=_generator(path, raw.get("generator")),
            labels=labels,
            thresholds=tuple(float(t) for t in raw["thresholds"]),
            sample_rate=int(raw["sample_rate"]),
            samples_per_window=int(raw["samples_per_window"]),
            outputs=Outputs(**raw.get("outputs", {})),
            input=str(raw.get("input", "waveform")),
            activation=str(raw.get("activation", "softmax")),
            temperature=float(raw.get("temperature", 1.0)),
            offsets=tuple(float(o) for o in raw.get("offsets", ())),
            licence=str(raw.get("licence", "unknown")),
            trained_on=dict(raw.get("trained_on", {})),
            metrics=dict(raw.get("metrics", {})),
            tolerance=DEFAULT_TOLERANCE
            | {name: float(value) for name, value in raw.get("tolerance", {}).items()},
        )
    except KeyError as error:
        raise BundleError(f"{path}/bundle.json lacks {error}: fetch the bundle again") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path}/bundle.json is damaged: {error}: fetch it again") from error
    _check(bundle)
    if raw.get("generator_id") != bundle.generator_id:
        raise BundleError(
            f"{path}/bundle.json says generator_id {raw.get('generator_id')!r}, its generator "
            f"{bundle.generator_id!r}: fetch the bundle again"
        )
    return bundle


def load_golden(bundle: Bundle) -> Golden:
    """Read golden.npz.

    Raises:
        BundleError: missing, damaged, or of another shape than the bundle says.
    """
    path = bundle.path / "golden.npz"
    arrays = read_arrays(path, {"waveform": np.float32, "logits": np.float32})
    golden = Golden(arrays["waveform"], arrays["logits"])
    _check_golden(path, golden, bundle)
    return golden


def read_arrays(
    path: Path, dtypes: Mapping[str, DTypeLike], may_lack: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Return named arrays of an .npz file, each as the dtype asked for.

    Args:
        may_lack: names that need not be there.

    Raises:
        BundleError: the file or an array is missing or damaged.
    """
    try:
        with ZipFile(path) as archive:
            if damaged := archive.testzip():  # before numpy parses headers: it raises anything
                raise BadZipFile(f"bad checksum of {damaged}")
        with np.load(path, allow_pickle=False) as arrays:
            there = {n: dtype for n, dtype in dtypes.items() if n in arrays or n not in may_lack}
            return {name: np.asarray(arrays[name], dtype) for name, dtype in there.items()}
    except _DAMAGED_ARRAYS as error:
        raise BundleError(f"{path} is missing or damaged: {error}: fetch it again") from error


def save_bundle(bundle: Bundle, golden: Golden, notice: str) -> Bundle:
    """Write bundle.json, golden.npz and NOTICE beside the encoder that `bundle.path` holds.

    Returns:
        the bundle with its `encoder_id` computed from the file.
    """
    np.savez_compressed(
        bundle.path / "golden.npz",
        waveform=np.asarray(golden.waveform, np.float32),
        logits=np.asarray(golden.logits, np.float32),
    )
    (bundle.path / "NOTICE").write_text(notice.rstrip() + "\n", encoding="utf-8")
    return _write_description(replace(bundle, encoder_id=hash_file(bundle.encoder_path)[:16]))


def save_generator(bundle: Bundle, card: GeneratorCard, notice: str) -> Bundle:
    """Add a generator to the bundle, whose folder holds its three files, or exchange it.

    Returns:
        the bundle with the card, its `generator_id` computed from the files.

    Raises:
        BundleError: a file is missing, the card is wrong, or it was made for another encoder.
    """
    _check_generator_files(bundle.path)
    card = replace(card, generator_id=hash_generator(bundle.path))
    try:
        check_card(card)
    except ValueError as error:
        raise BundleError(f"{bundle.path}: generator: {error}") from error
    _check_origin(bundle, card)
    (bundle.path / "NOTICE.generator").write_text(notice.rstrip() + "\n", encoding="utf-8")
    return _write_description(replace(bundle, generator=card))


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_generator(folder: Path) -> str:
    """Return the generator's id: it changes with the denoiser and with its conditions."""
    digest = hashlib.sha256()
    for name in (DENOISER, CONDITIONS):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _write_description(bundle: Bundle) -> Bundle:
    """Write bundle.json, whole or not at all, and return what it now says.

    Raises:
        BundleError: it says what cannot be; then the file stays as it was.
    """
    _check(bundle)
    described = {key: value for key, value in asdict(bundle).items() if key != "path"}
    described |= {"schema": SCHEMA, "generator_id": bundle.generator_id}
    temporary = bundle.path / "bundle.json.tmp"
    temporary.write_text(
        json.dumps(described, indent=1, ensure_ascii=False, default=dict) + "\n", encoding="utf-8"
    )
    temporary.replace(bundle.path / "bundle.json")
    return load_bundle(bundle.path)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads((path / "bundle.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path} is no bundle: {error.strerror or error}") from error
    except ValueError as error:
        raise BundleError(f"{path}/bundle.json is damaged: {error}: fetch it again") from error
    if not isinstance(raw, dict):
        raise BundleError(f"{path}/bundle.json is damaged: not an object: fetch it again")
    return raw


def _label(entry: Mapping[str, Any]) -> Label:
    kind = LabelKind(entry.get("kind", "species"))
    return Label(str(entry["scientific_name"]), str(entry["common_name"]), kind)


def _generator(path: Path, raw: Mapping[str, Any] | None) -> GeneratorCard | None:
    try:
        return None if raw is None else read_card(raw)
    except KeyError as error:
        raise BundleError(
            f"{path}/bundle.json lacks {error} in generator: fetch the bundle again"
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path}/bundle.json: generator: {error}: fetch it again") from error


def _check_golden(path: Path, golden: Golden, bundle: Bundle) -> None:
    n = len(golden.logits) if golden.logits.ndim else 0
    wanted = (n, bundle.samples_per_window), (n, len(bundle.labels))
    if n < 1 or (golden.waveform.shape, golden.logits.shape) != wanted:
        raise BundleError(
            f"{path} holds {golden.waveform.shape} -> {golden.logits.shape}; the bundle says "
            f"[n, {bundle.samples_per_window}] -> [n, {len(bundle.labels)}]: fetch it again"
        )
    if not (np.isfinite(golden.waveform).all() and np.isfinite(golden.logits).all()):
        raise BundleError(f"{path} holds values that are not finite: fetch it again")


def _check(bundle: Bundle) -> None:
    where = f"{bundle.path}/bundle.json"
    n = len(bundle.labels)
    names = [label.scientific_name for label in bundle.labels]
    if n < 1 or len(set(names)) != n:
        raise BundleError(f"{where}: labels must be named once each, at least one; there are {n}")
    _check_lengths(where, n, {"thresholds": bundle.thresholds, "offsets": bundle.offsets or None})
    if wrong := [t for t in bundle.thresholds if not 0 <= t <= 1]:
        raise BundleError(f"{where}: thresholds must lie in 0..1; {len(wrong)} do not: {wrong[:3]}")
    low, high = SAMPLE_RATES
    if not low <= bundle.sample_rate <= high:
        raise BundleError(f"{where}: sample_rate is {bundle.sample_rate}; {low} to {high} Hz")
    least, most = WINDOW_S
    if not least <= bundle.window_s <= most:
        raise BundleError(
            f"{where}: samples_per_window is {bundle.samples_per_window}; {least:g} to {most:g} s"
        )
    if not (math.isfinite(bundle.temperature) and bundle.temperature > 0):
        raise BundleError(f"{where}: temperature is {bundle.temperature}; must be above 0")
    if bundle.activation not in ACTIVATIONS:
        raise BundleError(f"{where}: activation is {bundle.activation!r}; one of {ACTIVATIONS}")
    if bundle.activation == "none" and (bundle.temperature != 1 or bundle.offsets):
        raise BundleError(f"{where}: activation is none, so temperature must be 1 and offsets none")
    _check_names(where, bundle)
    if not all(tolerance > 0 for tolerance in bundle.tolerance.values()):
        raise BundleError(f"{where}: tolerance {dict(bundle.tolerance)} must be above 0")
    _check_encoder(bundle)
    _check_generator(bundle)


def _check_names(where: str, bundle: Bundle) -> None:
    """Check that the graph's ends are named; only the optional outputs may have none."""
    for role, name in asdict(bundle.outputs).items():
        if name is None and role != "logits":
            continue
        if not isinstance(name, str) or not name:
            raise BundleError(f"{where}: outputs.{role} is {name!r}; must be a name")


def _check_encoder(bundle: Bundle) -> None:
    """Check that the graph is there and is the one that was described."""
    if not bundle.encoder_path.is_file():
        raise BundleError(f"{bundle.encoder_path} is missing: fetch the bundle again")
    try:
        found = hash_file(bundle.encoder_path)[:16]
    except OSError as error:
        raise BundleError(f"{bundle.encoder_path} cannot be read: {error.strerror}") from error
    if found != bundle.encoder_id:
        raise BundleError(
            f"{bundle.encoder_path} hashes to {found}; bundle.json says {bundle.encoder_id}: "
            "the file is damaged or was exchanged: fetch the bundle again"
        )


def _check_generator(bundle: Bundle) -> None:
    """Check that the generator is whole, is the one that was described, and fits the encoder."""
    if bundle.generator is None:
        return
    _check_generator_files(bundle.path)
    try:
        found = hash_generator(bundle.path)
    except OSError as error:
        raise BundleError(
            f"the generator in {bundle.path} cannot be read: {error.strerror}"
        ) from error
    if found != bundle.generator.generator_id:
        raise BundleError(
            f"{bundle.path}: {DENOISER} and {CONDITIONS} hash to {found}; bundle.json says "
            f"{bundle.generator.generator_id}: a file is damaged or was exchanged: fetch the "
            "bundle again"
        )
    _check_origin(bundle, bundle.generator)


def _check_generator_files(folder: Path) -> None:
    for name in (DENOISER, CONDITIONS, GENERATOR_GOLDEN):
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing: fetch the bundle again")


def _check_origin(bundle: Bundle, card: GeneratorCard) -> None:
    """Check that the generator knows this encoder's embeddings; without any it paints by name."""
    if bundle.outputs.embedding is not None and card.encoder_id != bundle.encoder_id:
        raise BundleError(
            f"{bundle.path}: its generator was made for encoder {card.encoder_id}; the bundle's "
            f"is {bundle.encoder_id}, whose embeddings mean something else: train a generator "
            "for it, or take the bundle whose encoder it was made for"
        )


def _check_lengths(where: str, n: int, lists: Mapping[str, Sequence[float] | None]) -> None:
    for name, values in lists.items():
        if values is not None and len(values) != n:
            raise BundleError(f"{where}: {len(values)} {name} for {n} labels")
        if values is not None and not all(map(math.isfinite, values)):
            raise BundleError(f"{where}: {name} holds a value that is not finite")
