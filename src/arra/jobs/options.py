"""Options of the jobs. Light to import, for help on the command line must not wait for torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from arra.data.rows import Classes, Clips, Limits
from arra.errors import InputError
from arra.settings import AlignmentConfig

CodecKind = Literal[
    "vq", "lfq", "multiscale", "scalable", "binary", "kl", "pixels", "patches", "jpeg", "avc"
]
"""Codecs that `arra prepare` can make; `jobs.codec_kinds` says how."""


@dataclass(frozen=True)
class SourceOptions:
    """How a source of pictures is read."""

    split: str | None = None
    """Take only this split: of a data set, the field `split` of a listing, or the folder of that
    name. For digit scenes: train (which is what they are unless told), validation or test."""
    image_column: str | None = None
    """Column or field of the picture or its file name; recognised unless given."""
    caption_column: str | None = None
    """Column or field of the caption; recognised unless given."""
    scene_seed: int = 0
    """Seed of digit scenes."""
    scene_questions: int = 0
    """Questions about each digit scene that are kept with it, at most; each has one answer."""
    limits: Limits = field(default_factory=Limits)
    """What is accepted."""
    classes: Classes = field(default_factory=Classes)
    """How captions are made where pictures have class labels instead."""
    clips: Clips = field(default_factory=Clips)
    """How videos are cut, where the source holds videos."""


@dataclass(frozen=True)
class CodecOptions:
    """A codec that is trained on the source's own pictures."""

    downsample: int | None = None
    """Pixels per code along each side; a picture has (size / downsample) squared codes. Unless
    given: 4 up to 32 pixels, 8 up to 128, else 16."""
    vocabulary: int = 1024
    """Number of different codes; a power of two for lfq and binary; for jpeg and avc bytes, merges
    and the end (the paper takes 320 and 1024)."""
    dimensions: int = 8
    """Of kl: numbers of a vector."""
    split: int = 1
    """Of a binary codec: how many codes the bits of a cell make, each of vocabulary ** (1 / split);
    a `grid` generator predicts them side by side."""
    quality: int = 50
    """Of JPEG files (1 to 100), for jpeg."""
    qp: int | None = None
    """Quantiser of H.264 files, 0 (fine) to 51, for avc. Unless given: 37, as in the paper."""
    stem: Literal["patch", "conv"] | None = None
    """"patch" works on the coarse grid only: 64 pixels train in minutes on a CPU. "conv" halves the
    picture step by step and draws finer detail at 30 times the cost: for a GPU. Unless given: patch
    up to 128 pixels, else conv."""
    width: int | None = None
    """Channels. Unless given: 64, but 128 for a patch stem of more than 4 pixels."""
    steps: int = 3000
    """Most training steps."""
    seconds: float | None = None
    """Most seconds of training; with them, two runs are not the same bit for bit."""
    seed: int = 0
    """Seed of the initial weights and of the order of the pictures."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "dimensions", "width", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"codec.{name}: {value}, expected 1 or more")
        if self.downsample is not None and self.downsample < 1:
            raise InputError(f"codec.downsample: {self.downsample}, expected 1 or more")


@dataclass(frozen=True)
class EncoderOptions:
    """An encoder: which layer of a pretrained one, or how a small one is trained."""

    layer: int | None = None
    """Of a pretrained encoder: output of this block (1 is the first, -1 the last); unless given its
    final output."""
    cls: Literal["pooled", "projected"] = "pooled"
    """Of a pretrained encoder: its pooled vector, or that projected into the space of captions."""
    width: int = 64
    """Of a small encoder: channels of its patch features, a multiple of 8."""
    dim: int = 128
    """Of a small encoder: length of its CLS vector."""
    steps: int = 1000
    """Of a small encoder: most training steps."""
    seconds: float | None = None
    """Of a small encoder: most seconds; with them, two runs are not the same bit for bit."""
    batch: int = 128
    """Of a small encoder: pictures a step."""
    seed: int = 0
    """Of a small encoder: seed of weights, order, views and masks."""


@dataclass(frozen=True)
class TokenizerOptions:
    """A text tokenizer that is trained on the captions."""

    kind: Literal["word", "bpe"] | None = None
    """"bpe" reads every text; "word" is for a small closed language, in which new words become one
    unknown word. Unless given: word for digit scenes, else bpe."""
    vocabulary: int = 1024
    """Most entries, control tokens included."""


_READ: dict[str, Callable[[str], Any]] = {
    "layers": lambda text: tuple(int(layer) for layer in text.split("+")),
    "weight": float,
    "until": int,
    "hidden": lambda text: None if text == "none" else int(text),
    "spatial_norm": lambda text: None if text == "none" else float(text),
}
"""How fields of an alignment are read that are not words."""


def further_alignment(text: str, first: AlignmentConfig) -> AlignmentConfig:
    """A further term of alignment, like "target=patch,weight=0.5,layers=2+3".

    Fields that `text` does not name are those of `first`. Raises `InputError` naming the field.
    """
    known = [f.name for f in fields(AlignmentConfig)]
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        name = name.replace("-", "_")
        if not equals or name not in known:
            raise InputError(
                f"--also: {part!r}, expected FIELD=VALUE with a field of {', '.join(known)}"
            )
        try:
            values[name] = _READ.get(name, str)(value)
        except ValueError:
            raise InputError(f"--also: {part!r}, expected a number") from None
    return replace(first, **values)
