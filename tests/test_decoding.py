"""Decoders of our own: the tokens of the plain path, and bits that do not depend on company."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from arra.errors import InputError
from arra.generators.fast import FastStepper, NativeStepper, decoding
from arra.generators.raster import RasterGenerator
from arra.guidance import guide
from arra.networks.decoding import building
from arra.networks.decoding.eager import EagerDecoder
from arra.networks.decoding.llama import Llama, Unsupported, llama_of, quantised, unsupported
from arra.networks.decoding.native import NativeDecoder
from arra.networks.language_model import causal_lm_of
from arra.orders.trees import Trees
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.logits import law
from arra.samplers.noise import PictureNoise, draw
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.models import ModelDrafter
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.settings import AdapterConfig, SamplingConfig
from lm_kit import ARCHITECTURES, CAPTIONS, PADDED, SHAPE, word_tokenizer
from speculative_kit import RandomDrafter

TWO_HEADED = {**SHAPE, "vocab_size": PADDED, "num_key_value_heads": 1}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
DECODED = {
    "llama": LlamaConfig(**TWO_HEADED, attention_bias=True, mlp_bias=True),
    "llama, whole heads, tied": LlamaConfig(
        **{**TWO_HEADED, "num_key_value_heads": 2, "intermediate_size": 70},
        tie_word_embeddings=True,
        rope_parameters=LLAMA_3,
    ),
    "mistral": MistralConfig(**TWO_HEADED),
    "qwen2": Qwen2Config(**TWO_HEADED),
    "qwen3": Qwen3Config(**TWO_HEADED, head_dim=32, tie_word_embeddings=True),
    "gemma": GemmaConfig(**TWO_HEADED, head_dim=16),
}
TEXTS = [CAPTIONS[0], CAPTIONS[2], None, CAPTIONS[1], CAPTIONS[0]]
SEEDS = [3, 4, 5, 6, 7]


def generator_of(config, spread: float = 8.0) -> RasterGenerator:
    """A random model whose laws depend visibly on caption and history."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = causal_lm_of(config.to_dict()).eval()
        with torch.no_grad():
            for parameter in lm.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(spread)
                else:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    made = RasterGenerator.from_language_model
    return made(lm, word_tokenizer(), 16, (3, 3), rows="random").eval()


@pytest.fixture(scope="module")
def generators():
    return {name: generator_of(config) for name, config in DECODED.items()}


def llama(generator: RasterGenerator) -> Llama:
    vocabulary = generator.config.vocabulary
    return llama_of(generator.lm, vocabulary.offset, vocabulary.codes)


def steppers(generator: RasterGenerator) -> list[FastStepper]:
    parts = llama(generator)
    return [
        NativeStepper(generator, NativeDecoder(parts, "fp32", 64)),
        FastStepper(generator, EagerDecoder(parts, "fp32", 64)),
    ]


@pytest.mark.parametrize("name", DECODED)
def test_the_logits_are_those_of_the_plain_path(generators, name):
    generator = generators[name]
    prompts = [generator.prompt_ids(text) for text in TEXTS]
    codes = torch.randint(16, (9, 5), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, cache = generator.prefill(prompts)
        kept = [(s, *s.prefill(prompts)) for s in steppers(generator)]
        assert expected.std() > 0.3
        for unit in codes:
            for _, got, _ in kept:
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            expected = generator.step(unit, cache)
            kept = [(s, s.step(unit, mine), mine) for s, _, mine in kept]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(guidance=3.0),
        SamplingConfig(guidance=1.0, temperature=0.7),
        SamplingConfig(guidance=2.0, guidance_schedule="linear", temperature=0.0),
        SamplingConfig(guidance=2.0, guidance_until=0.5, top_k=5, top_p=0.9),
    ],
    ids=["guided", "unguided", "best", "filtered"],
)
@pytest.mark.parametrize("name", DECODED)
def test_the_tokens_are_those_of_the_plain_path(generators, name, sampling):
    generator, sampler = generators[name], AncestralSampler(sampling)
    plain = sampler(generator, TEXTS, SEEDS)
    assert len(plain.unique(dim=0)) > 1
    for stepper in steppers(generator):
        for batch in (1, 2, 5):
            assert torch.equal(sampler(stepper, TEXTS, SEEDS, batch=batch), plain)
        given = (plain[:, :4] + 1) % 16
        after = sampler(generator, TEXTS, SEEDS, prefix=given)
        assert torch.equal(sampler(stepper, TEXTS, SEEDS, prefix=given), after)


@pytest.mark.parametrize("name", DECODED)
@torch.inference_mode()
def test_trees_are_those_of_the_plain_path(generators, name):
    """Logits and states at every node, and after rows kept other paths, lost a row and took back
    what they had read, time and again, beyond the room that there was at first."""
    generator = generators[name]
    random = torch.Generator().manual_seed(0)
    expected, cache = generator.prefill([generator.prompt_ids(text) for text in TEXTS])
    others = [
        (s, s.prefill([s.prompt_ids(text) for text in TEXTS])[1]) for s in steppers(generator)
    ]
    for _, mine in others:
        torch.testing.assert_close(mine.state, cache.state, rtol=1e-4, atol=1e-4)
    caches = [cache, *(mine for _, mine in others)]
    for turn, longest in enumerate((7, 12, 1, 17)):
        parents = [
            [int(torch.randint(-1, max(n, 1), (), generator=random)) if n else -1 for n in range(m)]
            for m in (longest, *range(1, cache.rows))
        ]
        trees = Trees.of(parents)
        codes = torch.randint(16, trees.real.shape, generator=random)
        expected, states = generator.step_tree(codes, trees, cache)
        kept = torch.zeros_like(trees.real)
        for row, own in enumerate(parents):
            node = int(torch.randint(len(own), (), generator=random))
            kept[row, node] = row != 1 or turn != 1  # once a row keeps nothing
            while (node := own[node]) >= 0:
                kept[row, node] = kept[row].any()
        for stepper, mine in others:
            got, read = stepper.step_tree(codes, trees, mine)
            torch.testing.assert_close(got[trees.real], expected[trees.real], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(read[trees.real], states[trees.real], rtol=1e-4, atol=1e-4)
        rows = torch.tensor([0, *range(2, cache.rows)])  # the second one is finished
        after = codes[rows, 0]
        found = []
        for one, mine in zip([generator, *(s for s, _ in others)], caches, strict=True):
            mine.keep(kept)
            one.step(codes[:, 0], mine)
            mine.take_back(torch.ones(mine.rows, dtype=torch.int64))
            mine.gather(rows)
            found.append(one.step(after, mine))
        for got in found[1:]:
            torch.testing.assert_close(got, found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_drafts_are_judged_by_any_decoder(generators, name):
    """Speculative decoding draws the plain tokens with each, and with a model that drafts."""
    generator, config = generators[name], SamplingConfig(guidance=2.0, temperature=0.8)
    plain = AncestralSampler(config)(generator, TEXTS, SEEDS)
    for stepper in steppers(generator):
        for batch in (1, 5):
            drafter = RandomDrafter(generator.codes, plain.tolist())
            sampler = SpeculativeSampler(config, drafter)
            assert torch.equal(sampler(stepper, TEXTS, SEEDS, batch=batch), plain)
            assert batch == 1 or sampler.statistics.units_per_pass > 1.2
        small = SpeculativeSampler(SamplingConfig(temperature=0.0), ModelDrafter(stepper))
        small(stepper, TEXTS, SEEDS)  # it drafts for itself, and so always knows
        assert small.statistics.accepted == small.statistics.drafted > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_native_bits_do_not_depend_on_company(generators, name, precision):
    """Batched = alone, cached = read at once, one thread = two: to the last bit."""
    generator = generators[name]
    decoder = NativeDecoder(llama(generator), precision, 64)
    vocabulary = generator.config.vocabulary
    rows = [generator.prompt_ids(text) for text in TEXTS * 4]
    codes = torch.randint(16, (9, len(rows)), generator=torch.Generator().manual_seed(1))
    before, cache = decoder.prefill(rows, 32)
    together = [before, *(decoder.step(unit + vocabulary.offset, cache) for unit in codes)]
    for row in range(len(TEXTS)):
        own = [int(unit[row]) + vocabulary.offset for unit in codes]
        threads = torch.get_num_threads()
        torch.set_num_threads(2 if row == 0 else 1)
        try:
            whole, _ = decoder.prefill([rows[row] + own], 32)
            logits, alone = decoder.prefill([rows[row]], 32)
            steps = [logits, *(decoder.step(torch.tensor([code]), alone) for code in own)]
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(steps, together, strict=True))
        assert torch.equal(whole[0], steps[-1][0])


def test_long_prompts_are_read_in_parts(generators):
    generator = generators["llama"]
    prompts = [list(range(3, 18)) * (1 + i) for i in range(1, 9)]  # 660 tokens
    decoder = NativeDecoder(llama(generator), "fp32", 256)
    with torch.inference_mode():
        expected, _ = generator.prefill(prompts)
    got, cache = decoder.prefill(prompts, 150)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert cache.position.tolist() == [len(p) for p in prompts]


@pytest.mark.parametrize("kind", [NativeDecoder, EagerDecoder])
def test_int8_is_the_model_with_rounded_weights(generators, kind):
    """Against the plain model whose matrices are the int8 ones times their scales."""
    parts = llama(generators["qwen2"])

    def rounded(weights):
        whole, scale = quantised(weights.weight)
        assert whole.abs().max() == 127
        assert ((whole * scale[:, None] - weights.weight).abs() <= scale[:, None] * 0.501).all()
        return replace(weights, weight=whole * scale[:, None])

    names = ("qkv", "out", "gate", "up", "down")
    blocks = [replace(b, **{n: rounded(getattr(b, n)) for n in names}) for b in parts.blocks]
    told = replace(parts, blocks=tuple(blocks), head=rounded(parts.head))
    prompts = [generators["qwen2"].prompt_ids(text) for text in TEXTS]
    exact, _ = kind(told, "fp32", 64).prefill(prompts, 32)
    got, _ = kind(parts, "int8", 64).prefill(prompts, 32)
    other, _ = kind(parts, "fp32", 64).prefill(prompts, 32)
    # what remains is the rounding of activations to bf16, 8 bits
    assert (got - exact).std() < 0.02 * exact.std()
    assert (got - exact).std() < (other - exact).std()


def test_a_draw_in_one_call_is_the_sampler_s(generators):
    decoder = NativeDecoder(llama(generators["llama"]), "fp32", 64)
    decoder.codes = 1003
    rng = torch.Generator().manual_seed(0)
    for config in (
        SamplingConfig(guidance=2.0),
        SamplingConfig(guidance=4.0, temperature=0.0),
        SamplingConfig(guidance=1.0, temperature=0.3),
        SamplingConfig(guidance=2.0, top_k=40),
        SamplingConfig(guidance=1.0, top_p=0.8),
        SamplingConfig(guidance=3.0, top_p=0.95, top_k=200, temperature=1.7),
    ):
        logits = torch.randn(400 if config.guided else 200, 1003, generator=rng) * 2
        race = PictureNoise(range(200)).exponential(1003, torch.device("cpu"))
        mixed = guide(*logits.chunk(2), config.guidance) if config.guided else logits
        expected = draw(law(mixed, config), race)
        assert torch.equal(decoder.choose(logits, config.guidance, config, race), expected)


def test_a_compiled_step_gives_the_same_tokens():
    parts = generator_of(LlamaConfig(**{**TWO_HEADED, "num_hidden_layers": 1}))
    stepper = FastStepper(parts, EagerDecoder(llama(parts), "fp32", 64, compile=True))
    sampler = AncestralSampler(SamplingConfig(guidance=2.0))
    plain = sampler(parts, TEXTS, SEEDS)
    assert torch.equal(sampler(stepper, TEXTS, SEEDS), plain)
    drafting = SpeculativeSampler(
        sampler.config, RandomDrafter(parts.codes, plain.tolist()), budget=Budget(3, 3)
    )
    assert torch.equal(drafting(stepper, TEXTS, SEEDS), plain)


# ---- which one draws ---------------------------------------------------------------------------


def test_the_decoder_follows_the_weights(generators):
    generator = generator_of(DECODED["llama"])
    first = decoding(generator, 9, decoder="fast")
    assert first.kind == "native"
    assert decoding(generator, 9, decoder="fast").stepper.decoder is first.stepper.decoder
    sampler = AncestralSampler(SamplingConfig())
    with torch.no_grad():
        generator.lm.model.layers[1].mlp.up_proj.weight.mul_(-1)
    again = decoding(generator, 9, decoder="fast").stepper
    assert torch.equal(sampler(again, TEXTS, SEEDS), sampler(generator, TEXTS, SEEDS))
    assert not torch.equal(sampler(again, TEXTS, SEEDS), sampler(first.stepper, TEXTS, SEEDS))
    generator.lm.model.norm.weight.data.mul_(2)  # unseen by the version counter
    assert decoding(generator, 9, decoder="fast").stepper.decoder is not again.decoder


@pytest.mark.parametrize(("name", "word"), [("gpt2", "gpt2"), ("gemma2", "gemma2")])
def test_other_models_are_drawn_by_their_own_forward(name, word):
    generator = generator_of(ARCHITECTURES[name]())
    way = decoding(generator, 10**6)
    assert (way.kind, way.stepper) == ("plain", generator)
    assert word in way.reason
    with pytest.raises(InputError, match=word):
        decoding(generator, 9, precision="int8")
    with pytest.raises(InputError, match=word):
        decoding(generator, 9, decoder="fast")


def test_what_is_not_decoded_says_why():
    sliding = generator_of(MistralConfig(**TWO_HEADED, sliding_window=12))
    assert unsupported(sliding.lm, 12) is None
    assert "12" in decoding(sliding, 9, prompt=4).reason
    dynamic = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
    stretched = generator_of(LlamaConfig(**TWO_HEADED, rope_parameters=dynamic))
    assert "dynamic" in decoding(stretched, 9).reason
    adapted = generator_of(DECODED["llama"])
    adapted.adapt(AdapterConfig("lora"), base="nowhere", rows="mean", seed=0)
    assert "adapter" in decoding(adapted, 9).reason
    half = generator_of(DECODED["llama"])
    half.lm.bfloat16()
    assert "bfloat16" in decoding(half, 9).reason
    assert decoding(half, 9, precision="bf16").kind == "native"
    assert "wished" in decoding(sliding, 9, decoder="plain").reason


def test_without_a_compiler_torch_serves(generators, monkeypatch, tmp_path):
    generator = generators["qwen3"]
    monkeypatch.setenv("ARRA_CACHE", str(tmp_path))
    building._target.cache_clear()
    try:
        assert "do not pay" in decoding(generator, 9).reason  # nothing is built for nine units
        assert not list(tmp_path.iterdir())
        monkeypatch.setenv("ARRA_NATIVE", "0")
        way = decoding(generator, 10**6)
        assert (way.kind, "compiler" in way.reason) == ("eager", True)
        monkeypatch.setenv("ARRA_NATIVE", "1")
        monkeypatch.setattr(building, "FLAGS", ("--no-such-option",))
        building._target.cache_clear()
        building._library.cache_clear()
        with pytest.raises(Unsupported, match="could not build"):
            building.library()
        assert not list(tmp_path.glob("*.so"))
    finally:
        building._library.cache_clear()
        building._target.cache_clear()
