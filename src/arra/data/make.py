"""Making one shard: read rows, fit, encode, write. A pure function of the rows and the settings."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arra.ahead import ahead, spread
from arra.codecs.base import Codec
from arra.data.blocks import BlockSource, RowLike, Source
from arra.data.decode import pixels_of
from arra.data.report import BadEntry, Remarks
from arra.data.rows import Question
from arra.data.shards import AskedRow, RowBlock, ShardForm, write_shard
from arra.data.store import CODEC, SHARDS, TOKENIZER, Settings, ShardEntry, codec_identity
from arra.data.tokenizer import CaptionEncoder, one_line
from arra.encoders.base import Encoder, Features
from arra.errors import ArraError, InputError, ProvenanceError
from arra.files import read_json, sha256_of_file, to_plain, write_json
from arra.pixels import stills, to_unit
from arra.resizing import resampling
from arra.settings import feature_name

WORK = ".work"
"""Folder inside the store that holds what is only needed until the store is finished."""
ENCODERS = "encoders"


class Good(NamedTuple):
    """A row that can be used."""

    number: int
    key: str
    row: RowLike | np.ndarray
    """The row, or its pixels."""
    caption: str
    questions: tuple[Question, ...]

    def is_text(self) -> bool:
        """Whether all of its texts are valid Unicode."""
        asked = (text for one in self.questions for text in (one.question, one.answer))
        return all(map(_is_text, (self.key, self.caption, *asked)))


class Fitted(NamedTuple):
    """Rows to be encoded together."""

    last: int
    """Index of the last of them."""
    keys: list[str]
    pictures: np.ndarray
    captions: list[str]
    questions: list[tuple[Question, ...]]


@dataclass(frozen=True)
class ShardResult:
    """A finished shard and what there is to report about its rows."""

    entry: ShardEntry
    remarks: Remarks

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> ShardResult:
        """From JSON values."""
        return cls(ShardEntry(**plain["entry"]), Remarks.from_plain(plain["remarks"]))


@dataclass(frozen=True)
class Job:
    """What is to be made, as a worker process receives it; codec and encoders travel as folders."""

    folder: Path
    source: Source
    settings: Settings
    digest: str
    """Digest of the settings, kept beside each finished shard."""
    form: ShardForm
    codec_class: type[Codec]
    codec_device: str
    encoders: dict[str, tuple[type[Encoder], str]]
    """Name -> class and device."""

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        return range(-(-len(self.source) // self.settings.shard_rows))

    def span(self, number: int) -> tuple[int, int]:
        """The rows [start, stop) of the source that shard `number` is made of."""
        start = number * self.settings.shard_rows
        return start, min(start + self.settings.shard_rows, len(self.source))

    def shard_path(self, number: int) -> Path:
        """Where shard `number` goes."""
        return self.folder / SHARDS / f"{number:06d}.arrow"

    def encoder_path(self, name: str) -> Path:
        """Where worker processes find an encoder."""
        return self.folder / WORK / ENCODERS / str(list(self.encoders).index(name))

    def _note_path(self, number: int) -> Path:
        return self.folder / WORK / "done" / f"{number:06d}.json"

    def note(self, number: int, result: ShardResult) -> None:
        """Remember that a shard is finished."""
        write_json(self._note_path(number), {"digest": self.digest, "result": result})

    def noted(self, number: int) -> ShardResult | None:
        """What was made earlier, if with these settings, and if its bytes are still there."""
        path = self.shard_path(number)
        try:
            plain = read_json(self._note_path(number))
            if plain["digest"] != self.digest:
                return None
            result = ShardResult.from_plain(plain["result"])
            return result if sha256_of_file(path) == result.entry.sha256 else None
        except (InputError, KeyError, TypeError, FileNotFoundError):
            return None


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say what to do when the disk is full; nothing half-written is left under a final name."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ArraError(
            f"{folder}: {os.strerror(error.errno)} while the store was written. Make room and call "
            "prepare again: finished shards are kept."
        ) from error


def features_of(
    encoders: Mapping[str, Encoder], images: list[Image.Image], kinds: Sequence[str]
) -> dict[str, Tensor]:
    """Feature -> (B, D), or (B, N, D) for patches, of fitted pictures (of clips a frame of each).

    Each encoder gives those of `kinds` that it has; `InputError` where nobody has one of them.
    """
    found: dict[str, Tensor] = {}
    lacking: dict[str, InputError] = {}
    for name, encoder in encoders.items():
        with torch.inference_mode():
            features = encoder.encode(encoder.preprocess(images).to(encoder.device))
        for kind in kinds:
            try:
                found[feature_name(name, kind)] = _column(features, kind)
            except InputError as error:
                lacking[kind] = error
    for kind, refusal in lacking.items():
        if not any(name.rpartition("/")[2] == kind for name in found):
            raise refusal
    return found


def _column(features: Features, kind: str) -> Tensor:
    """(B, D) of kind "cls" or "mean", (B, N, D) of kind "patches"."""
    if kind != "patches":
        return features.aggregate("cls" if kind == "cls" else "mean")
    if features.patches is None:
        raise InputError("this encoder has no patch vectors: leave 'patches' out of aggregations")
    return features.patches


class Maker:
    """Makes shards of one job in this process."""

    def __init__(
        self, job: Job, codec: Codec, encoders: Mapping[str, Encoder], captions: CaptionEncoder
    ):
        self.job, self.codec, self.encoders, self.captions = job, codec, encoders, captions

    @classmethod
    def load(cls, job: Job) -> Maker:
        """With codec, encoders and tokenizer from the store's folder.

        Raises `ProvenanceError` where a part does not come back from its folder as it was.
        """
        codec = job.codec_class.from_pretrained(job.folder / CODEC).to(job.codec_device)
        if to_plain(codec_identity(codec)) != job.settings.codec:
            raise ProvenanceError("the codec changed by being saved and loaded: use workers=0")
        encoders = {}
        for name, (kind, device) in job.encoders.items():
            encoder = encoders[name] = kind.from_pretrained(job.encoder_path(name)).to(device)
            if to_plain(encoder.identity()) != job.settings.encoders[name]:
                raise ProvenanceError(
                    f"the encoder {name} changed by being saved and loaded: use workers=0"
                )
        return cls(job, codec, encoders, CaptionEncoder.load(job.folder / TOKENIZER))

    def make(self, number: int, advance: Callable[[int], None]) -> ShardResult:
        """Write shard `number` and remember that it is finished; `advance` hears of rows done."""
        start, stop = self.job.span(number)
        remarks = Remarks()
        path = self.job.shard_path(number)
        with disk_errors(self.job.folder):
            rows = write_shard(path, self.job.form, self._blocks(start, stop, remarks, advance))
            entry = ShardEntry(path.name, start, stop, rows, sha256_of_file(path))
            result = ShardResult(entry, remarks)
            self.job.note(number, result)
        return result

    def _blocks(
        self, start: int, stop: int, remarks: Remarks, advance: Callable[[int], None]
    ) -> Iterator[RowBlock]:
        """Reading, fitting and encoding go on in threads of their own, while this one stores.

        Each thread that encodes computes with its share of the processors: parts of networks that
        use one only (and there are many) then overlap, too.
        """
        done = start
        lanes, threads = self._lanes()
        before = torch.get_num_threads()
        batches = ahead(self._batches(start, stop, remarks), 1)
        pool = ThreadPoolExecutor(lanes, "encode", torch.set_num_threads, (threads,))
        try:
            for last, block in spread(pool, self._encoded, batches, lanes + 1):
                yield block
                advance(last + 1 - done)
                done = last + 1
            advance(stop - done)
        finally:
            pool.shutdown(cancel_futures=True)
            batches.close()
            torch.set_num_threads(before)  # the number that new threads begin with, too

    def _lanes(self) -> tuple[int, int]:
        """How many batches are encoded at a time, and the threads of torch for each."""
        devices = [self.codec.device, *(encoder.device for encoder in self.encoders.values())]
        threads = torch.get_num_threads()
        if threads == 1 or any(device.type != "cpu" for device in devices):
            return 1, threads
        return 2, threads // 2  # two, not more: each holds the activations of a batch

    def _batches(self, start: int, stop: int, remarks: Remarks) -> Iterator[Fitted]:
        """As many good rows as are encoded at once."""
        rows = ahead(self._good_rows(start, stop, remarks), 4)  # few, for pictures may be large
        fitted = ((good, self._fitted(good.row)) for good in rows)
        try:
            while batch := list(islice(fitted, self.job.settings.batch)):
                goods, pictures = zip(*batch, strict=True)
                keys, captions = [good.key for good in goods], [good.caption for good in goods]
                asked = [good.questions for good in goods]
                yield Fitted(goods[-1].number, keys, np.stack(pictures), captions, asked)
        finally:
            rows.close()

    def _good_rows(self, start: int, stop: int, remarks: Remarks) -> Iterator[Good]:
        """Each row that can be used."""
        size, step = int(self.job.settings.picture["size"]), self.job.settings.batch
        source = self.job.source
        fast = isinstance(source, BlockSource) and source.side == size
        for first in range(start, stop, step):
            last = min(first + step, stop)
            read = self._read_block(first, last) if fast else self._read_rows(first, last, remarks)
            for good in read:
                if good.is_text():
                    yield good
                else:
                    reason = "its caption, key or a question is not valid Unicode"
                    remarks.bad.append(BadEntry(good.number, ascii(good.key), reason))

    def _read_block(self, start: int, stop: int) -> Iterator[Good]:
        assert isinstance(self.job.source, BlockSource)
        block = self.job.source.block(start, stop)
        asked = block.questions or [()] * len(block.keys)
        rows = zip(block.keys, block.pictures, block.captions, asked, strict=True)
        for offset, row in enumerate(rows):
            yield Good(start + offset, *row)

    def _read_rows(self, start: int, stop: int, remarks: Remarks) -> Iterator[Good]:
        for index in range(start, stop):
            try:
                row = self.job.source.read(index)
            except InputError as error:
                # Only a bad row has these two; any other error is not the fault of one row.
                if not (hasattr(error, "name") and hasattr(error, "reason")):
                    raise
                remarks.refuse(index, error)
                continue
            remarks.note(index, row.key, getattr(row, "notes", ()))
            yield Good(index, row.key, row, row.caption, getattr(row, "questions", ()))

    def _fitted(self, row: RowLike | np.ndarray) -> np.ndarray:
        """(S, S, 3 T) uint8 of a row; arrays are of the right size."""
        if isinstance(row, np.ndarray):
            return row
        picture = self.job.settings.picture
        filter_ = resampling(picture["resample"], "resample")
        return pixels_of(row, picture["size"], picture["fit"], filter_)

    def _encoded(self, batch: Fitted) -> tuple[int, RowBlock]:
        return batch.last, self._encode(batch)

    def _encode(self, batch: Fitted) -> RowBlock:
        form, keys, pictures = self.job.form, batch.keys, batch.pictures
        with torch.inference_mode():
            pixels = to_unit(pictures, self.codec.channels).to(self.codec.device)
            codes = self.codec.encode(pixels).cpu().numpy()
        if codes.shape != (len(keys), *form.codes_shape):
            raise InputError(
                f"the codec gave codes {codes.shape}, expected {form.codes_shape} each"
            )
        if not form.vocabulary and not np.isfinite(codes).all():
            raise InputError(
                f"the codec gave numbers that are not finite for {keys[0]} to {keys[-1]}"
            )
        if form.vocabulary and (codes.min() < 0 or codes.max() >= form.vocabulary):
            raise InputError(
                f"the codec gave code {codes.min()} or {codes.max()} for one of {keys[0]} to "
                f"{keys[-1]}, outside 0 to {form.vocabulary - 1}"
            )
        looked_at = stills(pictures) if self.encoders else ()
        images = [Image.fromarray(picture) for picture in looked_at]
        found = features_of(self.encoders, images, self.job.settings.aggregations)
        values = {name: self._feature(name, found[name], keys) for name in form.feature_shapes}
        text_ids = self.captions([one_line(caption) for caption in batch.captions])
        asked = [self._asked(row) for row in batch.questions] if form.asks else ()
        return RowBlock(keys, batch.captions, text_ids, codes, values, asked)

    def _asked(self, row: tuple[Question, ...]) -> AskedRow:
        """The questions of a row, their answers, and the ids of both."""
        texts = [one.question for one in row], [one.answer for one in row]
        ids = [self.captions([one_line(text) for text in column]) for column in texts]
        return AskedRow(*texts, *ids)

    def _feature(self, name: str, tensor: Tensor, keys: list[str]) -> np.ndarray:
        shape = (len(keys), *self.job.form.feature_shapes[name])
        if tuple(tensor.shape) != shape:
            raise InputError(f"the encoder gave {name} features {tuple(tensor.shape)}, not {shape}")
        with np.errstate(over="ignore"):
            values = tensor.float().cpu().numpy().astype(self.job.form.feature_dtype)
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise InputError(
                f"{keys[row]}: its {name} features are not finite as {values.dtype}; if they are "
                "large, prepare with feature_dtype='float32'"
            )
        return values


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate: bytes that were not UTF-8, smuggled through
        return False
    return True
