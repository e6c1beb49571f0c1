"""Image-text score: how near pictures and captions lie in a pair of towers such as CLIP's.

The value is the mean raw cosine: not times 100 or 2.5, and not clipped at 0, as others do.
It is circular when the generator was aligned to the same picture tower: score with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arra.errors import InputError
from arra.metrics.bootstrap import bootstrap
from arra.metrics.measured import Measured
from arra.networks.part import tensors_fingerprint, weights_fingerprint
from arra.progress import without_library_bars

PictureFeatures = Callable[[np.ndarray], np.ndarray]
"""Pictures (N, H, W, 3) uint8 to features (N, d)."""
TextFeatures = Callable[[Sequence[str]], np.ndarray]
"""N captions to features (N, d)."""


@dataclass(frozen=True)
class ImageTextScore:
    """Agreement of pictures with their captions, and with wrong ones."""

    matched: Measured
    """Mean cosine of each picture and its own caption."""
    shuffled: Measured
    """Mean cosine over all wrong pairs of the set: what the towers say without agreement."""
    cosines: np.ndarray
    """(N,) of the matched pairs."""


def image_text_score(
    pictures: np.ndarray,
    captions: Sequence[str],
    *,
    picture_features: PictureFeatures,
    text_features: TextFeatures,
    encoder: str,
    rng: np.random.Generator,
) -> ImageTextScore:
    """Score pictures (N, H, W, 3) uint8 against N captions in the towers that `encoder` names."""
    if len(pictures) != len(captions) or len(captions) < 2:
        raise InputError(
            f"image_text_score: {len(pictures)} pictures for {len(captions)} captions, "
            "expected the same number, at least two"
        )
    a = _unit(picture_features(pictures), "picture features")
    b = _unit(text_features(captions), "text features")
    if a.shape != b.shape:
        raise InputError(f"the towers give {a.shape} and {b.shape}, expected equal shapes")
    cosines = np.einsum("nd,nd->n", a, b)
    n = len(cosines)
    wrong = float((a.sum(axis=0) @ b.sum(axis=0) - cosines.sum()) / (n * (n - 1)))
    interval = bootstrap(cosines, rng=rng)
    return ImageTextScore(
        Measured("image-text cosine", float(cosines.mean()), n, encoder, interval),
        Measured("image-text cosine, wrong pairs", wrong, n * (n - 1), encoder),
        cosines,
    )


def _unit(features: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    if x.ndim != 2 or not np.isfinite(x).all() or (norms == 0).any():
        raise InputError(f"{name}: expected finite (N, d) without zero rows, got shape {x.shape}")
    return x / norms


class ClipTowers:
    """The two towers of a CLIP model of transformers, by folder or hub name."""

    def __init__(self, name: str | Path, batch: int = 64, device: str = "cpu"):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        local = Path(name).is_dir()
        if local and not (Path(name) / "config.json").is_file():
            raise InputError(f"{name}: no config.json, expected the folder of a CLIP model")
        settings: dict[str, Any] = {"local_files_only": local}
        with without_library_bars() if local else nullcontext():
            model = CLIPModel.from_pretrained(str(name), use_safetensors=True, **settings)
        self.model = model.eval().to(device)
        self.processor = AutoImageProcessor.from_pretrained(str(name), **settings)
        self.tokenizer = AutoTokenizer.from_pretrained(str(name), **settings)
        digest = weights_fingerprint(self.model)
        self.name = f"clip:{Path(name).name}:{digest[:12]}"
        self.identities = frozenset(self._tower_digests() | (set() if local else {str(name)}))
        """Digests, and the hub name if it has one, by which an alignment teacher is recognised."""
        self.batch, self.device = batch, device
        self.longest = int(self.model.config.text_config.max_position_embeddings)
        """Tokens that the text tower reads; 77 in all published CLIP models."""

    def _tower_digests(self) -> set[str]:
        """Digests of the picture tower as `PretrainedEncoder` takes them, without and with the
        projection: so an encoder is recognised that a generator was aligned with."""
        tower = {f"tower.{k}": v for k, v in self.model.vision_model.state_dict().items()}
        projection = {"projection.weight": self.model.visual_projection.weight}
        return {tensors_fingerprint(tower), tensors_fingerprint({**tower, **projection})}

    @torch.no_grad()
    def picture_features(self, pictures: np.ndarray) -> np.ndarray:
        """Projected features (N, d) of pictures (N, H, W, 3) uint8."""
        parts = []
        for start in range(0, len(pictures), self.batch):
            chunk = list(pictures[start : start + self.batch])
            inputs = self.processor(
                images=chunk, return_tensors="pt", input_data_format="channels_last"
            )
            pixels = inputs["pixel_values"].to(self.device)
            hidden = self.model.vision_model(pixel_values=pixels).pooler_output
            parts.append(self.model.visual_projection(hidden).double().cpu())
        return torch.cat(parts).numpy()

    def length(self, caption: str) -> int:
        """Tokens of a caption, the two control tokens included."""
        return len(self.tokenizer(caption)["input_ids"])

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> np.ndarray:
        """Projected features (N, d) of captions; those longer than `longest` are cut."""
        parts = []
        for start in range(0, len(captions), self.batch):
            inputs = self.tokenizer(
                list(captions[start : start + self.batch]),
                padding=True,
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            ).to(self.device)
            hidden = self.model.text_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
            parts.append(self.model.text_projection(hidden).double().cpu())
        return torch.cat(parts).numpy()
