"""The prepared store: text ids, codes and encoder features of a set of pictures, with provenance.

A folder:

    store.json    provenance: what made this, and the hash of every shard; written last
    report.json   the rows that were left out, by name and reason
    shards/       Arrow files, mapped into memory (`arra.data.shards`)
    tokenizer/    loads with `AutoTokenizer`
    codec/        loads with `Codec.from_pretrained`
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from arra.data.rows import Question
from arra.data.shards import FEATURE_DTYPES, FEATURE_KINDS, Record, ShardForm, open_shard
from arra.data.tokenizer import load_text_tokenizer, tokenizer_fingerprint
from arra.errors import InputError, ProvenanceError
from arra.files import read_json, sha256_of_file, to_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from arra.codecs.base import Codec
    from arra.encoders.base import Encoder

FORMAT = 2
"""Raised when stores of an earlier layout can no longer be read."""
MANIFEST, REPORT, SHARDS, TOKENIZER, CODEC = (
    "store.json",
    "report.json",
    "shards",
    "tokenizer",
    "codec",
)


@dataclass(frozen=True)
class Settings:
    """Everything that the content of the shards depends on."""

    codec: dict[str, Any]
    """name, fingerprint, config, downsample, vocabulary."""
    encoders: dict[str, dict[str, Any]]
    """Name -> `Encoder.identity()`; the first or only encoder has the empty name."""
    aggregations: tuple[str, ...]
    """Kinds of features stored, of each encoder that has them: "cls", "mean", "patches"."""
    feature_dtype: str
    """float16 or float32."""
    tokenizer: dict[str, Any]
    """fingerprint, vocabulary."""
    picture: dict[str, Any]
    """size in pixels, how it was fitted, and with which resampling."""
    source: dict[str, Any]
    """identity of the source, how many rows it has, and `questions` where it asks some."""
    shard_rows: int
    """Rows of the source for each shard, bad ones included."""
    batch: int
    """Pictures encoded at once: floating point may depend on it in the last bit."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard: rows `start` to `stop` of the source, without the bad ones."""

    file: str
    start: int
    stop: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """What made a store, as `store.json` holds it."""

    format: int
    """Layout of the folder."""
    arra: str
    """Version of arra that made it."""
    settings: Settings
    codes_shape: tuple[int, ...]
    """(h, w), or whatever axes the codec's codes have."""
    feature_shapes: dict[str, tuple[int, ...]]
    """Feature -> (D,), or (N, D) for patches; `arra.settings.feature_name` says how they are
    called."""
    rows: int
    """Rows in the store."""
    bad_rows: int
    """Rows of the source that were left out; `report.json` names them."""
    shards: tuple[ShardEntry, ...] = field(repr=False)

    def form(self) -> ShardForm:
        """Shapes and types of the shards' columns."""
        return ShardForm(
            self.codes_shape,
            int(self.settings.codec["vocabulary"]),
            self.feature_shapes,
            self.settings.feature_dtype,
            bool(self.settings.source.get("questions")),
        )

    @classmethod
    def read(cls, path: Path) -> Provenance:
        """From `store.json`; `InputError` naming what is wrong with it."""
        plain = read_json(path)
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            found = plain.get("format") if isinstance(plain, dict) else None
            raise InputError(
                f"{path}: format {found!r}, this arra reads format {FORMAT}; prepare it again"
            )
        try:
            settings = settings_from_plain(plain["settings"])
            shapes = {k: tuple(map(int, v)) for k, v in plain["feature_shapes"].items()}
            codes = tuple(map(int, plain["codes_shape"]))
            entries = tuple(_entry(shard) for shard in plain["shards"])
            values = {**plain, "settings": settings, "feature_shapes": shapes, "shards": entries}
            made = cls(**{**values, "codes_shape": codes})
            made.form()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not the provenance of a store ({error!r})") from error
        positive = all(size > 0 for shape in [*shapes.values(), codes] for size in shape)
        kinds = {name.rpartition("/")[2] for name in shapes}
        if not positive or not codes or not kinds <= set(FEATURE_KINDS):
            raise InputError(f"{path}: impossible shapes, {codes} and {shapes}")
        if settings.feature_dtype not in FEATURE_DTYPES:
            raise InputError(f"{path}: feature_dtype {settings.feature_dtype!r}")
        if sum(entry.rows for entry in entries) != made.rows:
            raise InputError(f"{path}: {made.rows} rows, but its shards hold another number")
        return made


def settings_from_plain(plain: dict[str, Any]) -> Settings:
    """Settings from JSON values."""
    return Settings(**{**plain, "aggregations": tuple(plain["aggregations"])})


def _entry(plain: dict[str, Any]) -> ShardEntry:
    entry = ShardEntry(**plain)
    if Path(entry.file).name != entry.file:
        raise ValueError(f"shard file {entry.file!r} is not a plain name")
    return entry


def differences(there: Settings, here: Settings) -> list[str]:
    """One line for every field that differs: its name, what the store has, what is asked for."""
    found = []
    for f in fields(Settings):
        old, new = to_plain(getattr(there, f.name)), to_plain(getattr(here, f.name))
        found += _differing(f.name, old, new, deeper=2 if f.name == "encoders" else 1)
    return found


def _differing(label: str, old: Any, new: Any, deeper: int) -> list[str]:
    """A line for `label`, or, where both are tables, for every entry that differs."""
    if old == new:
        return []
    if not (deeper and isinstance(old, dict) and isinstance(new, dict)):
        return [f"{label}: store {old!r}, now {new!r}"]
    found = []
    for name in sorted({*old, *new}):
        inner = f"{label}.{name}" if name else label
        found += _differing(inner, old.get(name), new.get(name), deeper - 1)
    return found


def by_name(encoder: Encoder | Mapping[str, Encoder] | None) -> dict[str, Encoder]:
    """Encoders by name; a single one has the empty name."""
    if encoder is None:
        return {}
    return dict(encoder) if isinstance(encoder, Mapping) else {"": encoder}


def codec_identity(codec: Codec) -> dict[str, Any]:
    """Name, fingerprint, configuration and sizes of a codec."""
    return {
        "name": codec.registered_name,
        "fingerprint": codec.fingerprint(),
        "config": to_plain(codec.config),
        "downsample": int(codec.downsample),
        "vocabulary": int(codec.vocabulary),
    }


Asked = tuple[list[int], list[int]]
"""Ids of a question, and of its answer."""


@dataclass(frozen=True)
class StoredRows:
    """Some rows of a store."""

    text_ids: list[list[int]]
    """B lists of ids, without control tokens."""
    codes: Tensor
    """(B, *codes_shape) int64, or float32 where codes are vectors."""
    features: dict[str, Tensor]
    """Feature -> (B, D) float32, or (B, N, D) for patches."""
    questions: list[list[Asked]] = field(default_factory=list)
    """B lists of questions with their answers; empty where the store has none."""


class PreparedStore:
    """Random access to prepared rows. Opening reads no rows; reading copies only those asked for.

    Picklable: another process opens the same folder.
    """

    def __init__(self, folder: Path, provenance: Provenance):
        self.folder, self.provenance = folder, provenance
        form = provenance.form()
        self.codes_shape = form.codes_shape
        self.vocabulary, self.asks = form.vocabulary, form.asks
        self._shapes = form.feature_shapes
        self._records: list[Record] = []
        for entry in provenance.shards:
            records = open_shard(folder / SHARDS / entry.file, form)
            if sum(map(len, records)) != entry.rows:
                raise InputError(f"{folder / SHARDS / entry.file}: expected {entry.rows} rows")
            self._records.extend(record for record in records if len(record))
        self._starts = np.cumsum([0, *map(len, self._records)])

    @classmethod
    def open(cls, folder: str | Path) -> PreparedStore:
        """Open a finished store. Raises `InputError` when there is none, or it is damaged."""
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            if (folder / ".work").is_dir():
                raise InputError(
                    f"{folder}: its preparation did not finish; call prepare again, which goes on "
                    "where it stopped"
                )
            raise InputError(f"{folder}: no prepared store here (expected {MANIFEST})")
        return cls(folder, Provenance.read(folder / MANIFEST))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes; `InputError` where a picture's codes are no grid.

        A cell may have several codes, or a vector: codes are (h, w), (h, w, m) or (h, w, C).
        """
        if len(self.codes_shape) not in (2, 3):
            name = self.provenance.settings.codec["name"]
            raise InputError(
                f"{self.folder}: codes of shape {self.codes_shape} ({name}), expected a grid (h, "
                "w): prepare it with a codec that gives one code for each square of pixels"
            )
        rows, columns = self.codes_shape[:2]
        return rows, columns

    def __reduce__(self) -> Any:
        return PreparedStore.open, (self.folder,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _groups(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[Any, Record, Any]]:
        """(places in the answer, record, rows in that record) for each record that is needed."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            wrong = wanted[(wanted < 0) | (wanted >= len(self))][0]
            raise IndexError(f"row {wrong} of a store of {len(self)} rows")
        which = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(which, kind="stable")
        used, first = np.unique(which[order], return_index=True)
        for number, places in zip(used, np.split(order, first[1:]), strict=bool(len(wanted))):
            yield places, self._records[number], wanted[places] - self._starts[number]

    def rows(
        self, indices: Sequence[int] | np.ndarray, features: Sequence[str] | None = None
    ) -> StoredRows:
        """Rows in the order of `indices` (repeats allowed); `IndexError` outside 0 to len - 1.

        Only `features` are read from the disk, unless that is None, which reads all.
        """
        count, read = len(indices), self._shapes if features is None else tuple(features)
        kind = np.int64 if self.vocabulary else np.float32
        codes = np.empty((count, math.prod(self.codes_shape)), dtype=kind)
        found = {
            name: np.empty((count, math.prod(self._shapes[name])), dtype=np.float32)
            for name in read
        }
        text_ids: list[list[int]] = [[]] * count
        questions: list[list[Asked]] = [[]] * count if self.asks else []
        for places, record, local in self._groups(indices):
            codes[places] = record.codes[local]
            for name, values in found.items():
                values[places] = record.features[name][local]
            starts, stops = record.offsets[local].tolist(), record.offsets[local + 1].tolist()
            for place, start, stop in zip(places.tolist(), starts, stops, strict=True):
                text_ids[place] = record.text_ids[start:stop].tolist()
            if self.asks:
                asked = _pairs(record, local, "question_ids", "answer_ids")
                for place, pairs in zip(places.tolist(), asked, strict=True):
                    questions[place] = pairs
        shaped = {k: torch.from_numpy(v).view(count, *self._shapes[k]) for k, v in found.items()}
        shape = (count, *self.codes_shape)
        return StoredRows(text_ids, torch.from_numpy(codes).view(shape), shaped, questions)

    def text_lengths(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n,) int64: how many text ids each of these rows has."""
        lengths = np.empty(len(indices), dtype=np.int64)
        for places, record, local in self._groups(indices):
            lengths[places] = record.offsets[local + 1] - record.offsets[local]
        return lengths

    def longest_text(self) -> int:
        """How many text ids the row with the most of them has: its caption, or a question and its
        answer."""
        longest = max((int(np.diff(record.offsets).max()) for record in self._records), default=0)
        if not self.asks:
            return longest
        asked = (
            len(question) + len(answer)
            for record in self._records
            for row in _pairs(record, np.arange(len(record)), "question_ids", "answer_ids")
            for question, answer in row
        )
        return max(longest, max(asked, default=0))

    def captions(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Captions in the order of `indices`."""
        return self._strings("caption", indices)

    def questions(self, indices: Sequence[int] | np.ndarray) -> list[tuple[Question, ...]]:
        """What is asked about each row, in the order of `indices`; nothing in a store without."""
        found: list[tuple[Question, ...]] = [()] * len(indices)
        for places, record, local in self._groups(indices) if self.asks else ():
            asked = _pairs(record, local, "questions", "answers")
            for place, pairs in zip(places.tolist(), asked, strict=True):
                found[place] = tuple(Question(*pair) for pair in pairs)
        return found

    def keys(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Names of the rows in their source, in the order of `indices`."""
        return self._strings("key", indices)

    def _strings(self, column: str, indices: Sequence[int] | np.ndarray) -> list[str]:
        found = [""] * len(indices)
        for places, record, local in self._groups(indices):
            for place, text in zip(places, record.entries(column, local), strict=True):
                found[place] = text
        return found

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that made the text ids."""
        return load_text_tokenizer(self.folder / TOKENIZER)

    def codec(self) -> Codec:
        """The codec that made the codes."""
        from arra.codecs.base import Codec

        return Codec.from_pretrained(self.folder / CODEC)

    def check(
        self,
        codec: Codec | None = None,
        encoder: Encoder | Mapping[str, Encoder] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Raise `ProvenanceError` unless the parts given are those that made this store.

        `encoder` is the one without a name, or several by name.

        The message names every part that differs, and both identities.
        """
        settings, wrong = self.provenance.settings, []
        if codec is not None:
            mine = {k: settings.codec[k] for k in ("name", "fingerprint")}
            yours = {"name": codec.registered_name, "fingerprint": codec.fingerprint()}
            wrong += _differ("codec", mine, yours)
        for name, one in by_name(encoder).items():
            there = settings.encoders.get(name)
            wrong += _differ(f"encoder {name}".strip(), there, to_plain(one.identity()))
        if tokenizer is not None:
            yours = {"fingerprint": tokenizer_fingerprint(tokenizer)}
            wrong += _differ("tokenizer", {"fingerprint": settings.tokenizer["fingerprint"]}, yours)
        if wrong:
            lines = "\n".join(wrong)
            raise ProvenanceError(
                f"{self.folder}: made by something else than what it is used with\n{lines}\n"
                "Use the parts of the store, or prepare it again with yours."
            )

    def verify(self) -> None:
        """Read every shard and compare its hash; `ProvenanceError` naming those that changed."""
        paths = [(self.folder / SHARDS / e.file, e.sha256) for e in self.provenance.shards]
        changed = [path.name for path, digest in paths if sha256_of_file(path) != digest]
        if changed:
            raise ProvenanceError(
                f"{self.folder}: changed since it was made: {', '.join(changed)}; prepare it again"
            )


def _pairs(record: Record, rows: np.ndarray, *columns: str) -> list[list[Any]]:
    """Of each row the questions with their answers, as two columns have them."""
    questions, answers = (record.entries(column, rows) for column in columns)
    return [list(zip(*pair, strict=True)) for pair in zip(questions, answers, strict=True)]


def _differ(part: str, mine: Any, yours: Any) -> list[str]:
    return [] if mine == yours else [f"  {part}: the store was made by {mine}, not by {yours}"]
