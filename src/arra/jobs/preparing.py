"""The job of `arra prepare`: pictures in, a prepared store out, its parts trained on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from arra.allocation import keep_freed_memory
from arra.data.prepare import Engine, Fit, check_frames, prepare
from arra.data.scenes import SceneConfig
from arra.data.store import REPORT, PreparedStore
from arra.errors import InputError
from arra.files import read_json, to_plain
from arra.jobs.codec_kinds import check_kind
from arra.jobs.console import choose_device, resumable
from arra.jobs.options import (
    CodecKind,
    CodecOptions,
    EncoderOptions,
    SourceOptions,
    TokenizerOptions,
)
from arra.jobs.parts import (
    PartsFolder,
    load_codec,
    load_encoder,
    load_tokenizer,
    tokenizer_kind,
    train_own_codec,
    train_own_encoder,
    train_own_tokenizer,
)
from arra.jobs.sources import Sample, is_scenes, open_source, sample_pictures
from arra.settings import ENCODER_NAME

_SIZE = 64  # pixels a side, for sources that do not say


@dataclass(frozen=True)
class Prepared:
    """What a preparation made."""

    store: PreparedStore
    parts: Path
    """Folder of the parts that were trained for it."""
    trained: dict[str, dict[str, Any]]
    """Report of each of them."""
    frames: int = 1
    """Frames of a row: more than one where rows are clips."""

    def summary(self) -> dict[str, Any]:
        """Plain values for programs."""
        provenance = self.store.provenance
        report = read_json(self.store.folder / REPORT)
        return {
            "store": str(self.store.folder),
            "rows": len(self.store),
            "bad_rows": provenance.bad_rows,
            "reasons": report["reasons"],
            "report": str(self.store.folder / REPORT),
            "size": provenance.settings.picture["size"],
            "frames": self.frames,
            "codes": list(self.store.codes_shape),
            "vocabulary": self.store.vocabulary,
            "features": {k: list(v) for k, v in provenance.feature_shapes.items()},
            "trained": {name: {"folder": str(self.parts / name), **report}
                        for name, report in self.trained.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """What to prepare, and with which parts."""

    source: str
    """Folder, file or data set, or `scenes:N`."""
    out: Path
    """Folder of the store."""
    size: int | None = None
    """Pixels a side; None is the source's own size where all its pictures are arrays, else 64."""
    codec: str | None = None
    """Folder or hub name of a trained codec; None trains one."""
    train_codec: CodecKind = "vq"
    """Kind of the codec that is trained."""
    encoders: tuple[str, ...] = ()
    """Folders or hub names of encoders, as NAME=PATH where there are several."""
    train_encoder: str | None = None
    """Objective of a small encoder that is trained, perhaps as NAME=OBJECTIVE; with neither, the
    store has no features."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer; None trains one."""
    reading: SourceOptions = field(default_factory=SourceOptions)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    codec_options: CodecOptions = field(default_factory=CodecOptions)
    encoder_options: EncoderOptions = field(default_factory=EncoderOptions)
    tokenizer_options: TokenizerOptions = field(default_factory=TokenizerOptions)
    aggregations: Sequence[str] = ("cls", "mean")
    """Which features are stored: "cls", "mean", "patches"."""
    fit: Fit = "crop"
    resample: str = "lanczos"
    feature_dtype: str = "float16"
    sample: int = 20_000
    """Most pictures that parts are trained on."""
    workers: int = 0
    engine: Engine = "processes"
    batch: int = 64
    shard_rows: int = 2048
    overwrite: bool = False
    device: str = "auto"


def run_preparation(job: Preparation) -> Prepared:
    """Train what is to be trained, then prepare every row; goes on where a call stopped.

    Raises what `prepare` raises, and `InputError` for encoders of the same name.
    """
    given, own = _named_encoders(job)
    keep_freed_memory()
    device = choose_device(job.device)
    source = open_source(job.source, job.reading, job.scenes)
    if job.codec is None:
        check_kind(job.train_codec, getattr(source, "frames", 1))
    size = job.size or getattr(source, "side", None) or _SIZE
    basis = {
        "source": to_plain(source.identity()),
        "picture": {"size": size, "fit": job.fit, "resample": job.resample},
        "sample": job.sample,
    }
    parts = PartsFolder(parts_of(job.out), basis, job.overwrite)

    @cache  # read once, and only if something is trained
    def pictures() -> Sample:
        return sample_pictures(
            source,
            size,
            most=job.sample,
            how=job.fit,
            resample=job.resample,
            bad_share=job.reading.limits.bad_share,
        )

    trained: list[str] = []
    with resumable("preparation"):
        if job.tokenizer is not None:
            tokenizer = load_tokenizer(job.tokenizer)
        else:
            kind = tokenizer_kind(job.tokenizer_options, is_scenes(job.source))
            vocabulary = job.tokenizer_options.vocabulary
            tokenizer = train_own_tokenizer(parts, kind, vocabulary, pictures)
            trained.append("tokenizer")
        if job.codec is not None:
            codec = load_codec(job.codec, device)
            check_frames(codec, source)
        else:
            codec = train_own_codec(
                parts,
                job.train_codec,
                job.codec_options,
                size,
                pictures,
                device,
                getattr(source, "rate", None),
            )
            trained.append("codec")
        options = job.encoder_options
        encoders = {name: load_encoder(path, options, device) for name, path in given.items()}
        for name, objective in own.items():
            encoders[name] = train_own_encoder(parts, objective, options, size, pictures, device)
            trained.append("encoder")
        store = prepare(
            source,
            job.out,
            codec=codec,
            tokenizer=tokenizer,
            size=size,
            encoder=encoders,
            aggregations=job.aggregations,
            fit=job.fit,
            resample=job.resample,
            feature_dtype=job.feature_dtype,
            shard_rows=job.shard_rows,
            batch=job.batch,
            workers=job.workers,
            engine=job.engine,
            bad_share=job.reading.limits.bad_share,
            overwrite=job.overwrite,
        )
    reports = {name: parts.report(name) for name in trained}
    return Prepared(store, parts.folder, reports, codec.frames)


def _named_encoders(job: Preparation) -> tuple[dict[str, str], dict[str, str]]:
    """name -> path of the encoders to load, and name -> objective of the one to train."""
    given: dict[str, str] = {}
    own: dict[str, str] = {}
    asked = [(given, text) for text in job.encoders]
    if job.train_encoder is not None:
        asked.append((own, job.train_encoder))
    for table, text in asked:
        name, equals, rest = text.partition("=")
        if not (equals and ENCODER_NAME.fullmatch(name)):
            name, rest = "", text
        if name in given or name in own:
            raise InputError(
                f"--encoder and --train-encoder: two encoders {name or 'without a name'}; name the "
                f"further ones, as in NAME={rest}"
            )
        table[name] = rest
    return given, own


def parts_of(store: Path) -> Path:
    """The folder beside a store with the parts that were trained for it."""
    return store.with_name(store.name + ".parts")
