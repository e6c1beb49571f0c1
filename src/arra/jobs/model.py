"""From a store to something that can be trained on it: the generator and its objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from arra.data.store import PreparedStore
from arra.data.tokenizer import tokenizer_fingerprint
from arra.errors import InputError, ProvenanceError
from arra.generators.raster import RasterGenerator
from arra.jobs.parts import load_tokenizer
from arra.networks.language_model import load_causal_lm
from arra.objectives.alignment import alignments
from arra.objectives.base import Objective
from arra.objectives.cross_entropy import NextToken, ZLoss
from arra.settings import AlignmentConfig, LlamaSize
from arra.text_to_image import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_generator(
    store: PreparedStore, lm: str | None, size: LlamaSize, seed: int
) -> RasterGenerator:
    """A generator over the store's tokenizer and codes: `lm` extended, or a Llama from scratch.

    Raises `ProvenanceError` when the store was prepared with another tokenizer than that of `lm`,
    `InputError` when `lm` cannot be loaded or is made for shorter sequences.
    """
    tokenizer = store.tokenizer()
    codec = str(store.provenance.settings.codec["fingerprint"])
    longest = _longest(store)
    if lm is None:
        size = replace(size, positions=max(size.positions, longest))
        return RasterGenerator.from_scratch(
            tokenizer, store.vocabulary, store.codes_shape, size, seed=seed, codec=codec
        )
    theirs, recorded = load_tokenizer(lm), store.provenance.settings.tokenizer["fingerprint"]
    if tokenizer_fingerprint(theirs) != recorded:
        raise ProvenanceError(
            f"{store.folder}: its captions were read by another tokenizer than that of {lm}; "
            f"prepare it again with --tokenizer {lm}"
        )
    model = load_language_model(lm)
    _check_positions(model, longest, lm)
    return RasterGenerator.from_language_model(
        model, tokenizer, store.vocabulary, store.codes_shape, seed=seed, codec=codec
    )


def load_language_model(name: str) -> PreTrainedModel:
    """A causal language model by folder or hub name, in float32, from safetensors only."""
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise InputError(f"{name}: no such folder")
    try:
        with quiet_transformers():
            return load_causal_lm(name, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{name}: no causal language model that transformers can load: {first[0]}"
        ) from error


def build_objectives(
    store: PreparedStore,
    generator: RasterGenerator,
    align: Sequence[AlignmentConfig],
    z_loss: float,
    seed: int,
) -> list[Objective]:
    """Cross-entropy, and alignment and z-loss where their weights are not 0.

    Raises `InputError` when the store lacks the features that the alignment needs.
    """
    found: list[Objective] = [NextToken()]
    if z_loss:
        found.append(ZLoss(z_loss))
    shapes = store.provenance.feature_shapes
    try:
        found += alignments(align, shapes, generator.width, store.codes_shape, seed=seed)
    except InputError as error:
        raise InputError(
            f"{store.folder}: {error}. Prepare it with --encoder or --train-encoder (and "
            "--aggregations cls mean patches, whichever are needed), or train with --no-align"
        ) from error
    return found


def _longest(store: PreparedStore) -> int:
    """Positions of the longest sequence: start, text, begin-of-image, codes."""
    h, w = store.codes_shape
    return int(store.text_lengths().max()) + h * w + 2


def _check_positions(model: PreTrainedModel, longest: int, name: str) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise InputError(
            f"{name}: made for {positions} positions, but the longest row of the store needs "
            f"{longest}: caption, control tokens and picture codes. Prepare the store with a "
            "coarser codec (--codec.downsample), a smaller --size or shorter captions"
        )
