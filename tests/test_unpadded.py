"""The training pass on real positions alone equals the language model's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lm_kit import ARCHITECTURES, CODES, SHAPE, word_tokenizer
from transformers import LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from arra.generators.base import Batch
from arra.generators.batches import collate, sequence, text_sample
from arra.generators.raster import RasterGenerator
from arra.networks.language_model import (
    causal_lm_of,
    checkpointed_activations,
    compile_blocks,
    hidden_states,
)
from arra.networks.unpadded import SHORT, Heads, Places
from arra.networks.unpadded_decoder import UnpaddedDecoder
from arra.settings import AdapterConfig

SHARED = {**SHAPE, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
LIKE_LLAMA: dict[str, Any] = {
    "llama": LlamaConfig(**{**SHARED, "num_key_value_heads": 4}, tie_word_embeddings=True),
    "biases": LlamaConfig(**SHARED, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SHARED),
    "qwen3": Qwen3Config(**SHARED, head_dim=16),
}


def made(config: Any) -> RasterGenerator:
    """A generator of noisy weights: norms and biases, too, so that none goes unnoticed."""
    torch.manual_seed(0)
    lm = causal_lm_of(config.to_dict())
    generator = RasterGenerator.from_language_model(lm, word_tokenizer(), CODES, (4, 4))
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return generator.train()


def batch(generator: RasterGenerator, layout: Any = "right") -> Batch:
    """Captions of different lengths, and a piece of plain text."""
    vocabulary = generator.config.vocabulary
    numbers = torch.Generator().manual_seed(1)
    codes = torch.randint(CODES, (3, 16), generator=numbers).tolist()
    texts = ([4, 5, 6, 7, 8, 9, 10], [], [5, 4])
    samples = [sequence(t, c, vocabulary, True) for t, c in zip(texts, codes, strict=True)]
    samples.append(text_sample([9, 8, 7, 6], vocabulary))
    return collate(samples, {}, vocabulary.pad, layout, packed_length=48)


def results(
    generator: RasterGenerator, given: Batch, plain: bool = False
) -> tuple[list[torch.Tensor], bool]:
    """Losses, states of real positions and gradients; and whether the model's own pass ran."""
    generator.zero_grad()
    ran = False

    def note(*_: Any) -> None:
        nonlocal ran
        ran = True

    hook = generator.lm.get_decoder().register_forward_hook(note)
    block = generator.decoder_blocks()[0].register_forward_hook(lambda *_: None) if plain else None
    output = generator(given, [1, 2])
    hook.remove()
    if block is not None:
        block.remove()
    normaliser, chosen = output.scores
    states = [output.hidden[layer][given.segment >= 0] for layer in (1, 2)]
    loss = (normaliser - chosen).mean() + 1e-2 * normaliser.square().mean()
    for state in states:  # as an objective on states would
        loss = loss + (state * torch.arange(state.numel()).view_as(state).sin()).mean()
    loss.backward()
    gradients = [p.grad for p in generator.parameters() if p.grad is not None]
    return [normaliser, chosen, output.targets, *states, *gradients], ran


def agree(one: list[torch.Tensor], other: list[torch.Tensor], tolerance: float = 2e-5) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        far = (a.double() - b.double()).norm()
        assert far <= tolerance * (b.double().norm() + 1e-3), (a.shape, far)


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("name", LIKE_LLAMA)
def test_losses_states_and_gradients_are_those_of_the_model(name, layout):
    generator = made(LIKE_LLAMA[name])
    given = batch(generator, layout)
    (fast, ran), (slow, really) = results(generator, given), results(generator, given, plain=True)
    assert really and not ran
    agree(fast, slow)
