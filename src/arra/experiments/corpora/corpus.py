"""What an experiment on real pictures is made of: where they are, and every part around them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from arra.codecs.training import CodecTraining
from arra.data.pictures import open_pictures
from arra.data.rows import Classes
from arra.data.tokenizer import TokenizerKind
from arra.encoders.small import SmallConfig
from arra.encoders.training import EncoderTraining
from arra.errors import InputError
from arra.experiments.arms import TrainingPlan
from arra.jobs.sources import Sample, sample_pictures
from arra.samplers.logits import SamplingConfig


@dataclass(frozen=True)
class Source:
    """Captioned or labelled pictures below the data folder."""

    path: str
    """File or folder, relative to the data folder; any layout that `open_pictures` knows."""
    train: str = "train"
    """Split to train on."""
    held_out: tuple[str, ...] = ("val", "test")
    """Splits that nothing is trained on."""
    classes: Classes = field(default_factory=Classes)
    """How captions are made of class labels."""
    words: int | None = None
    """Captions are cut after this many words; None leaves them whole."""
    most: int = 20_000
    """Most training pictures, chosen evenly by chance."""

    def pictures(self, data: Path, size: int, held_out: bool = False) -> Sample:
        """Pictures of `size` pixels with their captions, to train on or held out."""
        splits = self.held_out if held_out else (self.train,)
        found = []
        for split in splits:
            source = open_pictures(data / self.path, split=split, classes=self.classes)
            label = f"read {self.path}, {split}"
            found.append(sample_pictures(source, size, most=self.most, label=label))
        captions = [self._cut(caption) for sample in found for caption in sample.captions]
        return Sample(np.concatenate([sample.pictures for sample in found]), captions)

    def _cut(self, caption: str) -> str:
        return caption if self.words is None else " ".join(caption.split()[: self.words])


@dataclass(frozen=True)
class Drawing:
    """How a trained arm is judged."""

    prompts: int = 512
    """Captions of held-out pictures that are drawn, and real pictures they are compared with."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How pictures are drawn."""
    diversity_prompts: int = 12
    """Prompts of which several pictures are drawn, to see how much they differ."""
    diversity_pictures: int = 4
    """Pictures of each of them."""
    shown: int = 12
    """Prompts on the page."""


@dataclass(frozen=True)
class Start:
    """A corpus whose finished model goes on, instead of one from random weights (ARRA-Adapt)."""

    corpus: Corpus
    """Its baseline model of the same seed is the start of every arm; its codec and tokenizer are
    kept, so that tokens go on to mean what the model has learnt."""
    painter: CodecTraining
    """How the decoder of the codec learns to paint the new pictures; codes stay as they are."""


@dataclass(frozen=True)
class Corpus:
    """One experiment on real pictures."""

    name: str
    """Short name, also of its folder."""
    title: str
    """What the pictures are, in a phrase."""
    source: Source
    """The pictures."""
    size: int
    """Pixels a side."""
    codec: Any
    """Settings of the codec; of a corpus with a start, the codec of that is enlarged instead."""
    codec_training: CodecTraining
    """How it is trained."""
    encoder: SmallConfig
    """The representation encoder that hidden states are aligned with."""
    encoder_training: EncoderTraining
    """How it is trained, on the training pictures."""
    judge: SmallConfig
    """The picture tower that looks at what was drawn: not the teacher's shape."""
    judge_training: EncoderTraining
    """How it is trained: another seed and another objective than the teacher's, with captions."""
    plan: TrainingPlan
    """The language model, its batches and its training."""
    drawing: Drawing = field(default_factory=Drawing)
    """How arms are judged."""
    also: tuple[Source, ...] = ()
    """Further pictures that codec and tokenizer learn from: those that a model will move to."""
    tokenizer: TokenizerKind = "bpe"
    """Kind of the text tokenizer."""
    vocabulary: int = 1024
    """Its most entries."""
    start: Start | None = None
    """The model that goes on, if any."""
    labelled: bool = False
    """Whether captions are the names of classes: then a class is read from every picture."""

    def __post_init__(self) -> None:
        if self.judge_training.seed == self.encoder_training.seed:
            raise InputError(f"{self.name}: judge and teacher have one seed; a judge is another")
        if self.judge == self.encoder:
            raise InputError(f"{self.name}: judge and teacher have one shape; a judge is another")
        if "contrastive" not in self.judge_training.names:
            raise InputError(f"{self.name}: the judge needs 'contrastive' for the image-text score")
        if self.start is not None and self.size % self.start.corpus.size:
            raise InputError(
                f"{self.name}: {self.size} pixels, expected a multiple of the start's "
                f"{self.start.corpus.size}"
            )

    def in_steps(self, steps: int) -> Corpus:
        """The same experiment with another number of training steps."""
        train = replace(self.plan.train, steps=steps, warmup=min(self.plan.train.warmup, steps))
        return replace(self, plan=replace(self.plan, train=train))
