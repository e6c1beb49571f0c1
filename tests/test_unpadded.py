"""The training pass on real positions alone equals the language model's own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from arra.generators.base import Batch, Output
from arra.generators.batches import collate, sequence, text_sample
from arra.generators.raster import RasterGenerator
from arra.networks.language_model import (
    causal_lm_of,
    checkpointed_activations,
)
from arra.networks.unpadded import Heads, Places
from arra.networks.unpadded_decoder import UnpaddedDecoder
from arra.objectives.laws import NextToken, ZLoss
from arra.settings import AdapterConfig
from lm_kit import ARCHITECTURES, CODES, SHAPE, word_tokenizer

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
    assert really
    assert not ran
    agree(fast, slow)


def test_long_samples_go_through_torchs_attention(monkeypatch):
    generator = made(LIKE_LLAMA["qwen3"])
    given = batch(generator, "packed")
    short, _ = results(generator, given)
    monkeypatch.setattr("arra.networks.unpadded.SHORT", 4)
    long, _ = results(generator, given)
    assert not torch.equal(short[0], long[0])  # another way
    agree(short, long)


def test_in_bf16_the_losses_are_the_models_within_its_rounding():
    generator = made(LIKE_LLAMA["llama"])
    given = batch(generator)
    exact, _ = results(generator, given)
    with torch.autocast("cpu", torch.bfloat16):
        fast, ran = results(generator, given)
        slow, _ = results(generator, given, plain=True)
    assert not ran
    for truth, mine, models in zip(exact[:2], fast[:2], slow[:2], strict=True):
        assert 0 < (mine - truth).norm() < 1.5 * (models - truth).norm()


def test_compiled_blocks_compute_the_same_for_batches_of_any_shape(monkeypatch):
    # traced as it always is, but without the minute of C++ that follows
    compile_ = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compile_)
    generator = made(LIKE_LLAMA["biases"])
    given = [batch(generator, layout) for layout in ("right", "packed")]
    plain = [results(generator, one)[0] for one in given]
    generator.compile_blocks()
    for one, expected in zip(given, plain, strict=True):
        fast, ran = results(generator, one)
        assert not ran
        agree(fast, expected)


def _dropout(generator: RasterGenerator) -> None:
    generator.decoder_blocks()[1].self_attn.attention_dropout = 0.1


def _adapter(generator: RasterGenerator) -> None:
    generator.adapt(AdapterConfig(kind="lora", rank=2), base="", rows="mean", seed=0)


def _hook(generator: RasterGenerator) -> None:
    generator.decoder_blocks()[1].register_forward_hook(lambda *_: None)


def _window(generator: RasterGenerator) -> None:
    generator.decoder_blocks()[1].self_attn.sliding_window = 8


def _half(generator: RasterGenerator) -> None:
    generator.lm.to(torch.bfloat16)


@pytest.mark.parametrize("change", [_dropout, _adapter, _hook, _window, _half])
def test_whatever_is_not_plain_goes_the_models_own_way(change):
    generator = made(LIKE_LLAMA["qwen3"])
    assert UnpaddedDecoder.of(generator.lm) is not None
    change(generator)
    assert UnpaddedDecoder.of(generator.lm) is None
    assert results(generator, batch(generator))[1]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "gemma3"])
def test_other_architectures_are_not_touched(name):
    config = ARCHITECTURES[name]()
    assert UnpaddedDecoder.of(causal_lm_of(config.to_dict())) is None


def test_checkpointed_activations_and_evaluation_go_the_models_own_way():
    generator = made(LIKE_LLAMA["llama"])
    given = batch(generator)
    expected, _ = results(generator, given, plain=True)
    with checkpointed_activations(generator.lm):
        found, ran = results(generator, given)
    assert ran
    agree(found, expected, 0)
    assert results(generator.eval(), given)[1]


def test_places_and_heads_are_those_of_a_loop():
    segment = torch.tensor([[1, 1, 1, -1, -1], [-1, 0, 0, 2, -1]])
    position = torch.tensor([[0, 1, 2, 0, 0], [0, 0, 1, 0, 0]])
    places = Places.of(segment, position)
    heads = Heads(places, 4, 2)
    stored = torch.arange(6 * 8).view(6, 8)  # 4 queries, 2 keys, 2 values of each position
    rows = stored.flatten()[heads.gather].view(3, *heads.shape)
    back = rows.flatten()[heads.inverse].view(6, 3, 4)
    for number, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]):
        sample, own = segment[row, column], position[row, column]
        assert places.flat[number] == row * 5 + column
        for head in range(4):
            shared = [head, 4 + head // 2, 6 + head // 2]
            expected = stored[number][shared]
            assert torch.equal(rows[:, sample, head, own], expected)
            assert torch.equal(back[number, :, head], expected)


def test_scores_and_their_gradient_are_those_of_the_log_softmax():
    numbers = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 30, generator=numbers)).requires_grad_()
    targets = torch.randint(30, (7,), generator=numbers)
    output = Output(logits, targets, {})
    batch = SimpleNamespace(source=None)  # all that these objectives ask of it
    loss = NextToken()(output, batch) + 0.1 * ZLoss()(output, batch)
    expected = F.cross_entropy(logits, targets) + 0.1 * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(loss, expected)
    mine, theirs = (torch.autograd.grad(x, logits)[0] for x in (loss, expected))
    torch.testing.assert_close(mine, theirs)
