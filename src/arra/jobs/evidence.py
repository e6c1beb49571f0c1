"""What an evaluation looks at: the pictures, drawn or found, the real ones, and who looks."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from arra.data.scenes import DigitScenes, Scene, SceneConfig
from arra.errors import InputError
from arra.jobs.evaluation_config import Evaluation
from arra.jobs.evaluation_parts import (
    Eye,
    Ground,
    find_ground,
    find_reader,
    load_towers,
    reader_eye,
    reconstructions,
    scene_config,
    seen_by,
)
from arra.jobs.evaluation_reading import Shown, find_shown
from arra.jobs.generation import Generated, Generation, generate
from arra.jobs.options import SourceOptions
from arra.jobs.parts import load_encoder
from arra.jobs.picture_sets import PictureSet, open_set
from arra.jobs.validation import distinct_captions
from arra.metrics.classifier_score import Classifier
from arra.metrics.frechet import Gaussian
from arra.metrics.inception import RESIZING, Inception, find_inception
from arra.metrics.reader import SceneReader
from arra.metrics.towers import Towers
from arra.pixels import stills
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage

if TYPE_CHECKING:
    from arra.jobs.validation import Rows

_VALUES = 1 << 27
"""Most pixel values of training pictures that are held at once: 1 GiB in double precision."""


@dataclass(frozen=True)
class Drawn:
    """Pictures to be judged."""

    pictures: np.ndarray
    """(N, H, W, 3) uint8; of clips their middle frames."""
    captions: list[str] | None
    label: str = ""
    """What is added to the names of measures: "" or ", without guidance"."""


class Evidence:
    """Everything that measures ask for; what is dear is made when first asked for, and kept."""

    def __init__(self, job: Evaluation, device: str):
        self.job, self.device = job, device
        self.extra: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.model: TextToImage | None = None
        self.ground = Ground(None, None)
        self.config: SceneConfig | None = None
        if job.checkpoint is not None:
            self.model = TextToImage.from_pretrained(job.checkpoint, device)
            self.ground = find_ground(job.checkpoint, job.store, self.model)
            self.config = scene_config(self.ground, self.model) if job.scenes else None
            if self.config is None and self.ground.held_out is None and job.pictures is None:
                raise InputError(
                    f"{job.checkpoint}: its store is not known: name one with --store, or pictures "
                    "with --pictures"
                )
        self.whole: dict[str, np.ndarray] = {}
        """Of drawings whose codes are files, by the folder: (n,) bool, which needed no repair."""
        self._features: dict[tuple[str, str], np.ndarray] = {}
        self._inception: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def rng(self, name: str) -> np.random.Generator:
        """Random numbers of one measure: another measure more or less does not change them."""
        return np.random.default_rng([self.job.seed, zlib.crc32(name.encode("utf-8"))])

    # ---- pictures ------------------------------------------------------------------------------

    @cached_property
    def found(self) -> PictureSet:
        """The pictures that are to be judged, and where they come from."""
        job = self.job
        size = None if self.model is None else self.model.size
        if job.pictures is not None:
            return open_set(job.pictures, SourceOptions(), size=size, most=job.most)
        prompts, count = self._prompts()
        return self._draw_set("pictures", prompts, count, job.sampling)

    @property
    def frames(self) -> int:
        """Frames of what the checkpoint draws; 1 without a checkpoint."""
        return 1 if self.model is None else self.model.frames

    @cached_property
    def drawn(self) -> list[Drawn]:
        """The pictures to be judged, and where asked for the same without guidance."""
        job, found = self.job, self.found
        arms = [Drawn(found.pictures, found.captions)]
        if job.unguided and job.pictures is None and job.sampling.guided:
            prompts, count = self._prompts()
            plain = replace(job.sampling, guidance=1.0)
            made = self._draw_set("pictures-unguided", prompts, count, plain)
            arms.append(Drawn(made.pictures, made.captions, ", without guidance"))
        return arms

    def _prompts(self) -> tuple[list[str], int]:
        """Captions to draw, and how many pictures of each: several where captions are few."""
        job = self.job
        if self.config is not None:
            # two scenes may have one caption, and one picture answers it
            return list(dict.fromkeys(scene.caption for scene in self._endless())), 1
        assert self.ground.held_out is not None
        prompts, _ = distinct_captions(self.ground.held_out, job.count)
        return prompts, max(1, job.count // len(prompts))

    def _endless(self) -> list[Scene]:
        assert self.config is not None
        scenes = DigitScenes(self.config, "test", seed=self.job.seed, combinations="heldout")
        return [scenes.prompt(index) for index in range(self.job.count)]

    @cached_property
    def scenes(self) -> list[Scene]:
        """The scene that each picture was to show."""
        prompts = self.found.captions or []
        by_caption = {scene.caption: scene for scene in reversed(self._endless())}
        if unknown := [prompt for prompt in prompts if prompt not in by_caption]:
            raise InputError(
                f"{self.job.pictures}: {unknown[0]!r} is no prompt of the {self.job.count} scenes"
            )
        return [by_caption[prompt] for prompt in prompts]

    def draw(
        self, folder: str, prompts: list[str], count: int, sampling: SamplingConfig | None = None
    ) -> np.ndarray:
        """Pictures (prompts x count, H, W, 3) uint8 of the checkpoint, kept in a subfolder; of
        clips the middle frames."""
        return stills(self._generated(folder, prompts, count, sampling).pictures())

    def _generated(
        self, folder: str, prompts: list[str], count: int, sampling: SamplingConfig | None
    ) -> Generated:
        job = self.job
        assert self.model is not None
        sampling = sampling or job.sampling
        wanted = Generation(
            prompts, job.out / folder, count, job.seed, sampling, job.batch, job.overwrite
        )
        return generate(self.model, wanted)

    def _draw_set(
        self, folder: str, prompts: list[str], count: int, sampling: SamplingConfig
    ) -> PictureSet:
        made = self._generated(folder, prompts, count, sampling)
        pictures = stills(made.pictures())
        facts = {
            "format": {"PNG": len(pictures)},
            "resized": None,
            "seeds": [self.job.seed, self.job.seed + count - 1],
            "sampling": sampling,
            "captions": len(prompts),
            "frames": self.frames,
        }
        self.whole[folder] = made.whole()
        captions = [prompt for prompt in prompts for _ in range(count)]
        what = (
            f"{len(pictures)} pictures drawn for this, {count} for each of {len(prompts)} prompts"
        )
        return PictureSet(pictures, captions, what, facts)

    @cached_property
    def real(self) -> PictureSet:
        """Real pictures, up to four times as many as are judged, for the floor needs twice."""
        job, size = self.job, self.drawn[0].pictures.shape[1:3]
        most = min(job.most, 4 * len(self.drawn[0].pictures))
        if self.config is not None:
            other = DigitScenes(self.config, "test", seed=job.seed + 1, combinations="heldout")
            pictures, found = other.pictures(0, most)
            facts = {"format": "drawn in memory", "resized": None, "split": "test"}
            captions = [scene.caption for scene in found]
            return PictureSet(pictures, captions, "test scenes", facts)
        if job.source is not None:
            return open_set(job.source, job.reading, size=(size[0], size[1]), most=most)
        training = job.reference == "training"
        rows = self.ground.training if training else self.ground.held_out
        if rows is None or self.model is None:
            empty = np.zeros((0, *size, 3), np.uint8)
            return PictureSet(empty, [], "none", {"resized": None, "split": None})
        return self._rows(rows, most, training or self.ground.trained_on)

    def _rows(self, rows: Rows, most: int, trained_on: bool) -> PictureSet:
        assert self.model is not None
        count = range(min(most, len(rows)))
        split = "training" if trained_on else "held-out"
        facts = {
            "format": "codes of a prepared store",
            "resized": None,
            "split": split,
            "through_codec": self.model.codec.fingerprint()[:12],
        }
        pictures = stills(self.model.paint(rows.rows(count).codes))
        return PictureSet(pictures, rows.captions(count), f"{split} rows, through the codec", facts)

    @cached_property
    def shown(self) -> Shown:
        """Held-out pictures that the checkpoint is to read."""
        assert self.model is not None
        return find_shown(self.model, self.ground, self.config, self.job.count, self.job.seed)

    @property
    def sides(self) -> int:
        """n: pictures of each side in every distance, the same everywhere."""
        return min(len(self.drawn[0].pictures), len(self.real) // 2)

    @cached_property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers (n,) of the real pictures that stand in distances, and of n others."""
        order = self.rng("real rows").permutation(len(self.real))
        return order[: self.sides], order[self.sides : 2 * self.sides]

    @cached_property
    def judged(self) -> np.ndarray:
        """Row numbers (n,) of the judged pictures that stand in distances, by chance.

        The first n would be of the first prompts, or of one class where a set is sorted.
        """
        return self.rng("judged rows").permutation(len(self.drawn[0].pictures))[: self.sides]

    # ---- who looks -----------------------------------------------------------------------------

    @cached_property
    def inception(self) -> Inception | None:
        """The Inception network, where its weights were given."""
        if self.job.inception is None:
            return None
        found = Inception(find_inception(self.job.inception), self.device)
        if not found.genuine:
            self.warnings.append(
                f"{found.path}: these are not the published Inception weights (their SHA-256 is "
                f"{found.digest[:12]}...), so no value here is an FID, KID or Inception score"
            )
        return found

    @cached_property
    def statistics(self) -> Gaussian | None:
        """Statistics of real Inception features that somebody else made."""
        if self.job.statistics is None:
            return None
        self.warnings.append(
            f"{self.job.statistics}: another program made these statistics. Whether its pictures, "
            f"their split and their resizing are comparable cannot be seen; here: {RESIZING}"
        )
        return Gaussian.load(self.job.statistics)

    @cached_property
    def classifier(self) -> Classifier | None:
        """The image classifier, where one was named."""
        name = self.job.classifier
        return None if name is None else Classifier(name, self.device, self.job.batch)

    @cached_property
    def reader(self) -> SceneReader | None:
        """The reader of digit scenes, where scenes are drawn."""
        job = self.job
        if self.config is None:
            return None
        parts = job.out / "parts"
        return find_reader(job.reader, parts, self.config, job.reader_seconds, job.reader_steps)

    @cached_property
    def towers(self) -> Towers | None:
        """The picture and caption towers, where they were named."""
        return None if self.job.towers is None else load_towers(self.job.towers, self.device)

    @cached_property
    def eyes(self) -> list[Eye]:
        """Everyone in whose features sets of pictures are compared."""
        found = []
        if (inception := self.inception) is not None:
            found.append(
                Eye(
                    inception.name,
                    frozenset({inception.digest}),
                    lambda pictures: inception.see(pictures)[0],
                    RESIZING,
                    "none",
                    inception.genuine,
                )
            )
        for name in self.job.encoders:
            found.append(seen_by(load_encoder(name, self.job.encoder_options, self.device)))
        if self.reader is not None:
            found.append(reader_eye(self.reader))
        return found

    def seen_by_inception(self, which: str, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inception's features and logits of a set of pictures, looked at once."""
        assert self.inception is not None
        if which not in self._inception:
            self._inception[which] = self.inception.see(pictures)
        return self._inception[which]

    def features(self, eye: Eye, which: str, pictures: np.ndarray) -> np.ndarray:
        """Features (n, d) of a set of pictures, by the name of the set looked at once."""
        if self.inception is not None and eye.name == self.inception.name:
            return self.seen_by_inception(which, pictures)[0]
        key = (eye.name, which)
        if key not in self._features:
            self._features[key] = eye.see(pictures)
        return self._features[key]

    @cached_property
    def training(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and held-out pictures, as the codec paints them."""
        assert self.model is not None
        assert self.ground.training is not None
        assert self.ground.held_out is not None
        most = min(self.job.training_rows, _VALUES // (3 * math.prod(self.model.size)))
        return (
            reconstructions(self.model, self.ground.training, most),
            reconstructions(self.model, self.ground.held_out, 2000),
        )
