"""Your own captioned pictures: one call that recognises how they are kept.

    source = open_pictures("my_pictures")
    report = RowReport(problems=source.problems)
    for index, row in good_rows(source, report):
        small = fit(row.image, 256)
    report.save("rows.json")

Kept as: pictures with `.txt` files of the same name; a `captions.jsonl` or `metadata.csv` beside
the pictures, or beside a `.tar` or an `.npz` of them; Parquet files; pictures with class labels, in
IDX files or an `.npz`; anything that the `datasets` library saved or can load from a folder or the
hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from arra.data.archives import archive_source
from arra.data.arrays import ArraySource
from arra.data.captions import IMAGE_FIELDS
from arra.data.decode import decode, fit
from arra.data.folders import is_picture, listed_source, pairs_source, records_of, walk
from arra.data.labelled import (
    IdxSource,
    LabelledArraySource,
    array_splits,
    choose_split,
    idx_files,
)
from arra.data.report import RowReport, good_rows
from arra.data.rows import BadRow, Classes, Limits, PictureSource, Row
from arra.data.tables import DatasetSource, ParquetSource
from arra.errors import InputError

__all__ = [
    "BadRow",
    "Classes",
    "Limits",
    "PictureSource",
    "Row",
    "RowReport",
    "decode",
    "fit",
    "good_rows",
    "open_pictures",
]

LISTINGS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv")
# Only names with an owner: a mistyped folder of one word should not be sent to the hub.
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
_NO_LIMITS_GIVEN, _NO_CLASSES_GIVEN = Limits(), Classes()


def open_pictures(
    source: str | Path,
    *,
    limits: Limits = _NO_LIMITS_GIVEN,
    image_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
    classes: Classes = _NO_CLASSES_GIVEN,
) -> PictureSource:
    """The captioned pictures at `source`: a file, a folder, or a data set `owner/name[@revision]`.

    Args:
        source: what to open. What exists here is never looked for on the hub.
        limits: what is accepted; see `Limits`.
        image_column: field or column of the picture or its file name; None recognises it.
        caption_column: field or column of the caption; None recognises it.
        split: take only these rows: the split of a data set, the field `split` of a listing, the
            Parquet files of that name, or the folder of that name below `source`. Sources with
            class labels and data sets that have several must be told which.
        classes: how captions are made of class labels.

    Raises:
        InputError: there is nothing of this kind, it cannot be told what is meant, or no row at all
            could be used.
    """
    path = Path(source).expanduser()
    if path.exists():
        path = path.resolve()
        found = _open_labelled(path, limits, split, classes)
        opened = found or (_open_folder if path.is_dir() else _open_file)(
            path, limits, image_column, caption_column, split
        )
    elif isinstance(source, str) and _HUB_NAME.fullmatch(source):
        name, _, revision = source.partition("@")
        opened = _load(name, limits, image_column, caption_column, split, None, revision or None)
    else:
        raise InputError(
            f"{source}: no such file or folder (a data set of the hub is named owner/name)"
        )
    if not len(opened):
        first = "; ".join(str(problem) for problem in opened.problems[:5]) or "there are no rows"
        raise InputError(f"{source}: no captioned picture that can be used: {first}")
    return opened


def _open_labelled(
    path: Path, limits: Limits, split: str | None, classes: Classes
) -> PictureSource | None:
    """Pictures with class labels, or None where `path` holds none of the layouts they have."""
    folder = path if path.is_dir() else path.parent
    if any((folder / name).is_file() for name in LISTINGS):
        return None  # there are captions
    arrays = [path] if path.suffix.lower() == ".npz" else sorted(path.glob("*.npz"))
    if len(arrays) == 1 and (there := array_splits(arrays[0])):
        split = choose_split(there, split, arrays[0])
        return LabelledArraySource(arrays[0], split, classes, limits)
    if path.is_dir() and (pairs := idx_files(path)):
        return IdxSource(*pairs[choose_split(sorted(pairs), split, path)], classes, limits)
    return None


def _open_file(
    path: Path, limits: Limits, image: str | None, caption: str | None, split: str | None
) -> PictureSource:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return ParquetSource(path.parent, [path], limits, image, caption)
    if suffix in (".jsonl", ".csv"):
        return _open_listing(path, limits, image, caption, split)
    if suffix == ".npz":
        captions = path.with_name("captions.jsonl")
        if not captions.is_file():
            raise InputError(
                f"{path}: expected captions.jsonl beside it, a line a picture, or arrays x_train "
                "and y_train in it; an array frames is a video: say with --clips.frames how many "
                "frames a clip has"
            )
        return ArraySource(path, captions, limits, caption, split)
    if suffix == ".tar":
        listings = [path.with_name(name) for name in LISTINGS if path.with_name(name).is_file()]
        if len(listings) != 1:
            found = " and ".join(listing.name for listing in listings) or "none"
            raise InputError(
                f"{path}: expected one of {', '.join(LISTINGS)} beside it, not {found}"
            )
        return archive_source(path, listings[0], limits, image, caption, split)
    raise InputError(f"{path}: expected a folder, or a file .parquet, .jsonl, .csv, .npz or .tar")


def _open_folder(
    path: Path, limits: Limits, image: str | None, caption: str | None, split: str | None
) -> PictureSource:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _load(str(path), limits, image, caption, split, path, None)
    listings = [path / name for name in LISTINGS if (path / name).is_file()]
    if len(listings) > 1:
        both = " and ".join(listing.name for listing in listings)
        raise InputError(f"{path}: has {both}; keep one, or open the one that is meant")
    if listings:
        return _open_listing(listings[0], limits, image, caption, split)
    names, _ = walk(path)
    tables = [name for name in names if name.lower().endswith(".parquet")]
    if tables:
        return _open_tables(path, tables, limits, image, caption, split)
    if any(is_picture(name) for name in names):
        return _open_pairs(path, limits, split)
    return _load(str(path), limits, image, caption, split, path, None)


def _open_listing(
    path: Path, limits: Limits, image: str | None, caption: str | None, split: str | None
) -> PictureSource:
    if path.suffix.lower() == ".jsonl" and image is None:
        arrays = sorted(path.parent.glob("*.npz"))
        rows, _, _ = records_of(path, None) if arrays else ([], [], [])
        if len(arrays) == 1 and not any(set(IMAGE_FIELDS) & set(record) for _, record in rows):
            return ArraySource(arrays[0], path, limits, caption, split)
    archives = sorted(path.parent.glob("*.tar"))
    if len(archives) == 1 and not any(is_picture(name) for name in walk(path.parent)[0]):
        return archive_source(archives[0], path, limits, image, caption, split)
    return listed_source(path, limits, image, caption, split)


def _open_tables(
    path: Path,
    names: list[str],
    limits: Limits,
    image: str | None,
    caption: str | None,
    split: str | None,
) -> PictureSource:
    if split is not None:
        # The layout of the hub: data/train-00000-of-00002.parquet, or train/0000.parquet.
        mark = re.compile(rf"(^|.*/){re.escape(split)}([-_./].*)")
        chosen = [name for name in names if mark.fullmatch(name)]
        if not chosen:
            raise InputError(f"{path}: no Parquet file of split {split!r}; there are {names[:9]}")
        names = chosen
    return ParquetSource(path, [path / name for name in names], limits, image, caption)


def _open_pairs(path: Path, limits: Limits, split: str | None) -> PictureSource:
    if split is None:
        return pairs_source(path, limits)
    below = (path / split).resolve()
    if not (below.is_dir() and below.is_relative_to(path) and below != path):
        raise InputError(f"{path}: split {split!r} asks for a folder of that name in it")
    return pairs_source(below, limits)


def _load(
    name: str,
    limits: Limits,
    image: str | None,
    caption: str | None,
    split: str | None,
    root: Path | None,
    revision: str | None,
) -> PictureSource:
    """A data set that `datasets` saved (`root` holds it) or that it can load by path or name."""
    import datasets

    saved = root is not None and any(
        (root / file).is_file() for file in ("dataset_dict.json", "state.json")
    )
    try:
        data: Any = (
            datasets.load_from_disk(name)
            if saved
            else datasets.load_dataset(name, revision=revision)
        )
    except Exception as error:  # the library raises many kinds, of several packages
        where = "a folder" if root else "no file or folder here, and as a data set of the hub"
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{name}: {where} that the datasets library cannot load: {first[0]}"
        ) from error
    if isinstance(data, dict):
        if split is None and len(data) == 1:
            split = next(iter(data))
        if split not in data:
            raise InputError(f"{name}: split={split!r}; choose one of: {', '.join(data)}")
        data = data[split]
    elif split is not None and str(data.split) != split:
        raise InputError(f"{name}: holds no splits, but split={split!r} was asked for")
    return DatasetSource(data, name, limits, image, caption, root, split, revision)
