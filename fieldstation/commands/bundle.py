"""Add, list, show or choose a model; any ONNX graph from waveform to logits can be one."""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fieldstation.commands.context import Context, add_context_arguments, load_context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fieldstation.bundle import Bundle
    from fieldstation.records import Label

EXAMPLES = """  fieldstation bundle list
  fieldstation bundle show garden
  fieldstation bundle add birdnet.onnx --labels labels.txt --rate 48000 --activation sigmoid
  fieldstation bundle use birdnet
Labels, in the order of the logits: a text file with a line `Scientific name_Common name` each (a
label whose two names are the same, such as Engine_Engine, is no species), or a .csv with the
columns scientific_name, common_name and, if wanted, kind (species, no_bird or unknown_bird).
"""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
GOLDEN_SEED = 0
GOLDEN_AMPLITUDE = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="make a bundle of an ONNX model")
    add.add_argument("model", type=Path, metavar="MODEL.onnx")
    add.add_argument("--labels", type=Path, required=True, metavar="FILE", help=".txt or .csv")
    add.add_argument("--rate", type=int, required=True, metavar="HZ", help="that it was trained at")
    add.add_argument("--samples", type=int, metavar="N", help="per window; default: the graph's")
    add.add_argument("--activation", choices=("sigmoid", "softmax"), default="sigmoid")
    add.add_argument("--threshold", type=float, default=0.5, metavar="P", help="default: 0.5")
    add.add_argument("--licence", default="unknown", metavar="TEXT", help="of the model")
    add.add_argument("--name", help="default: the file's")
    listing = actions.add_parser("list", help="what there is; * is in use")
    show = actions.add_parser("show", help="labels, thresholds, licence, figures")
    show.add_argument("name", nargs="?", help="default: the one in use")
    use = actions.add_parser("use", help="choose the one that `run` takes")
    use.add_argument("name")
    for action, act in ((add, _add), (listing, _list), (show, _show), (use, _use)):
        add_context_arguments(action)
        action.set_defaults(act=act)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    args.act(args, load_context(args))
    return 0


def _add(args: argparse.Namespace, context: Context) -> None:
    labels = read_labels(args.labels)
    context.state.prepare()
    bundle = adopt(
        args.model,
        context.state.folder / "bundles",
        name=args.name or args.model.stem,
        labels=labels,
        sample_rate=args.rate,
        n_samples=args.samples,
        activation=args.activation,
        threshold=args.threshold,
        licence=args.licence,
    )
    n_others = len(bundle.labels) - len(bundle.species)
    print(
        f"{bundle.name}: {len(bundle.species)} species"
        f"{f' and {n_others} other labels' if n_others else ''}, windows of "
        f"{bundle.window_s:g} s at {bundle.sample_rate} Hz, in {bundle.path}\n"
        f"try it: fieldstation bundle use {bundle.name}"
    )


def _list(args: argparse.Namespace, context: Context) -> None:
    from fieldstation.bundle import BundleError, find_bundle, load_bundle

    for name in _names(context):
        mark = "*" if name == context.bundle_name() else " "
        try:
            bundle = load_bundle(find_bundle(name, context.state.folder))
        except BundleError as error:
            print(f"{mark} {name}: {error}")
            continue
        print(
            f"{mark} {name}  {len(bundle.species)} species, {bundle.window_s:g} s at "
            f"{bundle.sample_rate} Hz, {bundle.licence}, {bundle.path}"
        )


def _show(args: argparse.Namespace, context: Context) -> None:
    from fieldstation.bundle import find_bundle, load_bundle

    bundle = load_bundle(find_bundle(args.name or context.bundle_name(), context.state.folder))
    print(f"name         {bundle.name}\nfolder       {bundle.path}")
    print(f"encoder      {bundle.encoder_id}\nlicence      {bundle.licence}")
    print(f"window       {bundle.samples_per_window} samples at {bundle.sample_rate} Hz")
    print(f"activation   {bundle.activation}, temperature {bundle.temperature:g}")
    for title, card in (("trained on", bundle.trained_on), ("metrics", bundle.metrics)):
        for key, value in card.items():
            print(f"{title:<13}{key}: {_shorten(value)}")
    for label, threshold in zip(bundle.labels, bundle.thresholds, strict=True):
        needs = f"{threshold:.3g}" if label in bundle.species else label.kind.value
        print(f"  {label.common_name} ({label.scientific_name})  {needs}")


def _use(args: argparse.Namespace, context: Context) -> None:
    from fieldstation.analysis.classifier import Classifier, check_golden
    from fieldstation.bundle import find_bundle, load_bundle

    path = find_bundle(args.name, context.state.folder)
    bundle = load_bundle(path)
    check_golden(Classifier(bundle, context.settings.model.provider), bundle)
    context.state.prepare()
    context.state.choose_bundle(args.name)
    print(f"{bundle.name} is in use from the next start on ({path})")
    if context.settings.model.bundle not in ("", args.name):
        print(f"but the settings name {context.settings.model.bundle!r}, which comes first")


def read_labels(path: Path) -> tuple[Label, ...]:
    """Return the labels of a file, in its order.

    Raises:
        BundleError: it cannot be read, or a line is no label.
    """
    from fieldstation.bundle import BundleError

    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = csv.DictReader(text.splitlines()) if path.suffix.lower() == ".csv" else None
        labels = tuple(_csv_labels(rows) if rows else _text_labels(text))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is no list of labels: {error}") from error
    if not labels:
        raise BundleError(f"{path} holds no labels: a line `Scientific name_Common name` each")
    return labels


def _csv_labels(rows: csv.DictReader[str]) -> Iterator[Label]:
    from fieldstation.records import Label, LabelKind

    for number, row in enumerate(rows, start=2):
        scientific_name = row.get("scientific_name")
        if not scientific_name:
            raise ValueError(f"line {number} has no scientific_name")
        common_name = row.get("common_name") or scientific_name
        kind = LabelKind(row.get("kind") or LabelKind.SPECIES)
        yield Label(scientific_name, common_name, kind)


def _text_labels(text: str) -> Iterator[Label]:
    from fieldstation.records import Label, LabelKind

    for line in filter(None, map(str.strip, text.splitlines())):
        scientific_name, _, common_name = line.partition("_")
        kind = LabelKind.NO_BIRD if scientific_name == common_name else LabelKind.SPECIES
        yield Label(scientific_name, common_name or scientific_name, kind)


def adopt(
    model: Path,
    folder: Path,
    *,
    name: str,
    labels: Sequence[Label],
    sample_rate: int,
    n_samples: int | None = None,
    activation: str = "sigmoid",
    threshold: float = 0.5,
    licence: str = "unknown",
) -> Bundle:
    """Make a bundle of a foreign model; it appears below `folder` complete or not at all.

    The golden check is what the model gives now, on this machine's CPU: it guards against later
    damage and against another provider's arithmetic, not against a model that was wrong.

    Raises:
        BundleError: the name is taken or no name, or the graph is not what it is said to be.
        ProviderMissing: onnxruntime is not installed.
    """
    from fieldstation.bundle import BundleError, load_bundle

    if not NAME.fullmatch(name):
        raise BundleError(f"{name!r} cannot name a bundle: use letters, digits, . _ - (--name)")
    target = folder / name
    if target.exists():
        raise BundleError(f"{target} exists: choose another --name, or remove it")
    described = _describe(model, labels, sample_rate, n_samples)
    described = replace(
        described,
        name=name,
        thresholds=(threshold,) * len(labels),
        activation=activation,
        licence=licence,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".adding-") as temporary:
            built = Path(temporary) / name
            built.mkdir(mode=0o755)
            shutil.copyfile(model, built / "encoder.onnx")
            _complete(replace(described, path=built))
            built.rename(target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from error
    return load_bundle(target)


def _describe(
    model: Path, labels: Sequence[Label], sample_rate: int, n_samples: int | None
) -> Bundle:
    """Return what the graph itself tells of a bundle."""
    from fieldstation.analysis.classifier import EMBEDDING, read_ends
    from fieldstation.bundle import Bundle, BundleError, Outputs

    ends = read_ends(model)
    if len(ends.inputs) != 1:
        raise BundleError(f"{model} has the inputs {', '.join(ends.inputs)}; must have one")
    ((input_name, shape),) = ends.inputs.items()
    n_samples = n_samples or next((n for n in shape[1:] if isinstance(n, int)), None)
    if n_samples is None:
        raise BundleError(f"{model} takes windows of any length: say --samples")
    widths = {name: shape[-1] for name, shape in ends.outputs.items() if len(shape) == 2}
    logits = [name for name, width in widths.items() if width == len(labels)]
    logits = logits or [name for name, width in widths.items() if not isinstance(width, int)]
    if not logits:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in ends.outputs.items())
        raise BundleError(f"{model} gives {shapes}: none is [batch, {len(labels)}] as the labels")
    embedding = [name for name, width in widths.items() if width == EMBEDDING and name != logits[0]]
    return Bundle(
        path=model.parent,
        name="",
        encoder_id="",
        labels=tuple(labels),
        thresholds=(),
        sample_rate=sample_rate,
        samples_per_window=n_samples,
        input=input_name,
        outputs=Outputs(logits[0], next(iter(embedding), None), mel=None),
    )


def _complete(bundle: Bundle) -> None:
    """Run the encoder for its golden check and write the rest of the bundle beside it."""
    from fieldstation.analysis.classifier import Classifier, check_golden, rehearse
    from fieldstation.bundle import Golden, save_bundle

    waveform = golden_waveform(bundle.samples_per_window, bundle.sample_rate)
    logits = rehearse(Classifier(bundle, "cpu"), waveform)
    notice = f"Added by `fieldstation bundle add`. Licence of the model: {bundle.licence}."
    saved = save_bundle(bundle, Golden(waveform, logits), notice)
    check_golden(Classifier(saved, "cpu"), saved)


def golden_waveform(n_samples: int, sample_rate: int) -> NDArray[np.float32]:
    """Return noise and a rising tone, float32 [2, n]: every mel band hears something."""
    import numpy as np

    noise = np.random.default_rng(GOLDEN_SEED).normal(0, GOLDEN_AMPLITUDE, n_samples)
    t = np.arange(n_samples) / sample_rate
    slope = sample_rate / 2 / t[-1]  # hertz a second, up to half the sample rate
    tone = GOLDEN_AMPLITUDE * np.sin(np.pi * slope * t**2)
    return np.stack([noise, tone]).astype(np.float32)


def _names(context: Context) -> list[str]:
    from fieldstation.bundle import SHIPPED

    folders = (context.state.folder / "bundles", SHIPPED)
    found = {path.parent.name for folder in folders for path in folder.glob("*/bundle.json")}
    return sorted(found | {context.bundle_name()})


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}…"
