"""What a raster generator lends to a network that drafts its features, and how that is trained
(EAGLE, arXiv 2401.15077): the target is frozen, and its embedding and head are used as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arra.codecs.base import Codec
from arra.errors import InputError, ProvenanceError
from arra.generators.base import Batch, FeatureOutput, Generator
from arra.generators.batches import RasterBatches, Store
from arra.generators.raster import RasterGenerator
from arra.networks.feature_predictor import FeaturePredictor, FeaturePredictorConfig
from arra.settings import BatchConfig, Sizes


class CodeTables:
    """The two ends of a raster generator: codes to vectors, and what the head reads to logits."""

    def __init__(self, generator: RasterGenerator):
        self.generator = generator
        self.units, self.codes = generator.units, generator.codes

    def embed(self, codes: Tensor) -> Tensor:
        """(..., D) of codes (...), as the language model embeds them."""
        tokens = codes.flatten()[None] + self.generator.config.vocabulary.offset
        return self.generator.embedded(tokens)[0].unflatten(0, tuple(codes.shape))

    def logits(self, features: Tensor) -> Tensor:
        """(..., codes) of what the head reads, (..., D)."""
        flat = features.flatten(0, -2).to(self.generator.lm.dtype)
        found = self.generator.code_logits(flat)
        return found.unflatten(0, tuple(features.shape[:-1]))


@dataclass(frozen=True)
class PictureFeatures:
    """Of B pictures of up to n codes: every code, and what the target's head read before it."""

    codes: Tensor
    """(B, n) int64; 0 behind shorter ones. What ends a picture counts, and is no code."""
    features: Tensor
    """(B, n, D) float32: of them the first code is predicted, and so on."""
    real: Tensor
    """(B, n) bool: which are there."""


@torch.no_grad()
def picture_features(generator: RasterGenerator, batch: Batch) -> PictureFeatures:
    """What the target reads in a training batch, which teaches nothing but pictures."""
    states = generator.lm.get_decoder()(**generator._inputs(batch, None)).last_hidden_state
    here = batch.image
    sample = batch.segment[here]
    # within a sample positions follow one another, whatever row it lies in
    order = sample.argsort(stable=True)
    counts = torch.bincount(sample)
    first = counts.cumsum(dim=0) - counts
    sample = sample[order]
    place = torch.arange(len(sample), device=sample.device) - first[sample]
    shape = len(counts), int(counts.max())
    codes = batch.target.new_zeros(shape)
    codes[sample, place] = batch.target[here][order] - generator.config.vocabulary.offset
    features = states.new_zeros(*shape, states.shape[-1], dtype=torch.float32)
    features[sample, place] = states[here][order].float()
    real = torch.zeros(shape, dtype=torch.bool, device=sample.device)
    real[sample, place] = True
    return PictureFeatures(codes, features, real)


class FeatureStudent(Generator):
    """A network that predicts a generator's features, as the training loop takes it. What is saved
    is the network alone."""

    Config = FeaturePredictorConfig
    config: FeaturePredictorConfig
    taught = True

    def __init__(self, target: RasterGenerator, network: FeaturePredictor, noise: float = 0.2):
        """`target` is frozen from now on. Features that the network reads in training get uniform
        noise of this width, for when it drafts they are its own."""
        super().__init__(network.config)
        if not 0.0 <= noise < float("inf"):
            raise InputError(f"noise: {noise}, expected a width of at least 0")
        self.target, self.network, self.noise = target.requires_grad_(False).eval(), network, noise
        self.tables = CodeTables(target)
        self.width, self.depth, self.tokenizer = target.width, network.config.depth, None

    @classmethod
    def of(
        cls,
        target: Generator,
        *,
        depth: int = 1,
        heads: int = 4,
        feed_forward: int = 0,
        noise: float = 0.2,
        seed: int = 0,
    ) -> Self:
        """A student of a generator, with random weights that are a function of `seed`.

        `InputError` where the generator's codes cannot be drafted.
        """
        if not isinstance(target, RasterGenerator):
            raise InputError(
                f"a {target.registered_name} generator: features are drafted of raster ones"
            )
        if reason := target.undraftable(len(target.prompt_ids(None)) + target.units):
            raise InputError(f"features cannot be drafted of this generator; {reason}")
        config = FeaturePredictorConfig(
            target.width, target.units, heads, depth, feed_forward, target=target.fingerprint()
        )
        return cls(target, FeaturePredictor.seeded(config, seed), noise)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.target.eval()
        return self

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "noise": self.noise}

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        self.network.save_pretrained(save_directory)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> FeatureOutput:
        """Features at every code but the last, which predicts none."""
        told = picture_features(self.target, batch)
        before, here = told.features[:, :-1], told.real[:, 1:]
        if self.training and self.noise:
            before = before + (torch.rand_like(before) - 0.5) * self.noise
        codes = told.codes[:, :-1].masked_fill(~here, 0)
        position = torch.arange(codes.shape[1], device=codes.device).expand_as(codes)
        features = self.network(self.tables.embed(codes), before, position)[here].float()
        true = told.features[:, 1:][here]
        return FeatureOutput(
            self.tables.logits(features),
            told.codes[:, 1:][here],
            {},
            features=features,
            true_features=true,
            true_logits=self.tables.logits(true),
        )

    # ---- the rest is the target's ---------------------------------------------------------------

    @classmethod
    def for_store(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: Codec,
        grid: tuple[int, int],
        sizes: Sizes,
        *,
        seed: int,
        longest: int = 0,
    ) -> Self:
        raise InputError("features are learnt of a trained generator (arra draft)")

    @property
    def units(self) -> int:
        return self.target.units

    @property
    def codes(self) -> int:
        return self.target.codes

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        return self.target.grids

    def prompt_ids(self, caption: str | None) -> list[int]:
        return self.target.prompt_ids(caption)

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> RasterBatches:
        """Those of the target; of text nothing is learnt."""
        return self.target.batches(store, replace(config, replay=0.0), ())


def check_target(network: FeaturePredictor, target: Generator, where: str | Path = "") -> None:
    """`ProvenanceError` where these are not the features that the network has learnt."""
    if network.config.target != target.fingerprint():
        raise ProvenanceError(
            f"{where or 'drafter'}: it has learnt the features of another checkpoint (or of this "
            "one before it was trained further), so that its guesses mean nothing; train it again "
            "with `arra draft`"
        )
