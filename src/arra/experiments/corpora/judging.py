"""What a trained arm's pictures are worth, beside what real pictures get from the same judge.

The judge is the pair of towers of the workbench, which the teacher has nothing to do with. Sets are
compared in as many principal components of its picture features as the number of pictures bears
(n >= 20 d), found on training pictures; the distance is the Fréchet distance to held-out pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from arra.experiments.arms import plain
from arra.experiments.corpora.results import HELD_OUT
from arra.experiments.corpora.workbench import Workbench
from arra.jobs.validation import distinct_captions, plain_batches
from arra.metrics.bootstrap import bootstrap
from arra.metrics.diversity import ms_ssim, ssim_diversity
from arra.metrics.frechet import frechet_distance
from arra.metrics.image_text import image_text_score
from arra.metrics.likelihood import held_out_law
from arra.metrics.measured import Measured
from arra.metrics.memorisation import memorisation
from arra.progress import track
from arra.text_to_image import TextToImage

FLOORS = 10
"""Random samples of training pictures whose Fréchet distance is found for comparison."""
SPARE = 20
"""Pictures for each dimension in which sets are compared."""


@dataclass(frozen=True)
class Judgement:
    """What of the judgement is the same for all arms of a corpus."""

    bench: Workbench

    @cached_property
    def prompts(self) -> list[str]:
        """Captions of held-out pictures."""
        return self.bench.held_out.captions[: self.bench.corpus.drawing.prompts]

    @cached_property
    def real(self) -> np.ndarray:
        """The pictures of these captions."""
        return self.bench.held_out.pictures[: len(self.prompts)]

    @cached_property
    def choices(self) -> list[str]:
        """The different captions among the prompts, one of which a picture is read as."""
        return list(dict.fromkeys(self.prompts))

    @cached_property
    def _training_features(self) -> np.ndarray:
        return self.bench.judge.picture_features(self.bench.train.pictures)

    @cached_property
    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and principal axes (D, d) of the judge's features of training pictures."""
        features = self._training_features
        dimensions = max(2, min(features.shape[1], len(self.prompts) // SPARE))
        values, vectors = np.linalg.eigh(np.cov(features, rowvar=False))
        return features.mean(axis=0), vectors[:, np.argsort(values)[::-1][:dimensions]]

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """(N, d) what sets of pictures are compared by."""
        return self._projected(self.bench.judge.picture_features(pictures))

    def _projected(self, features: np.ndarray) -> np.ndarray:
        mean, axes = self._axes
        return (features - mean) @ axes

    @cached_property
    def _real_features(self) -> np.ndarray:
        return self.features(self.real)

    @cached_property
    def _painted(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Training and held-out pictures as the codec paints them, and their features: a drawing
        is made by the codec, and what it blurs must not count as a difference."""
        stores = {"training": self.bench.store, "held_out": self.bench.held_out_store}
        pictures = {name: self.bench.painted(rows) for name, rows in stores.items()}
        return {name: (array, self.features(array)) for name, array in pictures.items()}

    # ---- measures ------------------------------------------------------------------------------

    def distance(self, pictures: np.ndarray, rng: np.random.Generator | None = None) -> Measured:
        """Fréchet distance of pictures to the held-out ones."""
        name = self.bench.judge.name
        return frechet_distance(self._real_features, self.features(pictures), encoder=name, rng=rng)

    def of_training(self, rng: np.random.Generator) -> dict[str, float]:
        """The same distance of as many training pictures, which show other things: a drawing that
        follows the held-out captions can come nearer."""
        known = self._projected(self._training_features)
        values = []
        for _ in range(FLOORS):
            some = known[rng.choice(len(known), size=len(self.prompts), replace=False)]
            values.append(
                frechet_distance(self._real_features, some, encoder=self.bench.judge.name).value
            )
        low, high = np.quantile(values, [0.025, 0.975])
        return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}

    def agreement(
        self, pictures: np.ndarray, captions: Sequence[str], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Image-text cosine with its control, and how often a picture is read as its caption."""
        judge = self.bench.judge
        score = image_text_score(
            pictures,
            captions,
            picture_features=judge.picture_features,
            text_features=judge.text_features,
            encoder=judge.name,
            rng=rng,
        )
        top = 1 if self.bench.corpus.labelled else 5
        found = self._found(pictures, captions, top)
        interval = bootstrap(found, rng=rng)
        read = Measured("caption found", float(found.mean()), len(found), judge.name, interval)
        shuffled = [captions[i] for i in rng.permutation(len(captions))]
        wrong = self._found(pictures, shuffled, top)
        control = Measured("caption found, shuffled", float(wrong.mean()), len(wrong), judge.name)
        gap = Measured("gap", score.matched.value - score.shuffled.value, len(found), judge.name)
        return plain(
            {
                "image_text": score.matched,
                "image_text_wrong_pairs": score.shuffled,
                "image_text_gap": gap,
                "caption_found": read,
                "caption_found_shuffled": control,
            }
        )

    def _found(self, pictures: np.ndarray, captions: Sequence[str], top: int) -> np.ndarray:
        """(N,) 1 where the picture's caption is among the `top` that fit it best, else 0."""
        see, read = (
            self.bench.judge.picture_features(pictures),
            self.bench.judge.text_features(self.choices),
        )
        see, read = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (see, read))
        place = {caption: i for i, caption in enumerate(self.choices)}
        own = np.asarray([place[caption] for caption in captions])
        cosines = see @ read.T
        better = (cosines > cosines[np.arange(len(own)), own][:, None]).sum(axis=1)
        return (better < top).astype(np.float64)

    def copies(self, pictures: np.ndarray) -> dict[str, Any]:
        """Share of pictures nearer to a training picture than the nearest percent of held-out ones,
        in pixels and for the judge."""
        painted, name = self._painted, self.bench.judge.name
        known, known_features = painted["training"]
        other, other_features = (values[: len(self.prompts)] for values in painted["held_out"])
        features = self.features(pictures)
        pixels = memorisation(pictures, known, other, encoder="none")
        seen = memorisation(features, known_features, other_features, encoder=name)
        exact = Measured(
            "exact copies", float(pixels.share.details["exact_copies"]) / len(pictures),
            len(pictures), "none",
        )  # fmt: skip
        return plain(
            {"near_pixels": pixels.share, "near_features": seen.share, "exact_copies": exact}
        )

    def reference(self) -> dict[str, Any]:
        """What real held-out pictures get, and what the codec alone makes of them."""
        rng = np.random.default_rng(0)
        through = self.bench.through_codec(self.real)
        found: dict[str, Any] = {
            "pictures": len(self.real),
            "dimensions": int(self._axes[1].shape[1]),
            "judge": self.bench.judge.name,
            "choices": len(self.choices),
            "real": self.agreement(self.real, self.prompts, rng),
            "codec": {
                **self.agreement(through, self.prompts, rng),
                **plain({"frechet": self.distance(through, rng)}),
            },
        }
        found["real"]["frechet"] = {**self.of_training(rng), "n": len(self.prompts)}
        return found

    def arm(self, folder: Path) -> tuple[dict[str, Any], np.ndarray]:
        """Draw and measure with the model in `folder`: plain results, and the pictures uint8."""
        rng = np.random.default_rng(0)
        model = TextToImage.from_pretrained(folder / "model", self.bench.device)
        drawn = self._draw(model, self.prompts, 0)
        batches = plain_batches(self.bench.held_out_store, model.generator)
        told = held_out_law(model.generator, batches)
        likeness = ms_ssim(drawn, self.real)
        to_real = Measured(
            "MS-SSIM to the real picture", float(likeness.mean()), len(likeness), "none",
            bootstrap(likeness, rng=rng),
        )  # fmt: skip
        results = {
            **plain({HELD_OUT: told.measured(rng, model.codec.fingerprint()[:12])}),
            **plain({"frechet": self.distance(drawn, rng), "likeness": to_real}),
            **self.agreement(drawn, self.prompts, rng),
            **self.copies(drawn),
            **self._diversity(model, rng),
        }
        return results, drawn

    def _draw(self, model: TextToImage, captions: Sequence[str], first: int) -> np.ndarray:
        """Pictures of captions, the seeds counting from `first`: the same in every arm."""
        with track("draw", len(captions) * model.generator.units, self.bench.quiet) as task:
            sampling = self.bench.corpus.drawing.sampling
            seeds = range(first, first + len(captions))
            return model.draw(captions, seeds, sampling, batch=128, on_unit=task.advance)

    def _diversity(self, model: TextToImage, rng: np.random.Generator) -> dict[str, Any]:
        """Likeness of pictures of one prompt, beside that of real pictures of one caption, where
        captions repeat, or else of any two."""
        drawing = self.bench.corpus.drawing
        chosen, _ = distinct_captions(self.bench.held_out_store, drawing.diversity_prompts)
        groups = [i for i in range(len(chosen)) for _ in range(drawing.diversity_pictures)]
        drawn = self._draw(model, [chosen[i] for i in groups], 1_000_003)
        same = [self.choices.index(caption) for caption in self.prompts]
        repeated = len(self.choices) < len(same) // 2
        found = ssim_diversity(
            drawn, groups, self.real, same if repeated else [0] * len(same), rng=rng,
            most_per_group=50,
        )  # fmt: skip
        return plain({"ms_ssim": found.generated, "ms_ssim_real": found.real})
