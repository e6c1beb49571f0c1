"""Captioned pictures in Parquet files and in data sets of the `datasets` library."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arra.data.captions import clean_caption
from arra.data.decode import decode
from arra.data.folders import read_bytes
from arra.data.rows import BadRow, Limits, PictureSource, Row
from arra.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "webp")
CAPTION_COLUMNS = ("caption", "text", "prompt", "txt")
_GROUP_BYTES = 256 << 20  # row groups up to this size are held whole; larger ones are streamed
_BATCH = 8  # rows of a streamed batch


def choose_column(
    kind: str, wanted: str | None, fitting: list[str], known: tuple[str, ...], columns: list[str],
    place: str,
) -> str:  # fmt: skip
    """`wanted`, or the column of `fitting` that has a `known` name or is the only one."""
    if wanted is not None:
        if wanted in fitting:
            return wanted
        state = "does not hold such values" if wanted in columns else "does not exist"
        raise InputError(
            f"{place}: {kind}_column={wanted!r} {state}; columns that can be it: {fitting}"
        )
    for name in known:
        if name in fitting:
            return name
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(
        f"{place}: cannot tell which column is the {kind}: {fitting or 'none'} of {columns} fit; "
        f"name it with {kind}_column"
    )


def _text_type(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _bytes_type(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _bytes_type(field.type) for field in kind)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group: the file and its number there, its first row in the file, its size."""

    file: int
    number: int
    start: int
    rows: int
    bytes: int


class ParquetSource(PictureSource):
    """Pictures in the image column (bytes, or a struct with `bytes`) of Parquet files.

    A row group at a time is in memory, or a few rows of it where it is larger than 256 MiB; reading
    in order is therefore fast, and reading far apart costs a row group each time.
    """

    def __init__(
        self,
        root: Path,
        files: list[Path],
        limits: Limits,
        image_column: str | None = None,
        caption_column: str | None = None,
    ):
        self.root, self.files, self.limits = root, files, limits
        self.columns = self._choose(image_column, caption_column)
        self.groups: list[_Group] = []
        self._starts: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        for number, path in enumerate(files):
            self._list(number, path)
        self._forget()

    def _choose(self, image_column: str | None, caption_column: str | None) -> tuple[str, str]:
        with _open(self.files[0]) as file:
            schema = file.schema_arrow
        place = str(self.files[0])
        images = [field.name for field in schema if _bytes_type(field.type)]
        texts = [field.name for field in schema if _text_type(field.type)]
        return (
            choose_column("image", image_column, images, IMAGE_COLUMNS, schema.names, place),
            choose_column("caption", caption_column, texts, CAPTION_COLUMNS, schema.names, place),
        )

    def _list(self, number: int, path: Path) -> None:
        image, caption = self.columns
        with _open(path) as file:
            types = {field.name: field.type for field in file.schema_arrow}
            metadata = file.metadata
        if not (
            image in types
            and caption in types
            and _bytes_type(types[image])
            and _text_type(types[caption])
        ):
            raise InputError(
                f"{path}: expected the columns {image} (bytes) and {caption} (text) that "
                f"{self.files[0].name} has; it has {list(types)}"
            )
        start = 0
        for group in range(metadata.num_row_groups):
            part = metadata.row_group(group)
            self._starts.append(self._starts[-1] + self.groups[-1].rows if self.groups else 0)
            self.groups.append(_Group(number, group, start, part.num_rows, part.total_byte_size))
            start += part.num_rows
        status = path.stat()
        self._sizes.append((status.st_size, status.st_mtime_ns))

    def _forget(self) -> None:
        self._at = -1  # the row group that is open
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._table: pa.Table | pa.RecordBatch | None = None
        self._first = 0  # the row of the group with which _table begins

    def __getstate__(self) -> dict[str, Any]:
        own = ("_at", "_file", "_batches", "_table", "_first")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return self._starts[-1] + self.groups[-1].rows if self.groups else 0

    def read(self, index: int) -> Row:
        at = bisect.bisect_right(self._starts, self._checked(index)) - 1
        group, position = self.groups[at], index - self._starts[at]
        path = self.files[group.file]
        name = f"{path.relative_to(self.root).as_posix()}#{group.start + position}"
        import pyarrow as pa

        try:
            image, caption = self._cells(at, position)
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._forget()
            raise BadRow(name, "its row group cannot be read", str(error)[:200]) from error
        text = clean_caption(_text(caption), name, self.limits)
        picture, notes = decode(_bytes(image, name, self.limits), name, self.limits)
        return Row(name, picture, text, notes)

    def _cells(self, at: int, position: int) -> tuple[pa.Scalar, pa.Scalar]:
        if at != self._at or position < self._first:
            self._enter(at)
        while self._table is None or position >= self._first + self._table.num_rows:
            self._first += 0 if self._table is None else self._table.num_rows
            self._table = next(self._batches)
        row = position - self._first
        return self._table.column(self.columns[0])[row], self._table.column(self.columns[1])[row]

    def _enter(self, at: int) -> None:
        group = self.groups[at]
        same = self._file is not None and self.groups[self._at].file == group.file
        file = self._file if same and self._file is not None else _open(self.files[group.file])
        self._forget()
        self._file, self._at = file, at
        columns = list(self.columns)
        # Threads of Arrow do not survive a fork, and worker processes may be forks.
        if group.bytes <= _GROUP_BYTES:
            self._table = file.read_row_group(group.number, columns=columns, use_threads=False)
        else:
            self._batches = file.iter_batches(
                _BATCH, row_groups=[group.number], columns=columns, use_threads=False
            )

    def identity(self) -> dict[str, Any]:
        names = [path.relative_to(self.root).as_posix() for path in self.files]
        listing = [names, self._sizes, len(self), self.columns]
        return {
            "kind": "parquet",
            "path": str(self.root if len(self.files) > 1 else self.files[0]),
            "rows": len(self),
            "sha256": hashlib.sha256(json.dumps(listing).encode("ascii")).hexdigest(),
            "limits": self.limits.identity(),
        }


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file that can be read ({error})") from error


def _text(cell: pa.Scalar) -> Any:
    """The caption of a cell, as bytes where Arrow has them, so that bad UTF-8 is seen and named."""
    if not cell.is_valid:
        return ""
    return cell.as_buffer().to_pybytes() if hasattr(cell, "as_buffer") else cell.as_py()


def _bytes(cell: pa.Scalar, name: str, limits: Limits) -> bytes:
    if cell.is_valid and hasattr(cell, "keys"):
        cell = cell["bytes"]
    if not cell.is_valid:
        raise BadRow(name, "the row holds no picture")
    buffer = cell.as_buffer()
    if buffer.size > limits.max_bytes:
        detail = f"{buffer.size} > {limits.max_bytes} bytes"
        raise BadRow(name, "the file is larger than allowed", detail)
    return bytes(buffer)


class DatasetSource(PictureSource):
    """Pictures in a column of type Image (or binary) of a `datasets.Dataset`.

    `name` is the path or hub name it came from; `root` a local folder that its paths may lead to.
    """

    def __init__(
        self,
        dataset: Any,
        name: str,
        limits: Limits,
        image_column: str | None = None,
        caption_column: str | None = None,
        root: Path | None = None,
        split: str | None = None,
        revision: str | None = None,
    ):
        import datasets

        texts = [
            column
            for column, feature in dataset.features.items()
            if isinstance(feature, datasets.Value)
            and feature.dtype in ("string", "large_string")
            and not column.startswith("__")
        ]
        images = [
            column
            for column, feature in dataset.features.items()
            if isinstance(feature, datasets.Image)
            or (isinstance(feature, datasets.Value) and "binary" in feature.dtype)
        ]
        names = list(dataset.features)
        image = choose_column("image", image_column, images, IMAGE_COLUMNS, names, name)
        caption = choose_column("caption", caption_column, texts, CAPTION_COLUMNS, names, name)
        self.name, self.limits, self.root, self.revision = name, limits, root, revision
        self.columns = (image, caption)
        self._fingerprint = str(dataset._fingerprint)
        self._split = split or (str(dataset.split) if dataset.split is not None else None)
        sums = dataset.info.download_checksums or {}
        self._sources = sorted(str(address) for address in sums)
        dataset = dataset.select_columns(list(dict.fromkeys(self.columns)))
        if isinstance(dataset.features[image], datasets.Image):
            # We decode, so that the limits hold and errors get names.
            dataset = dataset.cast_column(image, datasets.Image(decode=False))
        self._dataset = dataset.with_format(None)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> Row:
        import pyarrow as pa

        name = f"{self._split or 'row'}#{self._checked(index)}"
        try:
            record = self._dataset[index]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadRow(name, "the row cannot be read", str(error)[:200]) from error
        text = clean_caption(record[self.columns[1]] or "", name, self.limits)
        picture, notes = decode(self._data(record[self.columns[0]], name), name, self.limits)
        return Row(name, picture, text, notes)

    def _data(self, value: Any, name: str) -> bytes:
        if isinstance(value, bytes):
            return value
        if value and value.get("bytes") is not None:
            return bytes(value["bytes"])
        if value and value.get("path"):
            return self._file(value["path"], name)
        raise BadRow(name, "the row holds no picture")

    def _file(self, path: str, name: str) -> bytes:
        """The bytes of a file to which the row refers: only below its own folder or the cache."""
        import datasets

        real = os.path.realpath(os.path.join(self.root or "", path))
        places = [datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME]
        places += [self.root] if self.root else []
        if not any(Path(real).is_relative_to(os.path.realpath(place)) for place in places):
            raise BadRow(name, "its path leaves the folder", path)
        return read_bytes(Path(real), name, self.limits.max_bytes)

    def identity(self) -> dict[str, Any]:
        listing = [self._fingerprint, self._sources, len(self), self.columns]
        return {
            "kind": "datasets",
            "name": self.name,
            "revision": self.revision,
            "split": self._split,
            "rows": len(self),
            "sha256": hashlib.sha256(json.dumps(listing).encode("ascii")).hexdigest(),
            "limits": self.limits.identity(),
        }
