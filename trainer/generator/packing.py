"""All that a generator learns from and is judged by, for a machine lent by the minute.

    python -m trainer.generator.packing --encoder BUNDLE --data CALLS --images PHOTOGRAPHS -o PACKED

    photographs.npz   cropped pixels: the garden's as lossless WebP, the others' as JPEG
    calls.npz         embeddings of every window and variant; log-mels of the windows as they are
    heard.npz         the loudest evidence of each recording, to judge by
    tables.npz        what is known about photographs and recordings, and which encoder it was

Neither audio nor an encoder is needed there, so neither soundfile nor librosa is.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from fieldstation.bundle import find_bundle, load_bundle
from trainer.data.images import GARDEN, ImageSet, Photograph, load_images, read_photographs
from trainer.data.recordings import DataError, Recording
from trainer.evaluation.pictures import Calls as Heard
from trainer.evaluation.pictures import hear_calls
from trainer.generator.embeddings import Calls, load_calls
from trainer.mistakes import MISTAKES, in_words

FORMAT = 1
STEPS_A_DEVIATION = 100
"""Embeddings are rounded to that: a hundredth of what there is between calls"""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """What a packed folder holds."""

    encoder_id: str
    images: ImageSet
    calls: Calls
    heard: Heard
    """The window of each recording in which the encoder was surest; `species` is an index into
    `painted`"""
    painted: tuple[str, ...]
    """Species with photographs, by name"""

    def calls_for(self, condition: str) -> Calls:
        """Return the calls to learn from; of log-mels, only the windows as they are travel."""
        if condition != "mel":
            return self.calls
        return self.calls.rows(np.flatnonzero(self.calls.variant == 0))


def pack(encoder_id: str, images: ImageSet, calls: Calls, heard: Heard, folder: Path) -> int:
    """Write a folder; return its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "photographs.npz", _blob(_all_encoded(images)), zipfile.ZIP_STORED)
    step = calls.embedding.std(axis=0) / STEPS_A_DEVIATION
    _save(
        folder / "calls.npz",
        {
            "embedding": np.rint(calls.embedding / np.maximum(step, 1e-6)).astype(np.int16),
            "step": np.maximum(step, 1e-6),
            "mel": calls.mel[calls.variant == 0].astype(np.float16),
            "recording": calls.recording.astype(np.int32),
            "variant": calls.variant.astype(np.int8),
            "probability": calls.probability,
        },
    )
    _save(
        folder / "heard.npz",
        {
            "embedding": heard.embedding.astype(np.float16),
            "mel": heard.mel.astype(np.float16),
            "species": heard.species,
            "recording": heard.recording,
            "is_right": heard.is_right,
        },
    )
    described = {
        "format": FORMAT,
        "encoder_id": encoder_id,
        "photographs": [_told(p) for p in images.photographs],
        "recordings": [_told(r) for r in calls.recordings],
    }
    # The tables are text that repeats itself.
    _save(folder / "tables.npz", {"json": np.frombuffer(json.dumps(described).encode(), np.uint8)})
    return sum(path.stat().st_size for path in folder.iterdir())


def load_packed(folder: Path, cache: Path) -> Packed:
    """Return what a folder holds; decoded pixels are kept in `cache`.

    Raises:
        DataError: it is none.
    """
    try:
        described = json.loads(_arrays(folder / "tables.npz")["json"].tobytes())
        calls, heard = _arrays(folder / "calls.npz"), _arrays(folder / "heard.npz")
        blob = _arrays(folder / "photographs.npz")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder} is no packed folder ({error}): pack it again") from error
    if described["format"] != FORMAT:
        raise DataError(f"{folder} is of format {described['format']}, not {FORMAT}: pack it again")
    photographs = tuple(Photograph(Path(), **row) for row in described["photographs"])
    recordings = tuple(Recording(Path(), **row) for row in described["recordings"])
    return Packed(
        described["encoder_id"],
        ImageSet(photographs, _decoded(blob, cache)),
        _calls(recordings, calls),
        _heard(heard),
        painted_by(photographs),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line about a mistake."""
    options = _parser().parse_args(arguments)
    try:
        weight = _pack(options)
    except MISTAKES as error:
        print(f"trainer.generator.packing: {in_words(error)}", file=sys.stderr)
        return 2
    print(f"{options.output}: {weight / 2**20:.1f} MiB")
    return 0


def painted_by(photographs: Sequence[Photograph]) -> tuple[str, ...]:
    """Return the garden's species."""
    return tuple(sorted({p.scientific_name for p in photographs if p.set == GARDEN}))


def _pack(options: argparse.Namespace) -> int:
    bundle = load_bundle(find_bundle(options.encoder))
    images = load_images(read_photographs(options.images), options.cache)
    background = options.background or options.data.parent / "background"
    beneath = background if background.is_dir() else None
    calls = load_calls(bundle, options.data, options.cache, beneath)
    heard = hear_calls(bundle, calls.recordings, painted_by(images.photographs))
    return pack(bundle.encoder_id, images, calls, heard, options.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer.generator.packing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--encoder", required=True, metavar="BUNDLE", help="whose embeddings they are")
    add("--data", type=Path, required=True, metavar="FOLDER", help="recordings")
    add("--images", type=Path, required=True, metavar="FOLDER", help="photographs, images.csv")
    add("--background", type=Path, metavar="FOLDER", help="no birds (default: beside --data)")
    add("--cache", type=Path, default=Path("work"), help="decoded data (default: %(default)s)")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    return parser


def _encoded(photograph: Photograph, pixels: NDArray[np.uint8]) -> bytes:
    """Return a photograph as a file: exactly, where it is of a species to be painted."""
    file = io.BytesIO()
    if photograph.set == GARDEN:
        Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=75, method=4)
    else:
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _all_encoded(images: ImageSet) -> list[bytes]:
    pairs = zip(images.photographs, tqdm(images.pixels, "packing", disable=None), strict=True)
    return [_encoded(photograph, pixels) for photograph, pixels in pairs]


def _blob(files: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """Return files one after the other; ten thousand small ones would weigh their names too."""
    ends = np.cumsum([len(file) for file in files])
    return {"bytes": np.frombuffer(b"".join(files), np.uint8), "ends": ends}


def _decoded(blob: Mapping[str, NDArray[Any]], cache: Path) -> NDArray[np.uint8]:
    """Return all pixels, decoded now or found in `cache`."""
    digest = hashlib.sha256(blob["bytes"].tobytes()).hexdigest()
    place = cache / f"packed-{digest[:16]}.npy"
    if not place.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        parts = np.split(blob["bytes"], blob["ends"][:-1])
        pixels = [np.asarray(Image.open(io.BytesIO(p.tobytes())).convert("RGB")) for p in parts]
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            np.save(file, np.stack(pixels))
        # Several trainings may come here at once; each has a whole file of its own.
        Path(file.name).replace(place)
    return np.load(place, mmap_mode="r")  # type: ignore[no-any-return]


def _calls(recordings: tuple[Recording, ...], kept: Mapping[str, NDArray[Any]]) -> Calls:
    variant = kept["variant"].astype(np.int64)
    mel = np.zeros((len(variant), kept["mel"].shape[1]), np.float32)
    mel[variant == 0] = kept["mel"]
    return Calls(
        recordings,
        kept["embedding"] * kept["step"].astype(np.float32),
        mel,
        kept["recording"].astype(np.int64),
        variant,
        kept["probability"],
    )


def _heard(kept: Mapping[str, NDArray[Any]]) -> Heard:
    return Heard(
        species=kept["species"],
        embedding=kept["embedding"].astype(np.float32),
        is_right=kept["is_right"],
        recording=kept["recording"],
        mel=kept["mel"].astype(np.float32),
    )


def _told(row: Photograph | Recording) -> dict[str, Any]:
    """Return what is known about a file but where it lies."""
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name != "path"}


def _save(path: Path, arrays: Mapping[str, NDArray[Any]], how: int = zipfile.ZIP_LZMA) -> None:
    """Write arrays as np.savez does, packed more tightly, or not where that gains nothing."""
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


if __name__ == "__main__":
    sys.exit(main())
