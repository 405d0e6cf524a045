"""Paints what a worker has claimed: from a job to a PNG that says what it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from PIL import Image as PngImage

from fieldstation.bundle import Bundle
from fieldstation.generation.conditions import Call
from fieldstation.generation.denoiser import Denoiser, check_generator
from fieldstation.generation.incoming import read_picture
from fieldstation.generation.noise import seed_of
from fieldstation.generation.painter import Painter
from fieldstation.generation.pictures import (
    Provenance,
    caption_of,
    captioned,
    encode,
    enlarge,
    to_png,
)
from fieldstation.records import Job, Picture


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """A job's picture."""

    png: bytes
    seed: int
    width: int
    height: int


class Artist:
    """A bundle's generator, painting jobs."""

    def __init__(self, bundle: Bundle, denoiser: Denoiser) -> None:
        """Check the generator against its golden input.

        Raises:
            MendableError: the bundle does not paint, or not as it should.
        """
        self._bundle = bundle
        self._denoiser = denoiser
        self._painter = Painter(bundle, denoiser)
        self.check()

    @property
    def generator_id(self) -> str:
        """Return which generator paints."""
        return self._painter.card.generator_id

    @property
    def encoder_id(self) -> str:
        """Return whose embeddings it knows."""
        return self._painter.card.encoder_id

    @property
    def provider(self) -> str:
        """Return what really runs it."""
        return self._denoiser.provider

    def check(self) -> None:
        """See that the golden input gives what it must.

        Raises:
            BundleError: it does not.
        """
        check_generator(self._denoiser, self._bundle)

    def paint(self, jobs: Sequence[Job]) -> list[Painted]:
        """Return the jobs' pictures, in their order.

        Raises:
            Unpaintable: one of them cannot be painted by this bundle.
            Exception: whatever else painting may meet.
        """
        conditions = np.stack([self._painter.condition_of(_call(job)) for job in jobs])
        seeds = [seed_of(UUID(job.event_id)) for job in jobs]
        pictures = self._painter.paint(conditions, seeds)
        return [
            Painted(
                encode(pixels, self._provenance(job, seed)), seed, pixels.shape[1], pixels.shape[0]
            )
            for job, seed, pixels in zip(jobs, seeds, pictures, strict=True)
        ]

    def _provenance(self, job: Job, seed: int) -> Provenance:
        return Provenance(
            bundle=self._bundle.name,
            generator_id=self.generator_id,
            encoder_id=job.encoder_id,
            seed=seed,
            sampling=self._painter.sampling,
            scientific_name=job.scientific_name,
            common_name=job.common_name,
            probability=job.probability,
            event_id=job.event_id,
            is_of_call=job.embedding is not None,
        )


def display_of(png: bytes, picture: Picture) -> bytes:
    """Return a picture for people: enlarged, over a strip that says what it is.

    Raises:
        NotAPicture: it is none of ours.
    """
    pixels = read_picture(png)
    with PngImage.open(io.BytesIO(png), formats=("PNG",)) as opened:
        texts = {str(name): text for name, text in opened.info.items() if isinstance(text, str)}
    caption = caption_of(picture.scientific_name, picture.common_name, picture.probability)
    return to_png(captioned(enlarge(pixels), caption), texts)


def _call(job: Job) -> Call:
    """Return what the generator is told of a job."""
    if job.embedding is None:
        return Call(job.scientific_name)
    embedding = np.frombuffer(job.embedding, "<f2").astype(np.float32)
    return Call(job.scientific_name, embedding, job.encoder_id)
