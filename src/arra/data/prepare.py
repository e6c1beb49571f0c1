"""Preparation: a source of captioned pictures becomes a store, once, whatever interrupts it.

Each shard is a pure function of the settings and of a fixed range of rows, and is written whole or
not at all. So a call after a crash keeps what is finished, makes the rest, and ends with the bytes
that an undisturbed call would have written (on the same machine, with the same number of threads).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from arra import __version__
from arra.codecs.base import Codec
from arra.data.blocks import ArrayPictures, Source
from arra.data.cluster import make_shards_on_ray
from arra.data.crew import make_shards
from arra.data.decode import Fit
from arra.data.make import (
    WORK,
    Job,
    Maker,
    ShardResult,
    disk_errors,
    features_of,
)
from arra.data.report import BadEntry, Remarks
from arra.data.shards import FEATURE_DTYPES, FEATURE_KINDS, ShardForm
from arra.data.store import (
    CODEC,
    FORMAT,
    MANIFEST,
    REPORT,
    TOKENIZER,
    PreparedStore,
    Provenance,
    Settings,
    by_name,
    codec_identity,
)
from arra.data.tokenizer import CaptionEncoder, tokenizer_fingerprint
from arra.data.workplace import claim, locked, sweep
from arra.encoders.base import Encoder
from arra.errors import InputError
from arra.files import atomic_folder, sha256_of_json, to_plain, write_json
from arra.networks.part import Part
from arra.pixels import stills, to_unit
from arra.progress import track
from arra.resizing import resampling
from arra.settings import ENCODER_NAME

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Engine = Literal["processes", "ray"]
"""What shares the work: processes of this machine, or Ray."""


def prepare(
    source: Source,
    folder: str | Path,
    *,
    codec: Codec,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    encoder: Encoder | Mapping[str, Encoder] | None = None,
    aggregations: Sequence[str] = ("cls", "mean"),
    fit: Fit = "crop",
    resample: str = "lanczos",
    feature_dtype: str = "float16",
    shard_rows: int = 2048,
    batch: int = 64,
    workers: int = 0,
    engine: Engine = "processes",
    bad_share: float = 0.1,
    overwrite: bool = False,
    quiet: bool = False,
) -> PreparedStore:
    """Prepare all rows of `source` into a store in `folder`, or go on where a call stopped.

    Pictures are fitted to `size` x `size` pixels; codec and encoder see the same fitted picture. Of
    a clip the codec takes all frames, the encoder the middle one (`arra.pixels.stills`).
    Of several encoders, given by name, the features are called NAME/cls and so on; the empty name
    leaves out the prefix. Each gives those `aggregations` that it has.

    With `workers` processes each makes whole shards with one thread; the bytes are the same. With
    the engine "ray" they are actors, on all machines of a Ray cluster that see `folder` and the
    source; `workers` 0 is as many as it has room for. Bad rows are left out and named in
    `report.json`.

    Raises:
        InputError: an argument is wrong, more than `bad_share` of the rows are bad, another process
            is preparing this folder, or the folder holds something else.
        ProvenanceError: the folder holds a store of other settings; `overwrite=True` replaces it.
        ArraError: the disk is full, or workers keep dying. Finished shards are kept.
    """
    folder = Path(folder)
    encoders = _checked_names(by_name(encoder))
    kinds = _checked_kinds(bool(encoders), aggregations, feature_dtype)
    _check_numbers(size=size, shard_rows=shard_rows, batch=batch, codec=codec)
    check_frames(codec, source)
    if workers < 0 or not 0 <= bad_share <= 1:
        raise InputError(
            f"workers={workers}, bad_share={bad_share}: expected 0 or more, and 0 to 1"
        )
    if engine not in get_args(Engine):
        raise InputError(f"engine: {engine!r}, expected one of {', '.join(get_args(Engine))}")
    if fit not in get_args(Fit):
        raise InputError(f"fit: {fit!r}, expected one of {', '.join(get_args(Fit))}")
    resampling(resample, "resample")
    if len(source) == 0:
        raise InputError("source: it has no rows")
    settings = Settings(
        codec=to_plain(codec_identity(codec)),
        encoders={name: to_plain(one.identity()) for name, one in encoders.items()},
        aggregations=kinds,
        feature_dtype=feature_dtype,
        tokenizer={"fingerprint": tokenizer_fingerprint(tokenizer), "vocabulary": len(tokenizer)},
        picture={"size": size, "fit": fit, "resample": resample.lower()},
        source={
            "identity": to_plain(source.identity()),
            "rows": len(source),
            **({"questions": True} if getattr(source, "asks", False) else {}),
        },
        shard_rows=shard_rows,
        batch=batch,
    )
    with _resting(codec, *encoders.values()):
        job = Job(
            folder=folder,
            source=source,
            settings=settings,
            digest=sha256_of_json([FORMAT, settings]),
            form=_probe(codec, encoders, settings),
            codec_class=type(codec),
            codec_device=str(codec.device),
            encoders={name: (type(one), str(one.device)) for name, one in encoders.items()},
        )
        with disk_errors(folder), locked(folder):
            claim(job, overwrite)
            if not parts_there(folder):
                save_parts(folder, codec, tokenizer)
            if workers or engine == "ray":
                for name, one in encoders.items():
                    one.save_pretrained(job.encoder_path(name))
            maker = Maker(job, codec, encoders, CaptionEncoder.of(tokenizer))
            results = _make_all(job, maker, workers, engine, bad_share, quiet)
            finish(job, results)
    return PreparedStore.open(folder)


def prepare_arrays(
    pictures: np.ndarray,
    captions: Sequence[str],
    folder: str | Path,
    *,
    codec: Codec,
    tokenizer: PreTrainedTokenizerBase,
    **options: Any,
) -> PreparedStore:
    """`prepare` for pictures (N, S, S, 3) uint8 in memory; `size` is S unless given."""
    source = ArrayPictures(pictures, captions)
    options = {"size": source.side, **options}
    return prepare(source, folder, codec=codec, tokenizer=tokenizer, **options)


def _checked_names(encoders: dict[str, Encoder]) -> dict[str, Encoder]:
    for name in encoders:
        if name and not ENCODER_NAME.fullmatch(name):
            raise InputError(
                f"encoder: the name {name!r}; expected letters, digits, '-' and '_', a letter first"
            )
    return encoders


def _checked_kinds(
    encoded: bool, aggregations: Sequence[str], feature_dtype: str
) -> tuple[str, ...]:
    if feature_dtype not in FEATURE_DTYPES:
        raise InputError(f"feature_dtype: {feature_dtype!r}, expected float16 or float32")
    if unknown := [kind for kind in aggregations if kind not in FEATURE_KINDS]:
        raise InputError(f"aggregations: {unknown[0]!r}, expected some of {FEATURE_KINDS}")
    if encoded and not aggregations:
        raise InputError("aggregations: none, but an encoder was given")
    # One order, so that the order in which they were asked for does not make another store.
    return tuple(k for k in FEATURE_KINDS if k in aggregations) if encoded else ()


def _check_numbers(size: int, shard_rows: int, batch: int, codec: Codec) -> None:
    if size < 1 or size % codec.downsample:
        raise InputError(
            f"size: {size} pixels, expected a multiple of {codec.downsample} (pixels a code)"
        )
    if shard_rows < 1 or batch < 1:
        raise InputError(f"shard_rows={shard_rows}, batch={batch}: expected 1 or more")


def check_frames(codec: Codec, source: Source) -> None:
    """`InputError` unless the rows of `source` have as many frames as the codec takes."""
    frames = getattr(source, "frames", 1)
    if frames != codec.frames:
        theirs, mine = (
            f"clips of {count} frames" if count > 1 else "pictures"
            for count in (frames, codec.frames)
        )
        raise InputError(
            f"source: its rows are {theirs}, this {codec.registered_name} codec takes {mine}; "
            "how many frames a clip has is asked for where videos are opened (--clips.frames)"
        )


@contextmanager
def _resting(*parts: Part) -> Iterator[None]:
    """Parts in evaluation mode, and afterwards in whichever they were."""
    before = [(part, part.training) for part in parts]
    try:
        for part, _ in before:
            part.eval()
        yield
    finally:
        for part, training in before:
            part.train(training)


def _probe(codec: Codec, encoders: Mapping[str, Encoder], settings: Settings) -> ShardForm:
    """Shapes, learned from one black picture before anything is written."""
    size = settings.picture["size"]
    black = np.zeros((1, size, size, codec.channels), dtype=np.uint8)
    with torch.inference_mode():
        codes = codec.encode(to_unit(black, codec.channels).to(codec.device))
    if codes.ndim < 2 or len(codes) != 1:
        raise InputError(f"the codec gave codes {tuple(codes.shape)} for a single picture")
    found = features_of(encoders, [Image.fromarray(stills(black)[0])], settings.aggregations)
    shapes = {name: tuple(feature.shape[1:]) for name, feature in found.items()}
    asks = bool(settings.source.get("questions"))
    return ShardForm(tuple(codes.shape[1:]), codec.vocabulary, shapes, settings.feature_dtype, asks)


def parts_there(folder: Path) -> bool:
    """Whether the store was finished with these settings, so that its parts need no new copy."""
    parts = (MANIFEST, f"{CODEC}/config.json", f"{TOKENIZER}/tokenizer.json")
    return all((folder / part).is_file() for part in parts)


def save_parts(folder: Path, codec: Codec, tokenizer: PreTrainedTokenizerBase) -> None:
    """Training finds tokenizer and codec in the store."""
    with atomic_folder(folder / TOKENIZER) as temporary:
        tokenizer.save_pretrained(str(temporary))
    codec.save_pretrained(folder / CODEC)


def _make_all(
    job: Job, maker: Maker, workers: int, engine: Engine, bad_share: float, quiet: bool
) -> list[ShardResult]:
    results = {n: found for n in job.shards if (found := job.noted(n)) is not None}

    def finished(number: int, result: ShardResult) -> None:
        results[number] = result
        _check_bad(job.source, results.values(), bad_share)

    _check_bad(job.source, results.values(), bad_share)
    todo = [number for number in job.shards if number not in results]
    with track("prepare", len(job.source), quiet) as task:
        if results:
            task.advance(sum(r.entry.stop - r.entry.start for r in results.values()), "resumed")
        _make(job, maker, todo, workers, engine, task.advance, finished)
    return [results[number] for number in job.shards]


def _make(
    job: Job,
    maker: Maker,
    todo: list[int],
    workers: int,
    engine: Engine,
    advance: Callable[[int], None],
    finished: Callable[[int, ShardResult], None],
) -> None:
    if engine == "ray" and todo:
        make_shards_on_ray(job, todo, workers, advance, finished)
        return
    if workers and todo:
        make_shards(job, todo, workers, advance, finished)
        return
    for number in todo:
        finished(number, maker.make(number, advance))


def _remarks(source: Source, results: Iterable[ShardResult]) -> Remarks:
    """All remarks. First what the source found wrong when it listed its rows: no index there."""
    everything = Remarks([BadEntry.of(None, bad) for bad in getattr(source, "problems", ())])
    for result in results:
        everything += result.remarks
    return everything


def _check_bad(source: Source, results: Iterable[ShardResult], share: float) -> None:
    remarks = _remarks(source, results)
    total = len(source) + sum(entry.row is None for entry in remarks.bad)
    remarks.check(total, share)


def finish(job: Job, results: list[ShardResult]) -> None:
    """Report, then provenance: with it the store exists. Then what was only for the work goes."""
    remarks = _remarks(job.source, results)
    rows = sum(result.entry.rows for result in results)
    if rows == 0:
        raise InputError(f"{job.folder}: not one row can be used")
    write_json(job.folder / REPORT, remarks.to_dict(rows))
    provenance = Provenance(
        format=FORMAT,
        arra=__version__,
        settings=job.settings,
        codes_shape=job.form.codes_shape,
        feature_shapes=job.form.feature_shapes,
        rows=rows,
        bad_rows=len(remarks.bad),
        shards=tuple(result.entry for result in results),
    )
    sweep(job.folder)  # of workers that died
    write_json(job.folder / MANIFEST, provenance)
    (job.folder / WORK / "settings.json").unlink()
