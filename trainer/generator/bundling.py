"""A trained generator as part of a bundle: graph, conditions, golden check, card and notice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldstation.bundle import DENOISER, Bundle, save_generator
from fieldstation.generation.conditions import Conditions, save_conditions
from fieldstation.generation.denoiser import OnnxDenoiser
from fieldstation.generation.golden import GeneratorGolden, save_generator_golden
from fieldstation.generation.painter import Painter
from fieldstation.generator_card import GeneratorCard, check_card
from trainer.data.images import GARDEN, TRAIN, Photograph, counted
from trainer.generator.export import Exported, checked_inputs, write_denoiser
from trainer.generator.fitting import FittedGenerator
from trainer.generator.training import AVERAGES, Generator, take_kept

PAINTED_FROM = 50
"""Photographs: with fewer a generator repeats them instead of painting the species"""
N_GOLDEN = 2
GOLDEN_SEED = 1
CARD = (
    *("profile", "size", "condition", "fold", "seed", "images_seen", "pretrain_images"),
    *("half_images", "batch_size", "learning_rate", "precision", "seconds", "n_weights", "device"),
    *("encoder_id", "images", "calls", "versions", "shuffled", "changes"),
)
"""What the card repeats of a training's result"""


@dataclass(frozen=True, slots=True)
class Packaging:
    """What the bundle is to say beside what was trained; None: as the profile says."""

    weights: str = "average"
    """`average`, `last`, or a file of a kept average"""
    solver: str | None = None
    n_steps: int | None = None
    guidance_scale: float | None = None
    painted_from: int = PAINTED_FROM
    name: str | None = None
    """Of the bundle; None: as its folder is called"""


def bundle_generator(fitted: FittedGenerator, folder: Path, how: Packaging) -> Bundle:
    """Write a bundle that hears as the encoder's bundle does, and paints.

    Raises:
        ExportError: the graph is not what was trained.
        BundleError: the card says what cannot be.
    """
    encoder = copied(fitted.encoder, folder)
    encoder = replace(encoder, name=how.name or folder.resolve().name)
    generator = weights_of(fitted, how.weights)
    exported = write_denoiser(generator.denoiser, folder / DENOISER)
    save_conditions(folder, conditions_of(fitted, generator))
    card = card_of(fitted, how, exported)
    save_generator_golden(folder, golden_of(replace(encoder, generator=card)))
    return save_generator(encoder, card, notice(learnt_from(fitted)))


def copied(encoder: Bundle, folder: Path) -> Bundle:
    """Return the encoder's bundle in another folder; a generator that it has stays behind."""
    if folder.resolve() == encoder.path.resolve():
        return replace(encoder, generator=None)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("encoder.onnx", "golden.npz", "NOTICE", "bundle.json"):
        if (encoder.path / name).is_file():
            shutil.copyfile(encoder.path / name, folder / name)
    return replace(encoder, path=folder, generator=None)


def weights_of(fitted: FittedGenerator, name: str) -> Generator:
    """Return the average of a training's weights, its last ones, or those of a kept file.

    Raises:
        ValueError: none of them.
    """
    training = fitted.training
    if name.endswith(".pt"):
        take_kept(training.average, Path(name))
    elif name not in ("average", "last"):
        raise ValueError(f"weights is {name!r}; average, last, or a file of {AVERAGES}/")
    return training.generator if name == "last" else training.average


def conditions_of(fitted: FittedGenerator, generator: Generator) -> Conditions:
    """Return how the station makes conditions: only of species that are the garden's."""
    lessons = fitted.training.lessons
    garden = counted(p for p in lessons.images.photographs if p.set == GARDEN)
    kept = [i for i, name in enumerate(lessons.species) if name in garden]
    return Conditions(
        mean=lessons.mean,
        scale=lessons.scale,
        labels=generator.labels.detach().float().cpu().numpy()[kept],
        label_names=tuple(lessons.species[i] for i in kept),
        null=generator.null.detach().float().cpu().numpy(),
    )


def card_of(fitted: FittedGenerator, how: Packaging, exported: Exported) -> GeneratorCard:
    """Return the generator's description.

    Raises:
        ValueError: it is to be sampled as cannot be.
    """
    profile, photographs = fitted.training.profile, learnt_from(fitted)
    sigma_min, sigma_max = profile.sigma_range
    card = GeneratorCard(
        encoder_id=fitted.training.identity["encoder_id"],
        paints=painted(photographs, how.painted_from),
        profile=profile.name,
        size=fitted.order.size,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        solver=how.solver or profile.solver,
        n_steps=profile.n_steps if how.n_steps is None else how.n_steps,
        guidance_scale=(
            profile.guidance_scale if how.guidance_scale is None else how.guidance_scale
        ),
        guidance_interval=profile.guidance_interval,
        licence=licence(photographs),
        trained_on=trained_on(fitted, how, photographs),
        metrics={
            "validation": fitted.progress.history[-1:],
            "export_max_abs_delta": exported.delta,
            "half_weights_max_abs_delta": exported.half_delta,
        },
    )
    check_card(card)
    return card


def golden_of(bundle: Bundle) -> GeneratorGolden:
    """Return inputs with what this machine's onnxruntime makes of them."""
    x, sigma, condition = (t.numpy()[:N_GOLDEN] for t in checked_inputs())
    denoiser = OnnxDenoiser(bundle, provider="cpu")
    picture = Painter(bundle, denoiser).paint(condition[:1], [GOLDEN_SEED])[0]
    return GeneratorGolden(
        x=x,
        sigma=sigma,
        condition=condition,
        denoised=denoiser.run(x, sigma, condition),
        picture_condition=condition[0],
        picture_seed=GOLDEN_SEED,
        picture=np.asarray(picture, np.uint8),
    )


def painted(photographs: Iterable[Photograph], least: int) -> tuple[str, ...]:
    """Return the garden's species with enough photographs, or all where none has."""
    counts = counted(p for p in photographs if p.set == GARDEN)
    enough = sorted(name for name, n in counts.items() if n >= least)
    return tuple(enough or sorted(counts))


def learnt_from(fitted: FittedGenerator) -> list[Photograph]:
    """Return the photographs that a training has drawn from."""
    training = fitted.training
    drawn = {GARDEN} if not fitted.result["pretrain_images"] else set(training.lessons.groups)
    photographs = training.lessons.images.photographs
    return [p for p in photographs if p.split == TRAIN and p.set in drawn]


def trained_on(
    fitted: FittedGenerator, how: Packaging, photographs: Iterable[Photograph]
) -> Mapping[str, Any]:
    """Return what the card says about the training."""
    return {
        **{key: fitted.result[key] for key in CARD},
        "weights": Path(how.weights).name,
        "photographs": dict(Counter(p.set for p in photographs)),
        "recordings": len(np.unique(fitted.calls.recording)),
    }


def licence(photographs: Iterable[Photograph]) -> str:
    """Return under which terms the weights stand: all of those of the photographs at once."""
    texts = {p.licence or "not stated" for p in photographs}
    return "that of every photograph it learnt from: " + "; ".join(sorted(texts))


def notice(photographs: Iterable[Photograph]) -> str:
    """Return the text of NOTICE.generator: whose pictures are in the weights, by what right."""
    photographs = list(photographs)
    licences = Counter(p.licence or "not stated" for p in photographs)
    origins = Counter(p.origin or "not stated" for p in photographs)
    species = counted(photographs)
    return "\n".join(
        [
            "denoiser.onnx and conditions.npz were trained on other people's photographs, none",
            "of which is in this folder, and on what the encoder heard in the recordings that",
            "NOTICE names. What it paints is generated and identifies nothing.",
            *_section("Licences of the photographs, as their sources state them", licences),
            *_section("Collections they were taken from", origins),
            *_section("Species", species),
        ]
    )


def _section(title: str, counts: Counter[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {n:5d}  {text}" for text, n in counts.most_common())]
