"""What every arm of a digit-scene experiment shares: codec, reader, encoder, tokenizer, store.

All of it is made from training scenes alone, kept in one folder, and made again only when its
settings change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import arra.codecs as _registers  # noqa: F401
from arra.codecs.base import Codec
from arra.codecs.recipes import scene_codec, scene_training
from arra.codecs.training import CodecTraining, train_codec
from arra.data.blocks import ScenePictures
from arra.data.prepare import prepare
from arra.data.scenes import DigitScenes, Scene, SceneConfig
from arra.data.store import PreparedStore
from arra.data.tokenizer import train_text_tokenizer
from arra.encoders.base import Encoder
from arra.encoders.small import SmallConfig
from arra.encoders.text import SmallTextEncoder
from arra.encoders.training import EncoderTraining, train_encoder
from arra.experiments.once import once
from arra.experiments.parallel import Job, processes_for, run_jobs
from arra.files import read_json
from arra.metrics.prompts import reader_error
from arra.metrics.reader import SceneReader
from arra.metrics.reader_training import train_reader


@dataclass(frozen=True)
class BenchConfig:
    """The shared half of a digit-scene experiment."""

    scene: SceneConfig = field(default_factory=SceneConfig)
    """What scenes look like."""
    training_counts: tuple[float, ...] | None = None
    """How often training scenes have one, two and three digits; None: as often as test scenes."""
    pictures: int = 20_000
    """Training scenes in the store."""
    codec: Any = field(default_factory=scene_codec)
    """Settings of the codec: those of any registered class that takes pictures of the scenes."""
    codec_pictures: int = 8_000
    """Training scenes that the codec and the encoder are trained on."""
    codec_training: CodecTraining = field(default_factory=scene_training)
    """How the codec is trained."""
    reader_steps: int = 400
    """Training steps of the reader that judges pictures."""
    encoder: SmallConfig = field(default_factory=SmallConfig)
    """The representation encoder that hidden states are aligned with."""
    encoder_training: EncoderTraining = field(default_factory=EncoderTraining)
    """How it is trained, on training scenes only."""
    aggregations: tuple[str, ...] = ("cls", "mean")
    """Which of its features are stored."""
    seed: int = 0
    """Of the scenes and of everything trained on them."""

    @property
    def training_scene(self) -> SceneConfig:
        """What training scenes look like."""
        return replace(self.scene, counts=self.training_counts or self.scene.counts)


@dataclass(frozen=True)
class Bench:
    """A finished bench in a folder."""

    config: BenchConfig
    folder: Path

    @cached_property
    def codec(self) -> Codec:
        """The codec that every arm draws with."""
        return Codec.from_pretrained(self.folder / "codec" / "part")

    @cached_property
    def reader(self) -> SceneReader:
        """The judge: another network, trained with another seed, than the alignment's teacher."""
        return SceneReader.from_pretrained(self.folder / "reader" / "part")

    @cached_property
    def encoder(self) -> Encoder:
        """The alignment's teacher."""
        return Encoder.from_pretrained(self.folder / "encoder" / "part")

    @cached_property
    def text_tower(self) -> SmallTextEncoder | None:
        """The caption tower beside the encoder, where captions were part of its training."""
        folder = self.folder / "encoder" / "text"
        return SmallTextEncoder.from_pretrained(folder) if folder.is_dir() else None

    @cached_property
    def store(self) -> PreparedStore:
        """Codes, text ids and features of the training scenes."""
        return PreparedStore.open(self.folder / "store")

    def report(self, part: str) -> dict[str, Any]:
        """What the training of "codec", "reader" or "encoder" measured."""
        return read_json(self.folder / part / "report.json")["report"]

    def scenes(
        self, combinations: str, count: int, seed: int = 0
    ) -> tuple[np.ndarray, list[Scene]]:
        """Test scenes, of scans never trained on: pictures (n, S, S, 3) uint8 and their truth."""
        source = DigitScenes(self.config.scene, "test", seed, combinations)  # type: ignore[arg-type]
        return source.pictures(0, count)

    def training_pictures(self, count: int) -> np.ndarray:
        """The first `count` training pictures."""
        return _training_scenes(self.config, count)[0]


def build_bench(
    config: BenchConfig,
    folder: str | Path,
    *,
    processes: int | None = None,
    quiet: bool = False,
    like: Sequence[Path] = (),
) -> Bench:
    """Make whatever of the bench is not there yet; an interrupted call goes on where it stopped.

    Codec, reader and encoder are copied from another bench among the folders `like`, where it made
    them with the same settings.
    """
    folder = Path(folder)
    given = {"config": config, "folder": folder, "quiet": quiet, "like": like}
    jobs = [Job("codec, reader", make_judged, given), Job("encoder", make_encoder, given)]
    run_jobs(jobs, processes, quiet)
    bench = Bench(config, folder)
    _make_store(bench, processes, quiet)
    return bench


def make_codec(
    config: BenchConfig, folder: Path, quiet: bool = False, like: Sequence[Path] = ()
) -> None:
    """Train the codec, unless it is there."""

    def make(target: Path) -> dict[str, Any]:
        pictures, _ = _training_scenes(config, config.codec_pictures)
        # all pairs of digit and ink: also those that no training picture shows
        held_out, _ = DigitScenes(config.scene, "validation", config.seed, "all").pictures(0, 1000)
        codec = Codec.of_config(config.codec, config.seed)
        report = train_codec(
            codec,
            torch.from_numpy(pictures),
            replace(config.codec_training, quiet=quiet),
            generator=torch.Generator().manual_seed(config.seed),
            validation=torch.from_numpy(held_out),
        )
        codec.save_pretrained(target / "part")
        return {
            "mse": report.mse,
            "psnr": report.psnr,
            "usage": report.usage,
            "perplexity": report.perplexity,
            "steps": report.steps,
            "seconds": report.seconds,
            "parameters": sum(p.numel() for p in codec.parameters()),
        }

    settings = [_identity(config), config.codec, config.codec_training]
    once(folder / "codec", [*settings, config.seed], make, like)


def make_judged(
    config: BenchConfig, folder: Path, quiet: bool = False, like: Sequence[Path] = ()
) -> None:
    """Train codec and reader, unless they are there."""
    make_codec(config, folder, quiet, like)
    make_reader(config, folder, quiet, like)


def make_reader(
    config: BenchConfig, folder: Path, quiet: bool = False, like: Sequence[Path] = ()
) -> None:
    """Train the reader, and measure its own error on real test scenes."""

    def make(target: Path) -> dict[str, Any]:
        judge = torch.Generator().manual_seed(config.seed + 1_000_003)  # not the teacher's seed
        reader, report = train_reader(
            config.scene, generator=judge, steps=config.reader_steps, quiet=quiet
        )
        reader.save_pretrained(target / "part")
        rng = np.random.default_rng(config.seed)
        error = reader_error(reader, rng, config.scene, count=1000, seed=10_007)
        measured = error.scores.measured(reader.name, rng)
        return {
            "steps": report.steps,
            "seconds": report.seconds,
            "parameters": sum(p.numel() for p in reader.parameters()),
            "right": {
                name: {"value": m.value, "low": m.interval.low, "high": m.interval.high}
                for name, m in measured.items()
                if m.interval is not None
            },
        }

    once(folder / "reader", [config.scene, config.reader_steps, config.seed], make, like)


def make_encoder(
    config: BenchConfig, folder: Path, quiet: bool = False, like: Sequence[Path] = ()
) -> None:
    """Train the representation encoder on the pictures (and captions) of training scenes."""

    def make(target: Path) -> dict[str, Any]:
        pictures, scenes = _training_scenes(config, config.codec_pictures)
        trained = train_encoder(
            config.encoder,
            torch.from_numpy(pictures),
            config.encoder_training,
            captions=[scene.caption for scene in scenes],
            quiet=quiet,
        )
        trained.encoder.save_pretrained(target / "part")
        if trained.text is not None:
            trained.text.save_pretrained(target / "text")
        return {
            "objective": trained.report.objective,
            "steps": trained.report.steps,
            "seconds": trained.report.seconds,
            "parameters": trained.report.parameters,
            "first_loss": trained.report.losses[0],
            "last_loss": trained.report.losses[-1],
        }

    settings = [_identity(config), config.encoder, config.encoder_training]
    once(folder / "encoder", [*settings, config.seed], make, like)


def _make_store(bench: Bench, processes: int | None, quiet: bool) -> None:
    config = bench.config
    scenes = DigitScenes(config.training_scene, "train", config.seed, "seen")
    captions = (scenes.prompt(index).caption for index in range(min(config.pictures, 5000)))
    store = bench.folder / "store"
    # the tokenizer of a store that is there was made from the same captions
    tokenizer = train_text_tokenizer(captions, kind="word")
    prepare(
        ScenePictures(scenes, config.pictures),
        store,
        codec=bench.codec,
        tokenizer=tokenizer,
        size=config.scene.size,
        encoder=bench.encoder,
        aggregations=config.aggregations,
        batch=256,
        # starting workers takes longer than a few thousand scenes
        workers=0 if config.pictures < 10_000 else _workers(processes),
        overwrite=True,
        quiet=quiet,
    )


def _workers(processes: int | None) -> int:
    count = processes_for(2) if processes is None else processes
    return 0 if count <= 1 else count


def _training_scenes(config: BenchConfig, count: int) -> tuple[np.ndarray, list[Scene]]:
    scenes = DigitScenes(config.training_scene, "train", config.seed, "seen")
    return scenes.pictures(0, count)


def _identity(config: BenchConfig) -> dict[str, Any]:
    """What the training scenes of codec and encoder are, how they are drawn and told included."""
    scenes = DigitScenes(config.training_scene, "train", config.seed, "seen")
    return ScenePictures(scenes, config.codec_pictures).identity()
