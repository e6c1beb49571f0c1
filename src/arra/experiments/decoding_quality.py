"""What arithmetic of fewer bits costs: pictures of the demo's model judged beside those of fp32."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np

from arra.experiments.bench import Bench, BenchConfig
from arra.metrics.frechet import frechet_distance
from arra.metrics.prompts import prompt_accuracy
from arra.settings import Precision, SamplingConfig
from arra.text_to_image import TextToImage

SAMPLING = SamplingConfig(guidance=2.0, top_p=0.8)
"""As the demo draws."""


def quality(
    folder: Path, prompts: int = 512, sampling: SamplingConfig = SAMPLING
) -> dict[Precision, dict[str, float]]:
    """Of each precision, with the aligned model in a folder that `arra demo` made: the share of
    held-out prompts that are right in everything, that of pictures which fp32 draws too, and the
    Fréchet distances, in the judge's features, from fp32's pictures and from real scenes.

    The same prompts and seeds throughout.
    """
    bench = Bench(BenchConfig(), folder / "bench")
    model = TextToImage.from_pretrained(folder / "aligned", "cpu")
    real, scenes = bench.scenes("heldout", prompts, seed=1)
    captions, seeds = [scene.caption for scene in scenes], range(prompts)
    drawn = {
        p: model.draw(captions, seeds, sampling, decoder="fast", precision=p)
        for p in get_args(Precision)
    }
    reader = bench.reader
    features = {p: reader.features(pictures) for p, pictures in drawn.items()}
    true = reader.features(real)

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return frechet_distance(one, other, encoder=reader.name).value

    found: dict[Precision, dict[str, float]] = {}
    for p, pictures in drawn.items():
        scores = prompt_accuracy(reader.read(pictures), scenes, bench.config.scene)
        same = (pictures == drawn["fp32"]).all(axis=(1, 2, 3))
        found[p] = {
            "prompts right in everything": float(np.mean(scores.all.right)),
            "same pictures as fp32": float(same.mean()),
            "Fréchet distance to fp32": distance(features["fp32"], features[p]),
            "Fréchet distance to real scenes": distance(true, features[p]),
        }
    return found
