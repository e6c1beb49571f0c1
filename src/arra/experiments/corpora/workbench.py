"""What every arm of a corpus shares: pictures, codec, teacher, judge, tokenizer, stores.

Everything is made from training pictures alone, kept in one folder, and made again only when what
it depends on changes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arra.codecs.base import Codec
from arra.codecs.enlarging import enlarged, freeze_codes
from arra.codecs.quantized import QuantizedCodec
from arra.codecs.training import train_codec
from arra.data.blocks import ArrayPictures
from arra.data.prepare import prepare
from arra.data.store import PreparedStore
from arra.data.tokenizer import load_text_tokenizer, train_text_tokenizer
from arra.encoders import Encoder, EncoderTraining, SmallConfig, train_encoder
from arra.experiments.corpora.corpus import Corpus
from arra.jobs.evaluation_parts import load_towers
from arra.jobs.parts import PartsFolder
from arra.jobs.sources import Sample
from arra.metrics.towers import Towers
from arra.pixels import to_uint8, to_unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Workbench:
    """The parts of a corpus in a folder; each is made when it is first asked for."""

    corpus: Corpus
    data: Path
    """Folder of the pictures of all corpora."""
    out: Path
    """Folder of the results of all corpora."""
    device: str = "cpu"
    """Where parts are trained and run."""
    quiet: bool = False

    def __getstate__(self) -> dict[str, Any]:
        # another process reads pictures and parts again: they are large
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def folder(self) -> Path:
        """The folder of this corpus."""
        return self.out / self.corpus.name

    @cached_property
    def start(self) -> Workbench | None:
        """The workbench of the corpus whose model goes on, or None."""
        start = self.corpus.start
        return None if start is None else replace(self, corpus=start.corpus)

    def build(self) -> None:
        """Make whatever is not there yet; an interrupted call goes on where it stopped."""
        for _ in (self.store, self.held_out_store, self.judge):
            pass

    # ---- pictures ------------------------------------------------------------------------------

    @cached_property
    def train(self) -> Sample:
        """The training pictures."""
        return self.corpus.source.pictures(self.data, self.corpus.size)

    @cached_property
    def held_out(self) -> Sample:
        """Pictures that nothing was trained on."""
        return self.corpus.source.pictures(self.data, self.corpus.size, held_out=True)

    @cached_property
    def lessons(self) -> Sample:
        """The training pictures, and those that codec and tokenizer learn from besides."""
        found = [self.train]
        found += [source.pictures(self.data, self.corpus.size) for source in self.corpus.also]
        captions = [caption for sample in found for caption in sample.captions]
        return Sample(np.concatenate([sample.pictures for sample in found]), captions)

    # ---- parts ---------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> PartsFolder:
        """Where trained parts are kept."""
        corpus = self.corpus
        basis = {"source": corpus.source, "also": corpus.also, "size": corpus.size}
        return PartsFolder(self.folder / "parts", basis, overwrite=True)

    @cached_property
    def codec(self) -> Codec:
        """The codec that every arm draws with."""
        made = self._own_codec() if self.corpus.start is None else self._moved_codec()
        return Codec.from_pretrained(made).to(self.device)

    def _own_codec(self) -> Path:
        corpus = self.corpus

        def train(folder: Path) -> dict[str, Any]:
            codec = Codec.of_config(corpus.codec, 0)
            return self._train_codec(codec, self.lessons.pictures, corpus.codec_training, folder)

        return self.parts.make("codec", [corpus.codec, corpus.codec_training], train)

    def _moved_codec(self) -> Path:
        """The start's codec, enlarged; its codes stay, its decoder learns the new pictures."""
        assert self.start is not None
        assert self.corpus.start is not None
        first, painter = self.start.codec, self.corpus.start.painter
        assert isinstance(first, QuantizedCodec)
        factor = self.corpus.size // self.start.corpus.size

        def train(folder: Path) -> dict[str, Any]:
            codec = enlarged(first, factor)
            codec.config = replace(codec.config, dead_below=0.0)
            freeze_codes(codec)
            return self._train_codec(codec, self.train.pictures, painter, folder)

        return self.parts.make("codec", [first.fingerprint(), painter], train)

    def _train_codec(
        self, codec: Codec, pictures: np.ndarray, training: Any, folder: Path
    ) -> dict[str, Any]:
        """Train and save a codec; its report, measured on held-out pictures of the corpus."""
        report = train_codec(
            codec.to(self.device),
            torch.from_numpy(pictures),
            replace(training, quiet=self.quiet),
            generator=torch.Generator().manual_seed(0),
            validation=torch.from_numpy(self.held_out.pictures),
        )
        found = {k: v for k, v in asdict(report).items() if k != "history"}
        codec.cpu()._save_pretrained(folder)
        return {**found, "parameters": sum(p.numel() for p in codec.parameters())}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The text tokenizer; a model that goes on keeps its own."""
        if self.start is not None:
            return self.start.tokenizer

        def train(folder: Path) -> dict[str, Any]:
            corpus, captions = self.corpus, self.lessons.captions
            tokenizer = train_text_tokenizer(captions, corpus.vocabulary, corpus.tokenizer)
            tokenizer.save_pretrained(str(folder))
            return {"vocabulary": len(tokenizer)}

        settings = [self.corpus.tokenizer, self.corpus.vocabulary]
        return load_text_tokenizer(self.parts.make("tokenizer", settings, train))

    @cached_property
    def encoder(self) -> Encoder:
        """The alignment's teacher."""
        corpus = self.corpus
        made = self._towers("encoder", corpus.encoder, corpus.encoder_training)
        return Encoder.from_pretrained(made).to(self.device)

    @cached_property
    def judge(self) -> Towers:
        """A picture and a caption tower that the teacher has nothing to do with."""
        corpus = self.corpus
        made = self._towers("judge", corpus.judge, corpus.judge_training)
        return load_towers(str(made), self.device)

    def _towers(self, name: str, config: SmallConfig, training: EncoderTraining) -> Path:
        def train(folder: Path) -> dict[str, Any]:
            trained = train_encoder(
                config,
                torch.from_numpy(self.train.pictures),
                training,
                self.train.captions,
                device=self.device,
                quiet=self.quiet,
            )
            trained.encoder.cpu()._save_pretrained(folder)
            if trained.text is not None:
                trained.text.cpu().save_pretrained(folder / "text")
            report = asdict(trained.report)
            losses = report.pop("losses")
            return {**report, "first_loss": losses[0], "last_loss": losses[-1]}

        return self.parts.make(name, [config, training], train)

    # ---- stores --------------------------------------------------------------------------------

    @cached_property
    def store(self) -> PreparedStore:
        """Codes, text ids and the teacher's features of the training pictures."""
        return self._prepare("store", self.train, self.encoder)

    @cached_property
    def held_out_store(self) -> PreparedStore:
        """Codes and text ids of the held-out pictures."""
        return self._prepare("held_out", self.held_out, None)

    def _prepare(self, name: str, sample: Sample, encoder: Encoder | None) -> PreparedStore:
        from filelock import FileLock

        # arms that begin at the same moment look at the store one after the other
        with FileLock(self.folder / f".{name}.lock"):
            return prepare(
                ArrayPictures(sample.pictures, sample.captions),
                self.folder / name,
                codec=self.codec,
                tokenizer=self.tokenizer,
                size=self.corpus.size,
                encoder=encoder,
                batch=256,
                overwrite=True,
                quiet=self.quiet,
            )

    def painted(self, rows: PreparedStore) -> np.ndarray:
        """The pictures of a store as the codec paints them: (N, S, S, 3) uint8."""
        with torch.inference_mode():
            codes = rows.rows(range(len(rows))).codes
            parts = [to_uint8(self.codec.decode(c.to(self.device))) for c in codes.split(256)]
        return np.concatenate(parts)

    def through_codec(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures (N, S, S, 3) uint8 after the codec."""
        with torch.inference_mode():
            pixels = to_unit(pictures).to(self.device)
            return to_uint8(self.codec.decode(self.codec.encode(pixels)))
