"""Pairs of a picture tower and a caption tower that were trained together: CLIP and its kin."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arra.encoders import OpenClipConfig, OpenClipEncoder, SmallTextEncoder
from arra.encoders.openclip import find_model, library
from arra.encoders.text import words_of
from arra.errors import InputError
from arra.metrics.image_text import PictureFeatures
from arra.networks.part import tensors_fingerprint, weights_fingerprint
from arra.progress import without_library_bars


class Towers(Protocol):
    """What an image-text score asks of a pair of towers."""

    @property
    def name(self) -> str:
        """With the first digits of its digest."""
        ...

    @property
    def identities(self) -> frozenset[str]:
        """Digests, and the hub name if it has one, by which an alignment teacher is recognised."""
        ...

    @property
    def published(self) -> bool:
        """Whether others publish its score, times 100 and clipped at 0: the CLIP-score."""
        ...

    @property
    def longest(self) -> int:
        """Tokens (or words) that it reads of a caption; the rest is cut off."""
        ...

    def length(self, caption: str) -> int:
        """How many of them a caption has, control tokens included."""
        ...

    def picture_features(self, pictures: np.ndarray) -> np.ndarray:
        """Features (N, d) of pictures (N, H, W, 3) uint8."""
        ...

    def text_features(self, captions: Sequence[str]) -> np.ndarray:
        """Features (N, d) of captions."""
        ...


@dataclass(frozen=True)
class SmallTowers:
    """An encoder of arra's own and the caption tower that it was trained with."""

    name: str
    identities: frozenset[str]
    picture_features: PictureFeatures
    text: SmallTextEncoder
    published: bool = False

    @property
    def longest(self) -> int:
        """Words that are read of a caption."""
        return self.text.config.longest

    def length(self, caption: str) -> int:
        """Words of a caption."""
        return len(words_of(caption))

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> np.ndarray:
        """Features (N, d) of captions."""
        return self.text(captions).double().cpu().numpy()


class HubTowers:
    """The two towers of a CLIP or SigLIP model of transformers, by folder or hub name.

    SigLIP was trained on captions that are padded to its full length, and its text tower reads the
    padding: so they are padded here too (arXiv 2303.15343; the model card says so).
    """

    def __init__(self, name: str | Path, batch: int = 64, device: str = "cpu"):
        """`InputError` for a folder or hub name without such a model."""
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

        local = Path(name).is_dir()
        if local and not (Path(name) / "config.json").is_file():
            raise InputError(f"{name}: no config.json, expected the folder of a CLIP model")
        settings: dict[str, Any] = {"local_files_only": local}
        try:
            kind = AutoConfig.from_pretrained(str(name), **settings).model_type
            if kind not in ("clip", "siglip"):
                raise InputError(f"{name}: a model of type {kind!r}, expected clip or siglip")
            with without_library_bars() if local else nullcontext():
                model: Any = AutoModel.from_pretrained(str(name), use_safetensors=True, **settings)
            self.processor = AutoImageProcessor.from_pretrained(str(name), **settings)
            self.tokenizer = AutoTokenizer.from_pretrained(str(name), **settings)
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: no CLIP model that transformers can load") from error
        self.model = model.eval().to(device)
        digest = weights_fingerprint(self.model)
        self.name = f"{kind}:{Path(name).name}:{digest[:12]}"
        self.published = kind == "clip"
        self.identities = frozenset(self._tower_digests() | (set() if local else {str(name)}))
        self.batch, self.device = batch, device
        self.longest = int(self.model.config.text_config.max_position_embeddings)

    def _tower_digests(self) -> set[str]:
        """Digests of the picture tower as `PretrainedEncoder` takes them, without and with the
        projection: so an encoder is recognised that a generator was aligned with."""
        tower = {f"tower.{k}": v for k, v in self.model.vision_model.state_dict().items()}
        projection = getattr(self.model, "visual_projection", None)
        if projection is None:
            return {tensors_fingerprint(tower)}
        both = {**tower, "projection.weight": projection.weight}
        return {tensors_fingerprint(tower), tensors_fingerprint(both)}

    def length(self, caption: str) -> int:
        """Tokens of a caption, control tokens included."""
        return len(self.tokenizer(caption)["input_ids"])

    @torch.no_grad()
    def picture_features(self, pictures: np.ndarray) -> np.ndarray:
        """Features (N, d), projected where the model projects, of pictures (N, H, W, 3) uint8."""
        parts = []
        for start in range(0, len(pictures), self.batch):
            chunk = list(pictures[start : start + self.batch])
            inputs = self.processor(
                images=chunk, return_tensors="pt", input_data_format="channels_last"
            )
            pixels = inputs["pixel_values"].to(self.device)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            parts.append(self._projected(pooled, "visual_projection"))
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> np.ndarray:
        """Features (N, d) of captions; those longer than `longest` are cut."""
        parts = []
        for start in range(0, len(captions), self.batch):
            inputs = self.tokenizer(
                list(captions[start : start + self.batch]),
                padding=True if self.published else "max_length",
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            ).to(self.device)
            read = {"input_ids": inputs["input_ids"]}
            if self.published:
                read["attention_mask"] = inputs["attention_mask"]
            pooled = self.model.text_model(**read).pooler_output
            parts.append(self._projected(pooled, "text_projection"))
        return torch.cat(parts).numpy()

    def _projected(self, pooled: Tensor, name: str) -> Tensor:
        projection = getattr(self.model, name, None)
        return (pooled if projection is None else projection(pooled)).double().cpu()


class OpenClipTowers:
    """The two towers of an open_clip model; BioMedCLIP is one. Needs the extra `open-clip`."""

    published = True

    def __init__(self, config: OpenClipConfig, batch: int = 64, device: str = "cpu"):
        """`config` says which model, as for `OpenClipEncoder`; `InputError` as there."""
        open_clip, found = library(), find_model(config)
        picture = OpenClipEncoder(replace(config, cls="projected", layer=None))
        pooled = _digest_without_projection(config)
        try:
            # nothing is fetched for the towers one by one: the file has the weights of both
            self.text = open_clip.create_model(
                found.source, load_weights=False, pretrained_text=False, pretrained_image=False
            )
            open_clip.load_checkpoint(self.text, str(found.weights))
            self.tokenizer = open_clip.get_tokenizer(found.source)
        except (RuntimeError, TypeError, ValueError, AssertionError, OSError) as error:
            raise InputError(f"{config.model}: cannot make its text tower: {error}") from error
        self.text.visual = None  # the encoder is the picture tower
        self.text.eval().to(device)
        self.picture = picture.to(device)
        digest = str(picture.config.fingerprint)
        local = Path(config.model).is_dir()
        self.name = f"open_clip:{Path(config.model).name}:{digest[:12]}"
        self.identities = frozenset({digest, *pooled} | (set() if local else {config.model}))
        self.batch, self.device = batch, device
        self.longest = int(self.tokenizer.context_length)

    def length(self, caption: str) -> int:
        """Tokens of a caption, control tokens included."""
        inner = getattr(self.tokenizer, "tokenizer", None)  # of transformers
        if inner is not None:
            return len(inner(caption)["input_ids"])
        return len(self.tokenizer.encode(caption)) + 2

    @torch.no_grad()
    def picture_features(self, pictures: np.ndarray) -> np.ndarray:
        """Image embeddings (N, d) of pictures (N, H, W, 3) uint8."""
        parts = []
        for start in range(0, len(pictures), self.batch):
            images = [Image.fromarray(picture) for picture in pictures[start : start + self.batch]]
            pixels = self.picture.preprocess(images).to(self.device)
            parts.append(self.picture.encode(pixels).aggregate("cls").double().cpu())
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> np.ndarray:
        """Text embeddings (N, d) of captions; those longer than `longest` are cut."""
        parts = []
        for start in range(0, len(captions), self.batch):
            ids = self.tokenizer(list(captions[start : start + self.batch])).to(self.device)
            parts.append(self.text.encode_text(ids).double().cpu())
        return torch.cat(parts).numpy()


def _digest_without_projection(config: OpenClipConfig) -> set[str]:
    """Digest of the picture tower as a teacher that is read before the projection has it."""
    try:
        encoder = OpenClipEncoder(replace(config, cls="pooled", layer=None))
    except InputError:  # a tower whose pooled vector is always projected
        return set()
    return {str(encoder.config.fingerprint)}
