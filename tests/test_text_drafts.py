"""Speculative decoding of texts: any causal language model, token for token what it says itself."""

from __future__ import annotations

import pytest
import torch

from arra.errors import InputError
from arra.generators.text import TextStepper
from arra.networks.language_model import load_causal_lm
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.speculative.models import ModelDrafter
from arra.samplers.speculative.ngrams import NgramDrafter
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.trigrams import Trigrams
from arra.settings import SamplingConfig
from lm_kit import ARCHITECTURES, save_language_model, word_tokenizer
from speculative_kit import RandomDrafter

PROMPTS = ["the cat sat on the", "a red bar left of", "hello", "the mat and the cat said hello and"]
NEW = 20
GREEDY = SamplingConfig(guidance=1.0, temperature=0.0)


def stepper_of(name, folder, units=NEW):
    """A random model that says more than one word."""
    tokenizer = word_tokenizer()
    lm = load_causal_lm(save_language_model(folder / name, ARCHITECTURES[name](), tokenizer)).eval()
    with torch.no_grad():
        for p in lm.parameters():
            p.mul_(6.0 if p.ndim == 2 else 1.0)
    return TextStepper(lm, tokenizer, units)


@torch.inference_mode()
def generated(stepper, prompt):
    """What transformers' own greedy loop says."""
    ids = torch.tensor([stepper.prompt_ids(prompt)])
    eos = stepper.end
    found = stepper.lm.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos,
    )[0, ids.shape[1] :].tolist()
    return found + [eos] * (NEW - len(found))


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_greedy_texts_are_those_of_transformers(name, tmp_path):
    """Token by token: without drafts, and with good ones, bad ones, tri-grams and a model's."""
    stepper = stepper_of(name, tmp_path)
    wanted = torch.tensor([generated(stepper, prompt) for prompt in PROMPTS])
    assert len(wanted.unique()) > 2  # models with tied tables repeat themselves
    seeds = list(range(len(PROMPTS)))
    assert torch.equal(AncestralSampler(GREEDY)(stepper, PROMPTS, seeds), wanted)
    drafters = {
        "knows": RandomDrafter(stepper.codes, wanted.tolist()),
        "random": RandomDrafter(stepper.codes),
        "tri-grams": NgramDrafter(Trigrams.counted([wanted.numpy()], stepper.codes)),
        "adapts": NgramDrafter(),
        "itself": ModelDrafter(stepper),
    }
    for kind, drafter in drafters.items():
        sampler = SpeculativeSampler(GREEDY, drafter)
        assert torch.equal(sampler(stepper, PROMPTS, seeds, batch=3), wanted), kind
        if kind in ("knows", "tri-grams", "itself"):
            assert sampler.statistics.units_per_pass > 1.2, kind


def test_sampled_texts_are_those_of_the_plain_loop(tmp_path):
    stepper = stepper_of("llama", tmp_path)
    config, seeds = SamplingConfig(guidance=1.0, temperature=0.9, top_p=0.9), [5, 6, 7, 8]
    plain = AncestralSampler(config)(stepper, PROMPTS, seeds)
    drafter = RandomDrafter(stepper.codes, plain.tolist())
    assert torch.equal(SpeculativeSampler(config, drafter)(stepper, PROMPTS, seeds), plain)
    texts = stepper.text(plain)
    assert len(texts) == len(PROMPTS)
    assert len(set(texts)) > 1


def test_a_text_needs_room_and_a_beginning(tmp_path):
    with pytest.raises(InputError, match="units: 0"):
        stepper_of("llama", tmp_path, units=0)
    stepper = stepper_of("llama", tmp_path)
    assert stepper.prompt_ids(None) == [stepper.tokenizer.bos_token_id]
    bare = TextStepper(stepper.lm, word_tokenizer(bos=False), 3)
    with pytest.raises(InputError, match="no token that begins"):
        bare.prompt_ids(None)
    assert stepper.undraftable(10) == ""
