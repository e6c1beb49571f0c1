"""One shard of a prepared store: an Arrow IPC file whose columns are read as views of the disk.

Columns: `key`, `caption` (strings), `text_ids` (list of int32), `codes` (fixed-size list, a
grid in raster order), one fixed-size list for every feature and, where rows have questions,
`questions`, `answers` (lists of strings), `question_ids` and `answer_ids` (lists of lists). Nothing
is compressed: a row is found by arithmetic and read without a copy, and the operating system keeps
what is used often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from arra.errors import InputError
from arra.files import atomic_file

FEATURE_KINDS = ("cls", "mean", "patches")
"""What is kept of an encoder; of one with a name as NAME/cls and so on."""
FEATURE_DTYPES = ("float16", "float32")
_QUESTIONS = [
    ("questions", pa.list_(pa.string())),
    ("answers", pa.list_(pa.string())),
    ("question_ids", pa.list_(pa.list_(pa.int32()))),
    ("answer_ids", pa.list_(pa.list_(pa.int32()))),
]
# Rows are buffered up to this size before they are written, and lie together on the disk.
_RECORD_BYTES = 64 << 20


@dataclass(frozen=True)
class ShardForm:
    """Shapes and types of the columns, the same in all shards of a store."""

    codes_shape: tuple[int, ...]
    """Of a picture's codes: (h, w) of a grid."""
    vocabulary: int
    """Codes are below this; up to 65 536 they are stored in two bytes. 0: they are numbers."""
    feature_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Feature -> (D,), or (N, D) for patches."""
    feature_dtype: str = "float16"
    """float16 or float32."""
    asks: bool = False
    """Whether rows have questions."""

    @property
    def codes_dtype(self) -> np.dtype:
        """uint16 or int32; float32 of numbers."""
        if self.vocabulary == 0:
            return np.dtype(np.float32)
        return np.dtype(np.uint16 if self.vocabulary <= 1 << 16 else np.int32)

    @property
    def rows_per_record(self) -> int:
        """How many rows are written at once."""
        width = np.dtype(self.feature_dtype).itemsize
        size = math.prod(self.codes_shape) * self.codes_dtype.itemsize
        size += sum(width * math.prod(shape) for shape in self.feature_shapes.values())
        return max(1, _RECORD_BYTES // size)

    def schema(self) -> pa.Schema:
        """The columns as Arrow names them."""
        codes = pa.from_numpy_dtype(self.codes_dtype)
        value = pa.from_numpy_dtype(np.dtype(self.feature_dtype))
        columns = [
            ("key", pa.string()),
            ("caption", pa.string()),
            ("text_ids", pa.list_(pa.int32())),
            ("codes", pa.list_(codes, math.prod(self.codes_shape))),
        ]
        for kind, shape in self.feature_shapes.items():
            columns.append((kind, pa.list_(value, math.prod(shape))))
        if self.asks:
            columns += _QUESTIONS
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


@dataclass(frozen=True)
class AskedRow:
    """The k questions about a picture, and their answers: texts and their ids."""

    questions: Sequence[str] = ()
    answers: Sequence[str] = ()
    question_ids: Sequence[Sequence[int]] = ()
    answer_ids: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class RowBlock:
    """Some rows on their way into a shard."""

    keys: Sequence[str]
    captions: Sequence[str]
    text_ids: Sequence[Sequence[int]]
    codes: np.ndarray
    """(n, *codes_shape) integer, or finite numbers."""
    features: dict[str, np.ndarray]
    """Kind -> (n, ...) floating, finite."""
    questions: Sequence[AskedRow] = ()
    """Of n rows, where the shard has such columns."""

    def __len__(self) -> int:
        return len(self.keys)


def _record(form: ShardForm, blocks: Sequence[RowBlock]) -> pa.RecordBatch:
    schema = form.schema()

    def fixed(name: str, parts: list[np.ndarray], dtype: np.dtype) -> pa.Array:
        flat = np.concatenate([np.ravel(part) for part in parts]).astype(dtype, copy=False)
        kind = schema.field(name).type
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)

    ids = [row for block in blocks for row in block.text_ids]
    offsets = np.zeros(len(ids) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in ids], out=offsets[1:])
    values = np.fromiter((x for row in ids for x in row), dtype=np.int32, count=int(offsets[-1]))
    columns: list[pa.Array] = [
        pa.array([key for block in blocks for key in block.keys], pa.string()),
        pa.array([caption for block in blocks for caption in block.captions], pa.string()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
        fixed("codes", [block.codes for block in blocks], form.codes_dtype),
    ]
    for kind in form.feature_shapes:
        parts = [block.features[kind] for block in blocks]
        columns.append(fixed(kind, parts, np.dtype(form.feature_dtype)))
    if form.asks:
        asked = [row for block in blocks for row in block.questions]
        for name, kind_ in _QUESTIONS:
            columns.append(pa.array([list(getattr(row, name)) for row in asked], kind_))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def write_shard(path: Path, form: ShardForm, blocks: Iterable[RowBlock]) -> int:
    """Write a shard, whole or not at all, and return its number of rows.

    The same blocks give the same bytes.
    """
    rows = 0
    # A plain Python file: what goes wrong on the disk arrives as OSError with its number.
    with (
        atomic_file(path) as temporary,
        open(temporary, "wb") as handle,
        pa.ipc.new_file(handle, form.schema()) as writer,
    ):
        waiting: list[RowBlock] = []
        for block in blocks:
            waiting.append(block)
            rows += len(block)
            if sum(map(len, waiting)) >= form.rows_per_record:
                writer.write_batch(_record(form, waiting))
                waiting = []
        if waiting:
            writer.write_batch(_record(form, waiting))
    return rows


@dataclass(frozen=True)
class Record:
    """Rows that lie together in a shard, as read-only views of the mapped file."""

    batch: pa.RecordBatch
    offsets: np.ndarray
    """(n + 1,) int32: where the ids of each row begin."""
    text_ids: np.ndarray
    """(sum,) int32."""
    codes: np.ndarray
    """(n, h * w)."""
    features: dict[str, np.ndarray]
    """Kind -> (n, size)."""

    def __len__(self) -> int:
        return self.batch.num_rows

    def entries(self, column: str, rows: np.ndarray) -> list[Any]:
        """Strings of the column `key` or `caption`, lists of one about questions."""
        return list(self.batch.column(column).take(pa.array(rows)).to_pylist())


def _view(column: pa.FixedSizeListArray) -> np.ndarray:
    flat = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(column), column.type.list_size)


def open_shard(path: Path, form: ShardForm) -> list[Record]:
    """Map a shard into memory; `InputError` when it is missing, damaged or of another form."""
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if not reader.schema.equals(form.schema()):
                raise InputError(f"{path}: its columns are not those that the store describes")
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate()
    except FileNotFoundError:
        raise InputError(f"{path}: this shard is missing; prepare the store again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: damaged shard ({error}); prepare the store again") from error
    return [
        Record(
            batch=batch,
            offsets=batch.column("text_ids").offsets.to_numpy(),
            text_ids=batch.column("text_ids").values.to_numpy(),
            codes=_view(batch.column("codes")),
            features={kind: _view(batch.column(kind)) for kind in form.feature_shapes},
        )
        for batch in batches
    ]
