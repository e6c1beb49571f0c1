"""The Inception score, in Inception's classes or in those of any classifier.

exp(E KL(p(y|x) || p(y))): high when each picture is of a clear class and all classes occur. It
knows no reference, and rewards one perfect picture a class: report it beside a distance.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from arra.encoders.preprocessing import Preprocessing
from arra.errors import InputError
from arra.metrics.measured import Interval, Measured
from arra.networks.part import weights_fingerprint
from arra.randomness import seeded


def classifier_score(
    logits: np.ndarray, *, encoder: str, splits: int = 10, seed: int = 0
) -> Measured:
    """The score of logits (N, classes): mean over `splits` random parts (Salimans et al. 2016).

    The bounds are two standard deviations over the parts around the mean; they show how much the
    parts differ, not how much training seeds do. By torchmetrics.
    """
    if logits.ndim != 2 or len(logits) < splits or not np.isfinite(logits).all():
        raise InputError(
            f"classifier_score: logits {logits.shape}, expected at least {splits} finite rows"
        )
    with warnings.catch_warnings(), seeded(seed):  # it shuffles by torch's own generator
        # that it keeps all rows in memory, as it is meant to, and that one split has no spread
        warnings.simplefilter("ignore")
        from torchmetrics.image.inception import InceptionScore

        metric = InceptionScore(feature=torch.nn.Identity(), splits=splits)
        metric.update(torch.from_numpy(np.asarray(logits, dtype=np.float64)))
        mean, spread = (float(value) for value in metric.compute())
    interval = None
    if splits > 1:
        low, high = mean - 2 * spread, mean + 2 * spread
        interval = Interval(mean, low, high, 0.95, "spread over the splits")
    details: dict[str, float | int | str] = {
        "splits": splits,
        "classes": logits.shape[1],
        "seed": seed,
    }
    return Measured("classifier score", mean, len(logits), encoder, interval, details)


class Classifier:
    """An image classifier of transformers, by folder or hub name, under its own name."""

    def __init__(self, name: str, device: str = "cpu", batch: int = 64):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        try:
            model: Any
            model, info = AutoModelForImageClassification.from_pretrained(
                name, use_safetensors=True, output_loading_info=True
            )
            settings = AutoImageProcessor.from_pretrained(name).to_dict()
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"{name}: no image classifier that transformers can load: {first[0]}"
            ) from error
        if info["missing_keys"]:  # transformers fills them with noise
            raise InputError(f"{name}: the checkpoint lacks {sorted(info['missing_keys'])[0]!r}")
        self.model, self.batch, self.device = model.eval().to(device), batch, device
        self.preprocessing = Preprocessing.from_processor(settings, name)
        self.digest = weights_fingerprint(model)
        self.name = f"{Path(name).name}:{self.digest[:12]}"

    @torch.no_grad()
    def logits(self, pictures: np.ndarray) -> np.ndarray:
        """(N, classes) float64 of pictures (N, H, W, 3) uint8."""
        parts = []
        for start in range(0, len(pictures), self.batch):
            images = [Image.fromarray(p) for p in pictures[start : start + self.batch]]
            pixels = self.preprocessing(images).to(self.device)
            parts.append(self.model(pixel_values=pixels).logits.double().cpu())
        return torch.cat(parts).numpy()
