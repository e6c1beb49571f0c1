"""Pairs of noise and codes that a teacher makes: what students learn from (arXiv 2412.17153).

A prepared store like any other, whose pictures nobody took: row i has a caption, the codes that the
teacher draws from the noise of its seed, and no features. The noise is a function of the seed, and
so is not stored; `Pairs` gives it as the feature `noise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arra.data.make import Job, ShardResult, disk_errors
from arra.data.prepare import finish, parts_there, save_parts
from arra.data.report import Remarks
from arra.data.shards import RowBlock, ShardForm, write_shard
from arra.data.store import FORMAT, PreparedStore, Settings, ShardEntry, StoredRows, codec_identity
from arra.data.tokenizer import tokenizer_fingerprint
from arra.data.workplace import claim, locked
from arra.errors import InputError
from arra.files import sha256_of_file, sha256_of_json, to_plain
from arra.generators.base import CodeGenerator
from arra.generators.student_batches import NOISE as NOISE_FEATURE
from arra.jobs.console import resumable
from arra.progress import Task, track
from arra.samplers.flow import FlowSampler, TokenFlow, picture_noise
from arra.samplers.noise import NOISE
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage

KIND = "pairs of noise and codes"


@dataclass(frozen=True)
class PairOptions:
    """Which pairs a teacher makes."""

    count: int = 20000
    """How many."""
    seed: int = 1 << 40
    """Seed of the first; the next ones follow. Far from 0, where pictures begin that are drawn to
    be looked at: a student should not have learnt these."""
    batch: int = 250
    """Pictures that the teacher draws at once."""
    flow_steps: int = 100
    """Of Euler's method for each code."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1 or not 0 <= self.seed < 2**63 - self.count:
            raise InputError(f"PairOptions: {self}, expected count and batch of at least 1")


@dataclass(frozen=True)
class _Captions:
    """Captions in turn, as a source whose pictures are still to be drawn."""

    captions: Sequence[str]
    facts: dict[str, Any] = field(repr=False)
    count: int = 0

    def __len__(self) -> int:
        return self.count

    def caption(self, index: int) -> str:
        """That of row `index`."""
        return self.captions[index % len(self.captions)]

    def read(self, index: int) -> Any:
        """There is nothing to read."""
        raise InputError(f"row {index}: pairs have no pictures but those that are drawn")

    def identity(self) -> dict[str, Any]:
        """What the pairs depend on."""
        return self.facts


class Pairs(PreparedStore):
    """The pairs of a folder, with their noise."""

    @classmethod
    def open(cls, folder: str | Path) -> Pairs:
        """Open finished pairs; `InputError` where there are none."""
        found = super().open(folder)
        assert isinstance(found, Pairs)
        if found.facts.get("kind") != KIND:
            raise InputError(f"{folder}: a store of pictures, expected {KIND} (arra distill)")
        return found

    def __reduce__(self) -> Any:
        return Pairs.open, (self.folder,)

    @property
    def facts(self) -> dict[str, Any]:
        """What made the pairs."""
        return dict(self.provenance.settings.source["identity"])

    def seeds(self, indices: Sequence[int] | np.ndarray) -> list[int]:
        """Seeds of some rows."""
        return [int(self.facts["seed"]) + int(index) for index in indices]

    def rows(
        self, indices: Sequence[int] | np.ndarray, features: Sequence[str] | None = None
    ) -> StoredRows:
        """As of any store; the feature "noise" is (B, L, d)."""
        read = None if features is None else [name for name in features if name != NOISE_FEATURE]
        found = super().rows(indices, read)
        if features is None or NOISE_FEATURE in features:
            length, dimensions = self.facts["noise_shape"]
            found.features[NOISE_FEATURE] = picture_noise(self.seeds(indices), length, dimensions)
        return found


def make_pairs(
    teacher: TextToImage,
    captions: Sequence[str],
    folder: str | Path,
    options: PairOptions | None = None,
    sampling: SamplingConfig | None = None,
    *,
    shard_rows: int = 2000,
    overwrite: bool = False,
    quiet: bool = False,
) -> Pairs:
    """Pairs in `folder`, the captions in turn, or go on where a call stopped.

    The same bytes whatever interrupts it. Raises `InputError` for a teacher that draws no codes, or
    whose codes have no vectors, and what `data.prepare` raises of a folder that holds other things.
    """
    options, sampling = options or PairOptions(), sampling or SamplingConfig()
    generator, folder = teacher.generator, Path(folder)
    if not isinstance(generator, CodeGenerator) or not generator.causal:
        raise InputError(f"a {generator.registered_name} generator: draws no codes one by one")
    if not captions or generator.tokenizer is None:
        raise InputError("captions: none, or a teacher that reads none")
    sampler = FlowSampler(teacher.codec.code_vectors(), sampling, TokenFlow(options.flow_steps))
    length = int(np.prod(generator.codes_shape))
    facts = {
        "kind": KIND,
        "teacher": teacher.fingerprint(),
        "sampling": to_plain(sampling),
        "flow": to_plain(sampler.flow),
        "noise": NOISE,
        "noise_shape": [length, sampler.codes.shape[1]],
        "seed": options.seed,
        "captions": sha256_of_json(list(captions)),
    }
    source = _Captions(captions, facts, options.count)
    job = _job(teacher, folder, source, shard_rows, options.batch)
    with (
        disk_errors(folder),
        locked(folder),
        resumable("making pairs"),
        track("pairs", options.count, quiet) as task,
    ):
        claim(job, overwrite)
        if not parts_there(folder):
            save_parts(folder, teacher.codec, generator.tokenizer)
        results = [_shard(job, number, teacher, sampler, options, task) for number in job.shards]
        finish(job, results)
    return Pairs.open(folder)


def _job(teacher: TextToImage, folder: Path, source: _Captions, rows: int, batch: int) -> Job:
    tokenizer, codec = teacher.generator.tokenizer, teacher.codec
    assert tokenizer is not None
    settings = Settings(
        codec=to_plain(codec_identity(codec)),
        encoders={},
        aggregations=(),
        feature_dtype="float32",
        tokenizer={"fingerprint": tokenizer_fingerprint(tokenizer), "vocabulary": len(tokenizer)},
        picture={"size": teacher.size[0], "fit": "drawn", "resample": "none"},
        source={"identity": source.identity(), "rows": len(source)},
        shard_rows=rows,
        batch=batch,
    )
    return Job(
        folder=folder,
        source=source,
        settings=settings,
        digest=sha256_of_json([FORMAT, settings]),
        form=ShardForm(teacher.generator.codes_shape, codec.vocabulary),
        codec_class=type(codec),
        codec_device=str(codec.device),
        encoders={},
    )


def _shard(
    job: Job,
    number: int,
    teacher: TextToImage,
    sampler: FlowSampler,
    options: PairOptions,
    task: Task,
) -> ShardResult:
    """Make a shard, unless it is there."""
    start, stop = job.span(number)
    if (there := job.noted(number)) is not None:
        task.advance(stop - start, "resumed")
        return there
    generator, source = teacher.generator, job.source
    assert isinstance(source, _Captions)
    assert isinstance(generator, CodeGenerator)

    def blocks() -> Iterator[RowBlock]:
        for first in range(start, stop, options.batch):
            rows = range(first, min(first + options.batch, stop))
            captions = [source.caption(row) for row in rows]
            seeds = [options.seed + row for row in rows]
            codes = sampler(generator, captions, seeds, batch=len(rows))
            shaped = codes.view(len(rows), *generator.codes_shape).cpu().numpy()
            ids = [generator.caption_ids(caption) for caption in captions]
            yield RowBlock([f"seed {seed}" for seed in seeds], captions, ids, shaped, {})
            task.advance(len(rows))

    path = job.shard_path(number)
    count = write_shard(path, job.form, blocks())
    entry = ShardEntry(path.name, start, stop, count, sha256_of_file(path))
    result = ShardResult(entry, Remarks())
    job.note(number, result)
    return result
