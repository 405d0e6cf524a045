"""What `check` says of pictures: the golden one, the queue, the pace, and who paints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fieldstation.commands.context import Context
from fieldstation.errors import MendableError
from fieldstation.state import State

if TYPE_CHECKING:
    from fieldstation.bundle import Bundle


class NotPainted(MendableError):
    """Pictures that will not come unless somebody sees to it."""


def check_pictures(context: Context, named: str | None, station_runs: bool) -> str:
    """Return how the queue is.

    Args:
        named: a bundle, over the settings'.

    Raises:
        MendableError: pictures cannot be painted, or nobody paints them.
    """
    from fieldstation.bundle import find_bundle, load_bundle
    from fieldstation.pictures import are_wanted
    from fieldstation.store.database import file_of

    settings = context.settings
    bundle = load_bundle(find_bundle(named or context.bundle_name(), context.state.folder))
    if not are_wanted(settings, bundle):
        why = "generation.enabled = false" if bundle.generator else f"{bundle.name} paints nothing"
        return f"off ({why})"
    if not settings.log.enabled:
        return "a hub's queue (log.enabled = false)"
    is_painted_here = bundle.generator is not None and settings.generation.worker
    told = [_paint_golden(bundle, context)] if is_painted_here else []
    path = file_of(context.log_url())
    if path is not None and not path.exists():
        return "; ".join(("none yet: the log is made at the first start", *told))
    return "; ".join((_look_into(context, station_runs and path is not None), *told))


def _paint_golden(bundle: Bundle, context: Context) -> str:
    """Paint the bundle's golden picture as a worker would here; return how it came out.

    Raises:
        MendableError: not at all, or it is another picture.
    """
    from fieldstation.generation.denoiser import PaintingError, check_generator
    from fieldstation.generation.painter import Painter, check_picture
    from fieldstation.generation.runtimes import open_denoiser

    generation = context.settings.generation
    denoiser = open_denoiser(bundle, generation.runtime, generation.provider, generation.threads)
    check_generator(denoiser, bundle)
    try:
        similarity = check_picture(Painter(bundle, denoiser), bundle)
    except PaintingError as error:
        raise NotPainted(f"the golden picture is not painted: {error}") from error
    near = "as it must be" if math.isinf(similarity) else f"within {similarity:.0f} dB"
    return f"golden picture {near} on {denoiser.provider}"


def _look_into(context: Context, must_be_painted: bool) -> str:
    from fieldstation.store.jobs import queue_state
    from fieldstation.store.log_db import LogStore

    log = LogStore(context.log_url(), readonly=True)
    try:
        with log.database.read() as connection:
            state = queue_state(connection)
    finally:
        log.close()
    workers = find_workers(context.state)
    if state.n_parked:
        raise NotPainted(
            f"{state.n_parked} cannot be painted (newest: {state.reason}): see `fieldstation "
            "images --only parked`, then `fieldstation images --again --only parked`"
        )
    if state.n_waiting and must_be_painted and not workers:
        raise NotPainted(
            f"{state.n_waiting} wait, and no worker runs: start fieldstation-worker.service, or "
            "`fieldstation worker`"
        )
    pace = f"{state.ms_per_image:.0f} ms each on {state.provider}" if state.ms_per_image else ""
    who = f"worker: process {', '.join(map(str, workers))}" if workers else "no worker here"
    dropped = f"{state.n_dropped} dropped" if state.n_dropped else ""
    return ", ".join(filter(None, (f"{state.n_waiting} wait", dropped, pace, who)))


def find_workers(state: State) -> list[int]:
    """Return the processes that paint from this state folder."""
    places = sorted((state.folder / "worker").glob("*"))
    holders = (State(place).holder() for place in places)
    return [holder for holder in holders if holder is not None]
