"""Photographs and where they come from: a folder with images.csv, read, cropped and packed.

    python -m trainer.data.images pack --images PHOTOGRAPHS -o PACKED

images.csv has the columns file, scientific_name, set, split, licence, origin, source; only the
first two must be there. `set` is `garden` (what is painted) or `pretrain` (other species to learn
pictures from); `split` is `train` or `val`, and `val` is never trained on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from trainer.data.recordings import DataError, file_hash
from trainer.mistakes import MISTAKES, in_words

MANIFEST = "images.csv"
FORMAT = 1
"""Part of the cache's key: raise it when cropping changes"""
GARDEN, PRETRAIN = "garden", "pretrain"
TRAIN, VAL = "train", "val"
SIDE = 64
"""Pixels"""
PACKED_BYTES = 64 * 2**20
"""What a packed folder may weigh: it travels to a machine that is lent for minutes"""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Photograph:
    """One image file and what is known about it; a text that is not known is empty."""

    path: Path
    file: str
    """Name below its folder, as the manifest has it"""
    scientific_name: str
    set: str = GARDEN
    split: str = TRAIN
    licence: str = ""
    origin: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Photographs cropped and scaled."""

    photographs: tuple[Photograph, ...]
    """Those that could be read"""
    pixels: Pixels
    """uint8 [photographs, side, side, 3], RGB"""
    skipped: tuple[tuple[str, str], ...] = ()
    """(file, reason) of those that could not"""

    def where(self, of_set: str, split: str) -> NDArray[np.int64]:
        """Return the indices of one set's photographs on one side of the split."""
        return np.flatnonzero([p.set == of_set and p.split == split for p in self.photographs])

    @property
    def content_hash(self) -> str:
        """Return the sha256 of pixels, names and splits."""
        names = [f"{p.scientific_name} {p.set} {p.split}" for p in self.photographs]
        digest = hashlib.sha256("\n".join(names).encode())
        digest.update(self.pixels.tobytes())
        return digest.hexdigest()


def read_photographs(folder: Path) -> tuple[Photograph, ...]:
    """Read a folder's images.csv.

    Raises:
        DataError: no folder, no manifest, a bad row, or one file on both sides of the split.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise DataError(f"{folder} has no {MANIFEST}: name a folder that holds one")
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = {"file", "scientific_name"} - set(rows.fieldnames or ())
        if missing:
            raise DataError(
                f"{manifest} has no column {', '.join(sorted(missing))}; it has {rows.fieldnames}"
            )
        found = tuple(_photograph(manifest, number, row) for number, row in enumerate(rows, 2))
    if not found:
        raise DataError(f"{manifest} names no photograph: add rows")
    _refuse_twice(manifest, found)
    return found


def load_images(photographs: Sequence[Photograph], cache: Path, side: int = SIDE) -> ImageSet:
    """Return photographs as square pixels, made now or found in `cache`.

    The cache is keyed by the content of the files; a file that cannot be read is skipped and
    named in `skipped`.

    Raises:
        DataError: not one photograph could be read.
    """
    hashes = [file_hash(p.path) for p in photographs]
    key = hashlib.sha256("\n".join([str(FORMAT), str(side), *hashes]).encode()).hexdigest()
    place = cache / f"images-{side}-{key[:16]}"
    if not place.with_suffix(".json").is_file():
        _fill(place, photographs, side)
    reasons = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
    skipped = {int(at): reason for at, reason in reasons.items()}
    kept = tuple(p for at, p in enumerate(photographs) if at not in skipped)
    if not kept:
        raise DataError(f"none of {len(photographs)} photographs could be read: {skipped}")
    return ImageSet(
        kept,
        np.load(place.with_suffix(".npy"), mmap_mode="r"),
        tuple((photographs[at].file, reason) for at, reason in skipped.items()),
    )


def square(image: Image.Image, side: int) -> Pixels:
    """Return an image's middle square, scaled to uint8 [side, side, 3], RGB.

    Pillow's bicubic filter widens with the scale, so that nothing aliases.
    """
    upright = ImageOps.exif_transpose(image).convert("RGB")
    width, height = upright.size
    edge = min(width, height)
    left, top = (width - edge) / 2, (height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(upright.resize((side, side), Image.Resampling.BICUBIC, box=box))


def read_square(path: Path, side: int) -> Pixels:
    """Return a file as `square` does.

    Raises:
        DataError: unreadable, no image, or too large to be one.
    """
    try:
        with Image.open(path) as image:
            return square(image, side)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error


def counted(photographs: Iterable[Photograph]) -> Counter[str]:
    """Return how many photographs each species has."""
    return Counter(p.scientific_name for p in photographs)


def pack(images: ImageSet, folder: Path) -> int:
    """Write a folder of the same layout that weighs little; return its bytes.

    What is painted stays lossless (PNG); what is only learnt from is JPEG, quality 95, 4:4:4.

    Raises:
        DataError: it weighs more than `PACKED_BYTES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = zip(images.photographs, images.pixels, strict=True)
    rows = [_write_packed(folder, photograph, pixels) for photograph, pixels in pairs]
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, [f.name for f in fields(Photograph) if f.name != "path"])
        out.writeheader()
        out.writerows(rows)
    weight = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if weight > PACKED_BYTES:
        raise DataError(f"{folder} weighs {weight} bytes; at most {PACKED_BYTES}: pack fewer")
    return weight


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after one line about a mistake."""
    options = _parser().parse_args(arguments)
    try:
        images = load_images(read_photographs(options.images), options.cache, options.side)
        weight = pack(images, options.output)
    except MISTAKES as error:
        print(f"trainer.data.images: {in_words(error)}", file=sys.stderr)
        return 2
    print(f"{options.output}: {len(images.photographs)} photographs, {weight / 2**20:.1f} MiB")
    return 0


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="trainer.data.images", description="Pack photographs.")
    commands = top.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="crop, scale and write a folder that travels well")
    add = packing.add_argument
    add("--images", type=Path, required=True, metavar="FOLDER", help="holds images.csv")
    add("--side", type=int, default=SIDE, help="pixels (default: %(default)s)")
    add("--cache", type=Path, default=Path("work"), help="cropped pixels (default: %(default)s)")
    add("-o", "--output", type=Path, required=True, metavar="FOLDER")
    return top


def _photograph(manifest: Path, line: int, row: dict[str, str | None]) -> Photograph:
    text = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    for name in ("file", "scientific_name"):
        if not text[name]:
            raise DataError(f"{manifest}, line {line}: {name} is empty: name one or drop the row")
    for name, allowed in (("set", (GARDEN, PRETRAIN)), ("split", (TRAIN, VAL))):
        if text.setdefault(name, allowed[0]) not in allowed:
            raise DataError(f"{manifest}, line {line}: {name} is {text[name]!r}; one of {allowed}")
    if Path(text["file"]).is_absolute() or ".." in Path(text["file"]).parts:
        raise DataError(f"{manifest}, line {line}: file {text['file']!r} leaves the folder")
    known = {f.name: text.get(f.name, "") for f in fields(Photograph) if f.name != "path"}
    return Photograph(path=manifest.parent / text["file"], **known)


def _refuse_twice(manifest: Path, photographs: Iterable[Photograph]) -> None:
    seen = Counter(p.file for p in photographs)
    twice = [name for name, n in seen.items() if n > 1]
    if twice:
        raise DataError(f"{manifest}: {twice[0]} stands there twice: leave it once")


def _fill(place: Path, photographs: Sequence[Photograph], side: int) -> None:
    """Crop all photographs; the index is written last, so a broken-off cache is no cache."""
    place.parent.mkdir(parents=True, exist_ok=True)
    kept, skipped = [], {}
    bar = tqdm(photographs, desc="cropping", unit="photo", disable=None)
    for at, photograph in enumerate(bar):
        try:
            kept.append(read_square(photograph.path, side))
        except DataError as error:
            skipped[at] = str(error)
    np.save(place.with_suffix(".npy"), np.array(kept, np.uint8).reshape(-1, side, side, 3))
    temporary = place.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(skipped), encoding="utf-8")
    temporary.replace(place.with_suffix(".json"))


def _write_packed(folder: Path, photograph: Photograph, pixels: Pixels) -> dict[str, str]:
    lossless = photograph.set == GARDEN
    # The whole name stays in it: two files may differ in their suffix alone.
    file = photograph.file + (".png" if lossless else ".jpg")
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if lossless:
        image.save(path, "PNG", optimize=True)
    else:
        image.save(path, "JPEG", quality=95, subsampling=0)
    described = {k: str(v) for k, v in asdict(photograph).items() if k != "path"}
    return described | {"file": file}


if __name__ == "__main__":
    sys.exit(main())
