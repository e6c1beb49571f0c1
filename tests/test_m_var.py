"""The claim of M-VAR: models of equal parameters, and the rule of the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from arra.experiments import digit_codes
from arra.experiments.digit_codes import SCALES, scale_generator, store_of
from arra.experiments.digits import digits
from arra.metrics.likelihood import held_out_bits
from arra.settings import BatchConfig
from arra.systems.m_var.arms import nats_by_scale, seconds_by_length, size_of
from arra.systems.m_var.claim import judged
from arra.systems.m_var.recipe import ARMS, BOTH, FULL, INTRA, SCAN, full, tiny


@pytest.mark.parametrize("recipe", [full(), tiny()])
def test_arms_are_of_one_size(recipe):
    counts = []
    for mixer in ARMS:
        model = scale_generator(size_of(recipe, mixer), 0)
        assert model.config.size.mixer == mixer
        counts.append(sum(weight.numel() for weight in model.parameters()))
    unit = recipe.size.depth * (2 * recipe.size.width + 1)  # one more feed-forward unit in each
    assert max(counts) - min(counts) <= unit
    assert size_of(recipe, BOTH) == replace(recipe.size, mixer=BOTH)


def test_scales_together_are_the_likelihood():
    model, held_out = scale_generator(tiny().size, 0), digits()[1]
    found = nats_by_scale(model)
    assert np.average(found["scales"], weights=SCALES.counts) == pytest.approx(found["nats"])
    store = store_of(held_out, digit_codes.encode(held_out.pictures))
    batches = model.batches(store, BatchConfig(199, drop_caption=0.0))
    bits = held_out_bits(model, [batches.batch(n) for n in range(3)])
    expected = bits.per_picture * np.log(2) / SCALES.length
    assert found["nats"] == pytest.approx(expected, rel=1e-5)


def test_blocks_are_timed_over_growing_pyramids():
    torch.manual_seed(0)
    found = seconds_by_length(tiny())
    assert {mixer: list(times) for mixer, times in found.items()} == {
        FULL: [5, 21],
        BOTH: [5, 21],
    }


def results(worse, scan, attention):
    """Two seeds: M-VAR so much worse than attention to all scales, and better than its parts."""
    noise = np.array([0.0, 0.0001])
    base = np.array([1.4, 1.5])
    values = {
        FULL: (base - worse, base),
        BOTH: (base + noise, base),
        INTRA: (base + scan - noise, base),
        SCAN: (base, base + attention + noise),
    }
    return {
        arm: [{"nats": n, "scales": [0.0, s]} for n, s in zip(*pair, strict=True)]
        for arm, pair in values.items()
    }


@pytest.mark.parametrize(
    ("worse", "scan", "attention", "verdict"),
    [
        (0.0, 0.01, 0.1, "pass"),
        (0.1, 0.01, 0.1, "fail"),  # attention to coarser scales is missed
        (0.0, -0.01, 0.1, "fail"),  # the scan is dead weight
        (0.0, 0.01, -0.1, "fail"),  # attention is
        (0.03, 0.01, 0.1, "inconclusive"),
        (0.0, 0.0, 0.1, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(worse, scan, attention, verdict):
    assert judged(results(worse, scan, attention))[0] == verdict


def test_one_seed_says_nothing():
    one = {arm: found[:1] for arm, found in results(0.0, 0.01, 0.1).items()}
    assert judged(one)[0] == "inconclusive"
