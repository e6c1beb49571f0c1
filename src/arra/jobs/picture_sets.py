"""A set of pictures to measure, from wherever it lies, and what was done to it on the way.

Understood: a folder of `arra generate`; a folder of picture files with or without captions; an
`.npz` of pictures (`images`, or `arr_0` as ADM's samples); a prepared store, whose rows are painted
by its codec; and everything that `arra prepare` reads.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arra.data.decode import SUFFIXES, decode
from arra.data.folders import read_bytes, stat_inside, walk
from arra.data.pictures import LISTINGS, fit
from arra.data.report import RowReport
from arra.data.rows import BadRow
from arra.data.store import MANIFEST as STORE
from arra.data.store import PreparedStore
from arra.errors import InputError
from arra.files import read_json
from arra.jobs.generation import MANIFEST as GENERATED
from arra.jobs.generation import SETTINGS
from arra.jobs.options import SourceOptions
from arra.jobs.sources import MEMORY, is_scenes, open_source, sample_pictures
from arra.labels import read_png
from arra.pixels import stills, to_uint8

FITTED = "centre crop, Pillow lanczos with antialiasing, 8 bits (as arra prepare)"
_ARRAYS = ("images", "arr_0")


@dataclass(frozen=True)
class PictureSet:
    """Pictures, their captions where there are any, and their history."""

    pictures: np.ndarray
    """(N, H, W, 3) uint8; of clips their middle frames."""
    captions: list[str] | None
    """N captions, or None."""
    what: str
    """In words, for a report: "155 pictures of emoji, split test"."""
    facts: dict[str, Any] = field(default_factory=dict)
    """format, resized (None where nothing was), split, seeds, sampling, frames (of each clip, of
    which `pictures` has the middle one): what is known."""

    def __len__(self) -> int:
        return len(self.pictures)


def open_set(
    name: str,
    options: SourceOptions,
    *,
    size: tuple[int, int] | None = None,
    most: int = 50_000,
) -> PictureSet:
    """Up to `most` pictures of `name`, at `size` (height, width).

    Without `size` they must have one size already. Of more than `most`, an even choice by chance
    that depends on their number alone. Raises `InputError` naming what cannot be used.
    """
    path = Path(name)
    if (path / GENERATED).is_file() and (path / SETTINGS).is_file():
        return _of_generated(path, size, most)
    if (path / STORE).is_file():
        return _of_store(path, size, most)
    if path.suffix.lower() == ".npz" and not (path.parent / "captions.jsonl").is_file():
        return _of_array(path, size, most)
    if path.is_dir() and (names := _bare_pictures(path, options)):
        return _of_files(path, names, options, size, most)
    return _of_source(name, options, size, most)


def _of_generated(folder: Path, size: tuple[int, int] | None, most: int) -> PictureSet:
    """The pictures, prompts and seeds that `arra generate` left in a folder."""
    manifest = folder / GENERATED
    lines = manifest.read_text(encoding="utf-8").splitlines()
    pictures, prompts, seeds = [], [], []
    for number in chosen(len(lines), most):
        try:
            entry = json.loads(lines[number])
            path = folder / Path(str(entry["file"])).name
            clip = read_png(path)
            picture = stills(clip[None])[0]
            prompts.append(str(entry["prompt"]))
            seeds.append(int(entry["seed"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{manifest} line {number + 1}: {error!r}") from error
        size = size or (picture.shape[0], picture.shape[1])
        if picture.shape[:2] != size:
            raise InputError(f"{path}: {picture.shape[:2]} pixels, expected {size}")
        pictures.append(picture)
    if not pictures:
        raise InputError(f"{manifest}: lists no picture")
    settings = read_json(folder / SETTINGS)
    facts = {
        "format": {"PNG": len(pictures)},
        "resized": None,
        "seeds": [min(seeds), max(seeds)],
        "sampling": settings.get("sampling"),
        "checkpoint": settings.get("checkpoint"),
        "frames": clip.shape[2] // 3,
    }
    what = f"{len(pictures)} pictures that arra generate drew, in {folder}"
    return PictureSet(np.stack(pictures), prompts, what, facts)


def chosen(count: int, most: int) -> list[int]:
    """Up to `most` of `count` row numbers, evenly by chance, ascending."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most]).tolist()


def _of_store(path: Path, size: tuple[int, int] | None, most: int) -> PictureSet:
    store = PreparedStore.open(path)
    codec = store.codec()
    rows = chosen(len(store), most)
    # one by one, as `TextToImage.paint` does, and for the same reason
    codes = (store.rows([row]).codes for row in rows)
    pictures = [stills(to_uint8(codec.decode(one), codec.channels))[0] for one in codes]
    settings = store.provenance.settings
    facts = {
        "frames": codec.frames,
        "format": "codes of a prepared store",
        "resized": None,
        "through_codec": codec.fingerprint()[:12],
        "split": settings.source.get("identity", {}).get("split"),
    }
    what = f"{len(rows)} rows of {path}, through its codec"
    return _sized(np.stack(pictures), store.captions(rows), what, facts, size)


def _of_array(path: Path, size: tuple[int, int] | None, most: int) -> PictureSet:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = next((key for key in _ARRAYS if key in arrays.files), None)
            if name is None:
                there = ", ".join(arrays.files) or "nothing"
                raise InputError(f"{path}: holds {there}; expected an array images or arr_0")
            pictures = arrays[name]
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
        raise InputError(
            f"{path}: {name} is {pictures.dtype} {pictures.shape}, expected uint8 (N, H, W, 3)"
        )
    kept = chosen(len(pictures), most)
    facts = {"format": "npz, uint8", "resized": None}
    what = f"{len(kept)} pictures of {path}, array {name}"
    return _sized(pictures[kept], None, what, facts, size)


def _bare_pictures(path: Path, options: SourceOptions) -> list[str]:
    """Picture files of a folder that has no captions in any form, else nothing."""
    if any((path / listing).is_file() for listing in LISTINGS):
        return []
    below = path / options.split if options.split else path
    names, _ = walk(below)
    endings = {os.path.splitext(name)[1].lower() for name in names}
    if endings & {".txt", ".parquet", ".arrow", ".npz"}:
        return []
    prefix = f"{options.split}/" if options.split else ""
    return [prefix + n for n in names if os.path.splitext(n)[1].lower() in SUFFIXES]


def _of_files(
    path: Path,
    names: Sequence[str],
    options: SourceOptions,
    size: tuple[int, int] | None,
    most: int,
) -> PictureSet:
    report = RowReport(options.limits.bad_share)
    pictures: list[np.ndarray] = []
    formats: Counter[str] = Counter()
    sizes: set[tuple[int, int]] = set()
    for row in chosen(len(names), most):
        name = names[row]
        try:
            stat_inside(path, name)
            data = read_bytes(path / name, name, options.limits.max_bytes)
            image, _ = decode(data, name, options.limits)
        except BadRow as bad:
            report.add(bad)
            report.check(len(names))
            continue
        if size is None:
            size = (image.height, image.width)
        sizes.add((image.height, image.width))
        if len(pictures) * size[0] * size[1] * 3 > MEMORY:
            raise InputError(f"{path}: more pictures than fit into memory; take fewer with --most")
        formats[SUFFIXES[os.path.splitext(name)[1].lower()]] += 1
        pictures.append(np.asarray(fit(image, (size[1], size[0]))))
    if not pictures:
        raise InputError(f"{path}: not one picture can be used: {report.summary()}")
    facts: dict[str, Any] = {"format": dict(formats), "bad": len(report.bad)}
    facts["resized"] = None if sizes == {size} else FITTED
    if options.split:
        facts["split"] = options.split
    what = f"{len(pictures)} pictures of {path}" + (
        f", split {options.split}" if options.split else ""
    )
    return PictureSet(np.stack(pictures), None, what, facts)


def _of_source(
    name: str, options: SourceOptions, size: tuple[int, int] | None, most: int
) -> PictureSet:
    source = open_source(name, options)
    if size is None:
        first = source.read(0).image.size
        size = (first[1], first[0])
    if size[0] != size[1]:
        raise InputError(f"{name}: pictures of {size} pixels; captioned sources are made square")
    share = options.limits.bad_share
    found = sample_pictures(source, size[0], most=most, bad_share=share)
    facts = {
        "format": "as its source has them",
        "resized": f"where they had another size: {FITTED}",
        "split": options.split or ("train" if is_scenes(name) else None),
        "frames": getattr(source, "frames", 1),
    }
    split = f", split {facts['split']}" if facts["split"] else ", split not stated"
    pictures = stills(found.pictures)
    what = f"{len(pictures)} pictures of {name}{split}"
    return PictureSet(pictures, found.captions, what, facts)


def _sized(
    pictures: np.ndarray,
    captions: list[str] | None,
    what: str,
    facts: dict[str, Any],
    size: tuple[int, int] | None,
) -> PictureSet:
    """The set at `size`, which is noted where it had another."""
    if size is not None and pictures.shape[1:3] != size:
        small = [np.asarray(fit(Image.fromarray(p), (size[1], size[0]))) for p in pictures]
        pictures, facts = np.stack(small), {**facts, "resized": FITTED}
    return PictureSet(pictures, captions, what, facts)
