"""Add, list, show or choose a model; any ONNX graph from waveform to logits can be one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldstation.commands.context import Context, add_context_arguments, load_context
from fieldstation.state import State

if TYPE_CHECKING:
    from fieldstation.bundle import Bundle
    from fieldstation.generator_card import GeneratorCard

EXAMPLES = """  fieldstation bundle list
  fieldstation bundle show garden
  fieldstation bundle add birdnet.onnx --labels labels.txt --rate 48000 --activation sigmoid
  fieldstation bundle add birdnet.onnx --labels labels.txt --rate 48000 --species europe.txt
  fieldstation bundle use birdnet
Labels, in the order of the logits: a text file with a line `Scientific name_Common name` or
`Scientific name` each (a label whose two names are the same, such as Engine_Engine, is no
species), or a .csv with the columns scientific_name, common_name and, if wanted, kind (species,
no_bird or unknown_bird).
`use` writes one line into the state folder; a model.bundle in the settings comes before it.
A station and a worker that run go on with what they began with: restart both.
"""
N_SHOWN = 60
"""Labels that `show` prints unless asked for all"""
N_UNHEARD = 5
"""Names of a list that `add` repeats where the model does not know them"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="make a bundle of an ONNX model")
    _add_model_arguments(add)
    listing = actions.add_parser("list", help="what there is; * is in use")
    show = actions.add_parser("show", help="labels, thresholds, licence, figures")
    show.add_argument("name", nargs="?", help="default: the one in use")
    show.add_argument("--all", action="store_true", help=f"labels beyond the first {N_SHOWN} too")
    use = actions.add_parser("use", help="choose the one that `run` takes")
    use.add_argument("name", help="or a folder")
    for action, act in ((add, _add), (listing, _list), (show, _show), (use, _use)):
        add_context_arguments(action)
        action.set_defaults(act=act)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx")
    add("--labels", type=Path, required=True, metavar="FILE", help=".txt or .csv")
    add("--rate", type=int, required=True, metavar="HZ", help="that it was trained at")
    add("--samples", type=int, metavar="N", help="per window; default: the graph's")
    add(
        "--activation",
        choices=("sigmoid", "softmax", "none"),
        help="from logits to probabilities; none: the graph gives them (default: sigmoid)",
    )
    add("--threshold", type=float, default=0.5, metavar="P", help="default: 0.5")
    add("--species", type=Path, metavar="FILE", help="only these make events; default: all")
    add("--logits", metavar="NAME", help="output; default: the one as wide as the labels")
    add("--embedding", metavar="NAME", help="output of 512, or none; default: the one as wide")
    add("--frames", metavar="NAME", help="output of logits per frame: events end with the call")
    add("--licence", default="unknown", metavar="TEXT", help="of the model")
    add("--name", help="default: the file's")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    args.act(args, load_context(args))
    return 0


def _add(args: argparse.Namespace, context: Context) -> None:
    from fieldstation.adoption import Said, adopt, name_for
    from fieldstation.label_lists import only_species, read_labels, strangers

    labels = read_labels(args.labels)
    unheard = strangers(labels, args.species) if args.species else []
    if args.species:
        labels = only_species(labels, args.species)
    said = Said(
        labels=labels,
        sample_rate=args.rate,
        n_samples=args.samples,
        activation=args.activation,
        threshold=args.threshold,
        logits=args.logits,
        embedding=args.embedding,
        frames=args.frames,
        licence=args.licence,
    )
    context.state.prepare()
    name = args.name or name_for(args.model)
    bundle = adopt(args.model, context.state.folder / "bundles", name, said)
    n_others = len(bundle.labels) - len(bundle.species)
    print(
        f"{bundle.name}: {len(bundle.species)} species"
        f"{f' and {n_others} other labels' if n_others else ''}, {_window(bundle)}, "
        f"{bundle.activation}, threshold {args.threshold:g}, in {bundle.path}\n"
        f"{_unheard(unheard)}"
        f"try it: fieldstation run --demo --bundle {bundle.name}\n"
        f"keep it: fieldstation bundle use {bundle.name}"
    )


def _unheard(names: Sequence[str]) -> str:
    """Return a line about names of --species that make no event."""
    if not names:
        return ""
    more = f" and {len(names) - N_UNHEARD} more" if len(names) > N_UNHEARD else ""
    shown = ", ".join(names[:N_UNHEARD])
    return (
        f"not among its labels, so never heard: {shown}{more} (scientific names, as in --labels)\n"
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
        paints = f", paints {len(bundle.generator.paints)}" if bundle.generator else ""
        print(
            f"{mark} {name}  {len(bundle.species)} species{paints}, {_window(bundle)}, "
            f"{bundle.licence}, {bundle.path}"
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
    if bundle.generator:
        _show_generator(bundle.generator)
    n_shown = len(bundle.labels) if args.all else N_SHOWN
    for label, threshold in list(zip(bundle.labels, bundle.thresholds, strict=True))[:n_shown]:
        needs = f"{threshold:.3g}" if label.kind == "species" else label.kind.value
        worth = _worth(bundle.metrics, label.scientific_name, threshold)
        print(f"  {label.common_name} ({label.scientific_name})  {needs}{worth}")
    if len(bundle.labels) > n_shown:
        print(f"  … and {len(bundle.labels) - n_shown} more (--all)")


def _worth(metrics: Mapping[str, Any], name: str, threshold: float) -> str:
    """Return precision and recall of a label's threshold, where the bundle's card has them."""
    told: Any = metrics
    for key in ("calibration", "labels", name):
        told = told.get(key) if isinstance(told, dict) else None
    if not isinstance(told, dict):
        return ""
    precision, recall, n = (told.get(key) for key in ("precision", "recall", "n"))
    # a threshold that background lifted was never measured
    lower = "" if told.get("threshold") == threshold else f" at {told.get('threshold')}"
    return (
        f", precision {'–' if precision is None else precision}, "
        f"recall {'–' if recall is None else recall} of {n} held out{lower}"
    )


def _show_generator(card: GeneratorCard) -> None:
    print(f"generator    {card.generator_id}, {card.profile} {card.size}, {card.licence}")
    print(f"samples by   {card.solver}, {card.n_steps} steps, guidance {card.guidance_scale:g}")
    for title, told in (("trained on", card.trained_on), ("metrics", card.metrics)):
        for key, value in told.items():
            print(f"  {title:<11}{key}: {_shorten(value)}")
    print(f"paints       {', '.join(card.paints)}")


def _use(args: argparse.Namespace, context: Context) -> None:
    from fieldstation.analysis.classifier import Classifier, check_golden
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.generation.denoiser import check_generator
    from fieldstation.generation.runtimes import open_denoiser

    path = find_bundle(args.name, context.state.folder)
    bundle = load_bundle(path)
    check_golden(Classifier(bundle, context.settings.model.provider), bundle)
    if bundle.generator:
        generation = context.settings.generation
        check_generator(open_denoiser(bundle, generation.runtime, generation.provider), bundle)
    context.state.prepare()
    context.state.choose_bundle(_lasting_name(args.name, path, context))
    print(f"{bundle.name} is in use from the next start on ({path})")
    if _has_worker(context.state):
        print(
            "a worker that runs now keeps the bundle before and cannot paint what this one hears: "
            "restart it together with the station"
        )
    if context.settings.model.bundle not in ("", args.name):
        print(
            f"but model.bundle is {context.settings.model.bundle!r} in "
            f"{context.config_path or 'the environment'} and comes first: remove it there"
        )


def _has_worker(state: State) -> bool:
    """Return whether a worker runs on a state folder."""
    return any(State(place).holder() for place in (state.folder / "worker").glob("*"))


def _lasting_name(name: str, path: Path, context: Context) -> str:
    """Return what finds a bundle from any folder: its name where it is known by one."""
    from fieldstation.bundle import SHIPPED

    known = (context.state.folder / "bundles" / name, SHIPPED / name)
    return name if os.sep not in name and path in known else str(path.resolve())


def _names(context: Context) -> list[str]:
    from fieldstation.bundle import SHIPPED

    folders = (context.state.folder / "bundles", SHIPPED)
    found = {path.parent.name for folder in folders for path in folder.glob("*/bundle.json")}
    return sorted(found | {context.bundle_name()})


def _window(bundle: Bundle) -> str:
    return f"windows of {bundle.window_s:g} s at {bundle.sample_rate} Hz"


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}…"
