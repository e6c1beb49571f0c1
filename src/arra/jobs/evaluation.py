"""The job of `arra evaluate`: what a checkpoint's pictures are worth, with intervals.

What cannot be measured (too few pictures, no store, no towers) is listed with the reason; nothing
is left out silently.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from arra.data.scenes import DigitScenes, Scene, SceneConfig
from arra.environment import machine_info, versions
from arra.errors import InputError
from arra.files import to_plain, write_json
from arra.jobs.console import choose_device, finite
from arra.jobs.evaluation_parts import (
    Ground,
    See,
    Towers,
    find_ground,
    find_reader,
    load_towers,
    read_pictures,
    reconstructions,
    scene_config,
    seen_by,
)
from arra.jobs.generation import Generation, generate
from arra.jobs.options import EncoderOptions, SourceOptions
from arra.jobs.parts import load_encoder
from arra.jobs.sources import open_source, sample_pictures
from arra.jobs.validation import distinct_captions, plain_batches
from arra.metrics.diversity import ssim_diversity
from arra.metrics.frechet import fd_infinity, frechet_distance, frechet_floor
from arra.metrics.image_text import image_text_score
from arra.metrics.likelihood import held_out_bits
from arra.metrics.manifold import manifold_scores
from arra.metrics.measured import Measured
from arra.metrics.memorisation import memorisation
from arra.metrics.prompts import (
    PromptScores,
    chance_level,
    prompt_accuracy,
    reader_error,
    shuffled_control,
)
from arra.metrics.reader import SceneReader
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage, quiet_transformers

RESULT = "evaluation.json"
_VALUES = 1 << 27
"""Most pixel values of training pictures that are held at once: 1 GiB in double precision."""


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and how."""

    checkpoint: Path
    out: Path
    store: Path | None = None
    """Rows to evaluate on; None takes what the checkpoint's run held out."""
    pictures: Path | None = None
    """A folder of `arra generate` to judge, instead of drawing."""
    source: str | None = None
    """Real pictures to compare with; None takes the rows as the codec paints them."""
    reading: SourceOptions = field(default_factory=SourceOptions)
    """How they are read."""
    count: int = 256
    """Captions that are drawn."""
    encoders: tuple[str, ...] = ()
    """Encoders (folders or hub names) in which sets of pictures are compared."""
    encoder_options: EncoderOptions = field(default_factory=EncoderOptions)
    towers: str | None = None
    """A CLIP model, or an encoder that was trained with captions, for the image-text score."""
    scenes: bool = False
    """Draw prompts of held-out digit scenes and read the pictures."""
    reader: Path | None = None
    reader_seconds: float = 40.0
    reader_steps: int | None = None
    diversity_prompts: int = 16
    diversity_seeds: int = 4
    training_rows: int = 10_000
    """Most training pictures that copies are looked for among."""
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch: int = 64
    device: str = "auto"
    overwrite: bool = False


@dataclass
class _Pool:
    """Pictures that were drawn and real ones."""

    generated: np.ndarray
    prompts: list[str]
    real: np.ndarray
    real_captions: list[str]
    real_name: str
    scenes: list[Scene] | None = None


class _Evaluator:
    """One evaluation: each method adds measures, or says why it could not."""

    def __init__(self, job: Evaluation):
        self.job = job
        self.measures: list[Measured] = []
        self.skipped: dict[str, str] = {}
        self.extra: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.rng = np.random.default_rng(job.seed)
        self.device = choose_device(job.device)
        self.model = TextToImage.from_pretrained(job.checkpoint, self.device)
        self.ground = find_ground(job.checkpoint, job.store, self.model)
        self.config = scene_config(self.ground, self.model) if job.scenes else None
        if self.config is None and self.ground.held_out is None and job.pictures is None:
            raise InputError(
                f"{job.checkpoint}: its store is not known: name one with --store, or pictures "
                "with --pictures"
            )

    def run(self) -> dict[str, Any]:
        """All measures, in order."""
        self._timed("bits", self._bits)
        pool = self._timed("pictures", self._pool)
        reader = None
        if self.config is not None:
            reader = self._timed("reader", lambda: self._read(pool, self.config))
        for name in self.job.encoders:
            encoder = load_encoder(name, self.job.encoder_options, self.device)
            self._timed(f"encoder {name}", lambda e=encoder: self._compare(pool, *seen_by(e)))
        if reader is not None:
            label = f"scene-reader:{reader.fingerprint()[:12]}"
            self._timed("compare by reader", lambda: self._compare(pool, label, reader.features))
        if not self.job.encoders and reader is None:
            self._skip("Fréchet distance", "no encoder: name one with --encoders")
        self._timed("diversity", lambda: self._diversity(pool))
        if self.job.towers is not None:
            towers = load_towers(self.job.towers, self.device)
            self._timed("image-text", lambda: self._image_text(pool, towers))
        else:
            self._skip("image-text score", "no towers: name some with --towers")
        self._timed("copies", lambda: self._copies(pool, "none", lambda x: x))
        return self._result(pool)

    def _timed(self, name: str, work: Any) -> Any:
        start = time.monotonic()
        try:
            return work()
        finally:
            self.seconds[name] = round(time.monotonic() - start, 3)

    def _skip(self, what: str, why: str) -> None:
        self.skipped[what] = why

    def _bits(self) -> None:
        rows = self.ground.held_out
        if rows is None:
            return self._skip("bits per image token", "no store")
        batches = plain_batches(rows, self.model.generator.config.vocabulary, self.job.batch)
        codec = f"{self.model.codec.registered_name}:{self.model.codec.fingerprint()[:12]}"
        found = held_out_bits(self.model.generator, batches).measured(self.rng, codec)
        if self.ground.trained_on:
            found = replace(found, name=f"{found.name} (of training pictures)")
        self.measures.append(found)
        return None

    # ---- pictures ------------------------------------------------------------------------------

    def _pool(self) -> _Pool:
        """Draw, or read what was drawn, and fetch real pictures."""
        job, scenes = self.job, None
        if self.config is not None:
            endless = DigitScenes(self.config, "test", seed=job.seed, combinations="heldout")
            scenes = [endless.prompt(index) for index in range(job.count)]
        if job.pictures is not None:
            drawn, prompts, _ = read_pictures(job.pictures, self.model.size)
            by_caption = {scene.caption: scene for scene in scenes or ()}
            if scenes is not None:
                if unknown := [p for p in prompts if p not in by_caption]:
                    raise InputError(
                        f"{job.pictures}: {unknown[0]!r} is no prompt of the {job.count} scenes"
                    )
                scenes = [by_caption[prompt] for prompt in prompts]
        else:
            if scenes is not None:
                # two scenes may have one caption, and one picture answers it
                scenes = list({scene.caption: scene for scene in reversed(scenes)}.values())
                prompts = [scene.caption for scene in scenes]
            else:
                assert self.ground.held_out is not None
                prompts, _ = distinct_captions(self.ground.held_out, job.count)
            drawn = self._draw("pictures", prompts, 1)
        real, captions, name = self._real(4 * len(drawn))
        return _Pool(drawn, prompts, real, captions, name, scenes)

    def _draw(self, folder: str, prompts: list[str], count: int) -> np.ndarray:
        job = self.job
        wanted = Generation(
            prompts, job.out / folder, count, job.seed, job.sampling, job.batch, job.overwrite
        )
        return generate(self.model, wanted).pictures()

    def _real(self, most: int) -> tuple[np.ndarray, list[str], str]:
        """Real pictures that training did not see, their captions, and what they are."""
        if self.config is not None:
            other = DigitScenes(self.config, "test", seed=self.job.seed + 1, combinations="heldout")
            pictures, found = other.pictures(0, most)
            return pictures, [scene.caption for scene in found], "test scenes"
        if self.job.source is not None:
            source = open_source(self.job.source, self.job.reading)
            share = self.job.reading.limits.bad_share
            chosen = sample_pictures(source, self.model.size[0], most=most, bad_share=share)
            return chosen.pictures, chosen.captions, f"pictures of {self.job.source}"
        rows = self.ground.held_out
        if rows is None:
            return np.zeros((0, *self.model.size, 3), np.uint8), [], "none"
        count = min(most, len(rows))
        return (
            self.model.paint(rows.rows(range(count)).codes),
            rows.captions(range(count)),
            "held-out rows, through the codec",
        )

    # ---- measures ------------------------------------------------------------------------------

    def _compare(self, pool: _Pool, name: str, see: See) -> None:
        """Distances between the sets of real and drawn pictures in one encoder."""
        n = min(len(pool.generated), len(pool.real) // 2)
        if n < 8:
            return self._skip(f"Fréchet distance ({name})", f"{n} pictures a side, expected 8")
        real, generated = see(pool.real), see(pool.generated)
        order = self.rng.permutation(len(real))
        some, drawn = real[order[:n]], generated[:n]
        rng = self.rng
        self.measures += [
            frechet_distance(some, drawn, encoder=name, rng=rng),
            frechet_floor(real, n, n, encoder=name, rng=rng),
        ]
        if n >= 10:
            self.measures.append(fd_infinity(some, drawn, encoder=name, rng=rng).measured)
        scores = manifold_scores(some, drawn, encoder=name, k=min(5, n - 1))
        self.measures += [scores.precision, scores.recall, scores.density, scores.coverage]
        self._copies(pool, name, see)
        return None

    def _diversity(self, pool: _Pool) -> None:
        """Likeness of pictures of one prompt."""
        job, side = self.job, min(self.model.size)
        if side < 10:
            return self._skip("MS-SSIM", f"pictures of {side} pixels are too small")
        prompts = list(dict.fromkeys(pool.prompts))[: job.diversity_prompts]
        if job.diversity_seeds < 2 or not prompts or len(pool.real) < 2:
            return self._skip("MS-SSIM", "needs two seeds, a prompt and two real pictures")
        drawn = self._draw("diversity", prompts, job.diversity_seeds)
        groups = np.repeat(np.arange(len(prompts)), job.diversity_seeds).tolist()
        kinds = {caption: i for i, caption in enumerate(dict.fromkeys(pool.real_captions))}
        same = [kinds[caption] for caption in pool.real_captions]
        repeated = len(kinds) < len(same)
        real_groups = same if repeated else [0] * len(same)
        found = ssim_diversity(
            drawn, groups, pool.real, real_groups, rng=self.rng, most_per_group=50
        )
        real = found.real
        if not repeated:
            real = replace(real, name="MS-SSIM, real pictures of different captions")
        self.measures += [found.generated, real]
        return None

    def _image_text(self, pool: _Pool, towers: Towers) -> None:
        if len(pool.prompts) < 2:
            return self._skip("image-text score", "fewer than two pictures")
        for pictures, captions, what in (
            (pool.generated, pool.prompts, ""),
            (pool.real, pool.real_captions, ", real pictures"),
        ):
            if len(pictures) < 2:
                continue
            score = image_text_score(
                pictures,
                captions,
                picture_features=towers.see,
                text_features=lambda texts: towers.read(list(texts)),
                encoder=towers.name,
                rng=self.rng,
            )
            pairs = (score.matched, score.shuffled)
            self.measures += [replace(m, name=m.name + what) for m in pairs]
        return None

    def _copies(self, pool: _Pool, name: str, see: See) -> None:
        """Are drawn pictures nearer to training pictures than held-out ones are?"""
        ground = self.ground
        if ground.training is None or ground.held_out is None or ground.trained_on:
            return self._skip("copies of training pictures", "no training or no held-out rows")
        most = min(self.job.training_rows, _VALUES // (3 * math.prod(self.model.size)))
        training = reconstructions(self.model, ground.training, most)
        held_out = reconstructions(self.model, ground.held_out, 2000)
        found = memorisation(see(pool.generated), see(training), see(held_out), encoder=name)
        self.measures.append(found.share)
        self.extra.setdefault("closest_pairs", {})[name] = to_plain(found.closest)
        return None

    def _read(self, pool: _Pool, config: SceneConfig | None) -> SceneReader:
        """Prompt accuracy on digit scenes, beside its controls and the reader's own error."""
        assert config is not None
        assert pool.scenes is not None
        job = self.job
        reader = find_reader(
            job.reader, job.out / "parts", config, job.reader_seconds, job.reader_steps
        )
        label = f"scene-reader:{reader.fingerprint()[:12]}"
        readings = reader.read(pool.generated)
        self._scores(prompt_accuracy(readings, pool.scenes, config), label, "")
        if len(pool.scenes) > 1:
            shuffled = shuffled_control(readings, pool.scenes, self.rng, config)
            self._scores(shuffled, label, ", shuffled prompts")
            self._scores(chance_level(pool.scenes, self.rng, config), "none", ", chance level")
        error = reader_error(reader, self.rng, config)
        self._scores(error.scores, label, ", real test scenes")
        self.extra["reader_error"] = {
            "true_positive": error.scores.values(),
            "false_positive": error.false_positive,
            "pictures": error.pictures,
        }
        return reader

    def _scores(self, scores: PromptScores, label: str, what: str) -> None:
        found = scores.measured(label, self.rng).values()
        self.measures += [replace(one, name=one.name + what) for one in found]

    def _result(self, pool: _Pool) -> dict[str, Any]:
        return finite(
            to_plain(
                {
                    "kind": "evaluation",
                    "checkpoint": self.model.fingerprint(),
                    "settings": self.job,
                    "pictures": len(pool.generated),
                    "real": {"what": pool.real_name, "pictures": len(pool.real)},
                    "measures": self.measures,
                    "skipped": self.skipped,
                    **self.extra,
                    "seconds": self.seconds,
                    "versions": versions(),
                    "machine": dict(machine_info()),
                }
            )
        )


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Evaluate and write `evaluation.json`; returns what it holds.

    Raises `InputError` and `ProvenanceError` where checkpoint, store and pictures do not fit.
    """
    if job.count < 1:
        raise InputError(f"count: {job.count}, expected 1 or more captions")
    with quiet_transformers():
        result = _Evaluator(job).run()
    write_json(job.out / RESULT, result)
    return result


__all__ = ["Evaluation", "Ground", "evaluate"]
