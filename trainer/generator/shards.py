"""A training in files that a machine lent by the minute sends back, and the way back.

    python -m trainer.generator.shards split RUN -o FOLDER
    python -m trainer.generator.shards join FOLDER -o RUN

The average keeps the fp16 that a bundle stores it in; the weights that training goes on from are
bfloat16; what Adam remembers stays behind, and gathers again within some hundred steps.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoints import write_whole
from trainer.data.recordings import DataError
from trainer.export import HALF_FROM
from trainer.generator.training import CHECKPOINT
from trainer.mistakes import MISTAKES, in_words

SHARD_BYTES = 15 * 2**20
BESIDE = ("plan.json", "result.json", "metrics.jsonl")
DTYPES = {"average": torch.float16, "generator": torch.bfloat16}


def split(run: Path, folder: Path) -> list[Path]:
    """Write a training's shards; return their names.

    Raises:
        DataError: there is no checkpoint, or a damaged one.
    """
    if not (run / CHECKPOINT).is_file():
        raise DataError(f"{run} holds no {CHECKPOINT}: name a --run folder")
    state = _read(run / CHECKPOINT)
    folder.mkdir(parents=True, exist_ok=True)
    state["optimiser"]["state"] = {}
    small = {key: value for key, value in state.items() if key not in DTYPES}
    written = [_written(folder / "state.pt", small)]
    for name, dtype in DTYPES.items():
        for at, part in enumerate(_parts(state[name], dtype)):
            written.append(_written(folder / f"{name}-{at}.pt", part))
    for name in BESIDE:
        if (run / name).is_file():
            written.append(Path(shutil.copyfile(run / name, folder / name)))
    return written


def join(folder: Path, run: Path) -> Path:
    """Write a checkpoint from shards; return it.

    Raises:
        DataError: a shard is missing or damaged.
    """
    if not (folder / "state.pt").is_file():
        raise DataError(f"{folder} holds no state.pt: name a folder of shards")
    state = _read(folder / "state.pt")
    for name in DTYPES:
        shards = sorted(folder.glob(f"{name}-*.pt"))
        if not shards:
            raise DataError(f"{folder} holds no {name}-0.pt: fetch it again")
        parts = [_read(shard) for shard in shards]
        state[name] = {key: value.float() for part in parts for key, value in part.items()}
    if state["average"].keys() != state["generator"].keys():
        raise DataError(f"{folder} lacks some of its shards: fetch them again")
    run.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, run / name)
    return _written(run / CHECKPOINT, state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line about a mistake."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "split":
            for path in split(options.source, options.output):
                print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
        else:
            print(join(options.source, options.output))
    except MISTAKES as error:
        print(f"trainer.generator.shards: {in_words(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="trainer.generator.shards", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = top.add_subparsers(dest="command", required=True)
    for name, what in (("split", "a --run folder"), ("join", "a folder of shards")):
        command = commands.add_parser(name)
        command.add_argument("source", type=Path, help=what)
        command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    return top


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return large weights in half the bytes; small ones as they are."""
    return tensor.to(dtype) if tensor.numel() >= HALF_FROM else tensor


def _parts(weights: dict[str, Tensor], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Yield weights in parts of at most `SHARD_BYTES`."""
    part: dict[str, Tensor] = {}
    weight = 0
    for name, tensor in weights.items():
        # Channels-last tensors save as they lie; a shard is to be read anywhere.
        kept = _stored(tensor, dtype).contiguous()
        if part and weight + kept.nbytes > SHARD_BYTES:
            yield part
            part, weight = {}, 0
        part[name] = kept
        weight += kept.nbytes
    yield part


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is damaged: fetch it again") from error
    return state


def _written(path: Path, state: dict[str, Any]) -> Path:
    write_whole(state, path)
    return path


if __name__ == "__main__":
    sys.exit(main())
