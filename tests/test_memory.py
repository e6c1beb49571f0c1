"""The calculator of memory agrees with torch's own accounting of a real step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from arra.errors import InputError
from arra.experiments.memory import SIZES, Plan, estimate
from arra.networks.language_model import checkpointed_activations
from arra.precision import autocast

PLAN = Plan(
    width=256, depth=4, heads=4, feed_forward=704, vocabulary=2000, rows=4, length=128, bf16=False
)


def measured(plan):
    """Bytes at the peak of the second step, as torch's tracker of allocations counts them."""
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=plan.vocabulary,
            hidden_size=plan.width,
            intermediate_size=plan.feed_forward,
            num_hidden_layers=plan.depth,
            num_attention_heads=plan.heads,
        )
    )
    optimizer = torch.optim.AdamW(lm.train().parameters(), fused=True)
    tokens = torch.randint(plan.vocabulary, (plan.rows, plan.length))
    tracker, cpu = MemTracker(), torch.device("cpu")
    tracker.track_external(lm, optimizer)
    less = checkpointed_activations(lm) if plan.activation_checkpointing else nullcontext()
    with less, tracker:
        for _ in range(2):
            with autocast(cpu, plan.bf16):
                logits = lm.lm_head(lm.model(input_ids=tokens, use_cache=False).last_hidden_state)
            cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
            del logits
            optimizer.step()
            optimizer.zero_grad()
            tracker.reset_mod_stats()
    return tracker.get_tracker_snapshot("peak")[cpu]["Total"]


@pytest.mark.parametrize("bf16", [False, True])
def test_the_peak_is_within_five_percent_of_what_torch_counts(bf16):
    whole = replace(PLAN, bf16=bf16)
    less = replace(whole, activation_checkpointing=True)
    for plan in (whole, less):
        assert estimate(plan).peak == pytest.approx(measured(plan), rel=0.05)


def test_what_is_known_without_measuring():
    width, depth, heads, feed_forward, vocabulary = SIZES["7B"]
    big = Plan(width, depth, heads, feed_forward, vocabulary, rows=1, length=64)
    full, lora = estimate(big), estimate(replace(big, lora_rank=16))
    llama = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
    assert full.parameters == full.trained == llama + 2 * vocabulary * 4096
    adapters = 32 * 16 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert lora.trained == adapters + 2 * 16384 * 4096
    assert lora.weights == 2 * full.parameters + 4 * lora.trained
    assert full.optimizer == 8 * full.trained == 2 * full.gradients
    eight = estimate(replace(big, processes=8, activation_checkpointing=True))
    assert eight.weights == full.weights / 8
    with pytest.raises(InputError, match="heads that divide the width"):
        Plan(width=10, heads=3)
