"""What the settings want of pictures: whether, of which events, and how long they are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fieldstation.bundle import Bundle
from fieldstation.clock import US_PER_S
from fieldstation.config import GenerationSettings, Settings
from fieldstation.gallery import Gallery
from fieldstation.store.database import Database
from fieldstation.store.images import Images
from fieldstation.store.job_maker import JobMaker, JobPolicy
from fieldstation.store.jobs import Jobs
from fieldstation.store.retention import pause_for
from fieldstation.words import counted

log = logging.getLogger(__name__)

US_PER_DAY = 86_400 * US_PER_S
BYTES_PER_MB = 1_000_000
PRUNE_FOR_S = 20.0
"""Thousands of rows; what is left goes an hour later"""


def are_wanted(settings: Settings, bundle: Bundle) -> bool:
    """Return whether events are to be painted, here or elsewhere."""
    enabled = settings.generation.enabled
    return bundle.generator is not None if enabled is None else enabled


def sends_embeddings(settings: Settings, bundle: Bundle) -> bool:
    """Return whether a detection's message carries what the encoder said of the call."""
    wanted = settings.mqtt.embedding
    return are_wanted(settings, bundle) if wanted is None else wanted


def job_maker(settings: Settings, bundle: Bundle) -> JobMaker | None:
    """Return what makes the log's jobs; None where no pictures are wanted."""
    if not are_wanted(settings, bundle):
        return None
    return JobMaker(policy_of(settings.generation, bundle))


def policy_of(generation: GenerationSettings, bundle: Bundle) -> JobPolicy:
    """Return which events are painted; any species, where another bundle's worker paints them."""
    card = bundle.generator
    return JobPolicy(
        which=generation.which,
        per_hour=generation.per_hour,
        min_probability=generation.min_probability,
        limit=generation.queue,
        paints=frozenset(card.paints) if card else None,
        encoder_id=card.encoder_id if card else None,
    )


def retain(
    database: Callable[[], Database], gallery: Gallery, generation: GenerationSettings, now: int
) -> str:
    """Remove pictures and jobs that are past their time; return what in words.

    Raises:
        StoreUnavailable: the log is not to be had.
        GalleryError: a file stays; its row too.
    """
    images = Images(database, lambda: now)
    before = now - generation.max_age_days * US_PER_DAY if generation.max_age_days else None
    n = 0
    while expired := images.expired(before, generation.max_size_mb * BYTES_PER_MB):
        for _, name in expired:
            gallery.remove(name)
        images.mark_removed([number for number, _ in expired])
        n += len(expired)
    gallery.remove_stale(now)
    old = now - generation.keep_days * US_PER_DAY
    Jobs(database, lambda: now).prune(old, pause_for(PRUNE_FOR_S))
    return f"{counted(n, 'picture')} removed" if n else ""
