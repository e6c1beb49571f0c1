"""The job of `arra tune`: a codec in, the codec that a generator finds easier to learn out.

A run folder holds `codec/` (a plain codec folder, for `arra prepare --codec`), `report.json`,
`log.jsonl`, `checkpoints/` and, unless it was the control, `model/`: the generator that learnt on
the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from arra.codecs.base import Codec
from arra.codecs.measuring import CodecReport, evaluate_codec
from arra.codecs.quantized import QuantizedCodec
from arra.data.blocks import BlockSource
from arra.data.prepare import Fit
from arra.data.scenes import SceneConfig
from arra.data.tokenizer import CaptionEncoder, train_text_tokenizer
from arra.errors import InputError
from arra.files import to_plain, write_json
from arra.generators.raster import RasterGenerator
from arra.jobs.console import choose_device
from arra.jobs.options import EncoderOptions, SourceOptions, TokenizerOptions
from arra.jobs.parts import load_encoder, load_tokenizer, tokenizer_kind
from arra.jobs.sources import is_scenes, open_source, sample_pictures
from arra.settings import AlignmentConfig, LlamaSize
from arra.systems.gear.routing import Guide
from arra.systems.gear.settings import GearConfig
from arra.systems.gear.tuning import TuneReport, tune_codec
from arra.systems.gear.views import Views, alignment_with

HELD_OUT = 0.05
"""Share of the pictures that the codec is measured on and never tuned with (at most 512)."""


@dataclass(frozen=True)
class Tuning:
    """What to tune, on what, and how."""

    source: str
    """Folder, file or data set, or `scenes:N`."""
    codec: str
    """Folder or hub name of the codec."""
    out: Path
    """Folder of the run."""
    encoder: str | None = None
    """Folder or hub name of the encoder that guides; None for the control."""
    control: bool = False
    """Tune for reconstruction alone, for as many steps."""
    tokenizer: str | None = None
    """Folder or hub name of a tokenizer; None trains one on the captions."""
    size: int | None = None
    """Pixels a side; None is the source's own size where all its pictures are arrays, else 64."""
    reading: SourceOptions = field(default_factory=SourceOptions)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    fit: Fit = "crop"
    resample: str = "lanczos"
    sample: int = 20_000
    """Most pictures that are used."""
    gear: GearConfig = field(default_factory=GearConfig)
    align: AlignmentConfig = field(
        default_factory=lambda: AlignmentConfig(target="patch", projector="mlp3", weight=0.5)
    )
    llama: LlamaSize = field(default_factory=LlamaSize)
    """Of the generator that guides."""
    device: str = "auto"


@dataclass(frozen=True)
class Tuned:
    """What a run made."""

    report: TuneReport
    before: CodecReport
    """Of the codec that came, on held-out pictures."""
    after: CodecReport

    def summary(self) -> dict[str, Any]:
        """Plain values for programs."""
        kept = ("mse", "psnr", "usage", "perplexity", "pictures")
        return {
            "codec": str(self.report.codec),
            "steps": self.report.steps,
            "resumed_from": self.report.resumed_from,
            "seconds": self.report.seconds,
            "last": self.report.history[-1],
            "before": {name: getattr(self.before, name) for name in kept},
            "after": {name: getattr(self.after, name) for name in kept},
        }


def run_tuning(job: Tuning) -> Tuned:
    """Tune the codec, going on from a checkpoint where there is one, and measure it.

    Raises `InputError` for a codec, encoder or size that do not go together, and what `tune_codec`
    raises.
    """
    if job.control == (job.encoder is not None):
        raise InputError("arra tune: give either --encoder, which guides, or --control")
    device = choose_device(job.device)
    codec = Codec.from_pretrained(job.codec)
    if not isinstance(codec, QuantizedCodec):
        raise InputError(f"{job.codec}: a {codec.registered_name} codec has no latents to tune")
    source = open_source(job.source, job.reading, job.scenes)
    size = job.size or (source.side if isinstance(source, BlockSource) else 64)
    if size % codec.downsample:
        raise InputError(f"size: {size} pixels, which {codec.downsample} a code do not divide")
    found = sample_pictures(
        source,
        size,
        most=job.sample,
        how=job.fit,
        resample=job.resample,
        bad_share=job.reading.limits.bad_share,
    )
    count = min(max(round(len(found.captions) * HELD_OUT), 1), 512)
    held_out = torch.from_numpy(found.pictures[-count:])
    pictures, captions = found.pictures[:-count], found.captions[:-count]
    guide, encoder = None, None
    if job.encoder is not None:
        encoder = load_encoder(job.encoder, EncoderOptions(), device)
        generator = _generator(job, codec.to(device), size, captions)
        seed = job.gear.seed
        alignment = alignment_with(job.align, generator, encoder, pictures[:1], seed)
        guide = Guide(generator, alignment)
    before = evaluate_codec(codec.to(device).eval(), held_out)
    report = tune_codec(
        codec,
        Views(pictures, captions, job.gear, None if guide is None else guide.generator, encoder),
        job.gear,
        job.out,
        guide,
    )
    tuned = Tuned(report, before, evaluate_codec(codec, held_out))
    write_json(job.out / "report.json", {**tuned.summary(), "settings": to_plain(job)})
    return tuned


def _generator(
    job: Tuning, codec: QuantizedCodec, size: int, captions: list[str]
) -> RasterGenerator:
    """A fresh generator over the codec's codes and the captions' words."""
    if job.tokenizer is not None:
        tokenizer = load_tokenizer(job.tokenizer)
    else:
        kind = tokenizer_kind(TokenizerOptions(), is_scenes(job.source))
        tokenizer = train_text_tokenizer(captions, TokenizerOptions().vocabulary, kind)
    side = size // codec.downsample
    longest = max(map(len, CaptionEncoder.of(tokenizer)(captions)))
    positions = max(job.llama.positions, longest + side * side + 2)
    return RasterGenerator.from_scratch(
        tokenizer,
        codec.vocabulary,
        (side, side),
        replace(job.llama, positions=positions),
        seed=job.gear.seed,
        appearance=codec.appearance(),
    )
