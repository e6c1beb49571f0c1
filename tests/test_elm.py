"""The claim of ELM: sequences whose law is known, and the rule of the verdict."""

from __future__ import annotations

import math

import pytest
import torch

from arra.networks.grid_llama import divided
from arra.systems.base import ClaimRun
from arra.systems.elm.arms import measure_synthetic
from arra.systems.elm.claim import ARMS, claim, verdict_of
from arra.systems.elm.recipe import KEPT, SPLITS, TIES, tiny
from arra.systems.elm.synthetic import FLIP, Source


@pytest.mark.parametrize(
    ("ties", "entropy", "least"),
    [
        ("free", -8 * (FLIP * math.log2(FLIP) + (1 - FLIP) * math.log2(1 - FLIP)), (0, 0, 0, 0)),
        ("near", 4.0, (0, 0, 0, 4)),
        ("far", 4.0, (0, 4, 4, 4)),
    ],
)
def test_entropies_and_what_a_split_loses(ties, entropy, least):
    source = Source(ties, 0)
    assert source.noise.sum() == pytest.approx(1.0)
    assert source.entropy == pytest.approx(entropy)
    for split, expected in zip(SPLITS, least, strict=True):
        assert source.least_excess(split) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ties", TIES)
def test_sequences_follow_their_law(ties):
    source = Source(ties, 3)
    classes, codes = source.draw(4000, 16, 0)
    law = source.law(classes, codes)
    torch.testing.assert_close(law.sum(-1), torch.ones(4000, 16, dtype=torch.float64))
    chance = law.gather(2, codes[..., None]).squeeze(2)
    assert float(-chance.log2().mean()) == pytest.approx(source.entropy, abs=0.03)
    bits = divided(codes ^ source.table[classes, 0][:, None], 2, 8)[:, 0].bool()
    if ties != "free":  # the first cell follows the table's first column, but for tied noise
        one, other = (bits[:, ::2], bits[:, 1::2]) if ties == "near" else (bits[:, :4], bits[:, 4:])
        assert torch.equal(one, other)
    again = source.draw(4000, 16, 0)
    assert torch.equal(again[1], codes)
    assert not torch.equal(source.draw(4000, 16, 1)[1], codes)


def test_a_model_that_knows_nothing_is_as_far_off_as_it_must(tmp_path):
    """Before it has learnt much a model's law is near the uniform one: 8 bits a cell."""
    for split in (1, 2, 8):
        found = measure_synthetic(tiny(), "far", split, 0, tmp_path, quiet=True)
        assert found["excess"] == pytest.approx(8.0 - 4.0, abs=0.3)
        assert found["variation"] == pytest.approx(1.0 - 16 / 256, abs=0.05)
        assert found["excess"] >= found["least"] - 1e-6


def some_results(missed=0.02, greedy=5.0, few=2.0, halves=1.0, bitwise=3.0):
    """Two seeds in which everything holds by far, but for what is told."""
    found = {"codec": [{}, {}]}
    for ties in TIES:
        for split in SPLITS:
            least = Source(ties, 0).least_excess(split)
            found[ties, split] = [
                {"excess": least + missed * w, "least": least} for w in (1.0, 1.01)
            ]
    for name in ARMS:
        far = {"1 x 8": 1.0, "2 x 4": halves, "8 x 1": bitwise}.get(name, 1.0)
        found[name] = [{"plain": {"class frechet": far * w}} for w in (1.0, 1.01)]
    for number, wobble in enumerate((1.0, 1.02)):
        for kept in KEPT:
            far = {1: greedy, 4: few}.get(kept, 1.0)
            found["1 x 8"][number][f"top {kept}"] = {"class frechet": far * wobble**kept}
    return found


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ({}, "inconclusive"),  # the spread of top-128 here is large
        ({"missed": 0.5}, "fail"),
        ({"halves": 1.5}, "fail"),
        ({"bitwise": 0.5}, "fail"),
    ],
)
def test_the_rule_of_the_verdict(told, verdict):
    assert verdict_of(some_results(**told))[0] == verdict


def test_everything_by_far_is_a_pass():
    found = some_results()
    for result in found["1 x 8"]:
        for kept in KEPT:
            result[f"top {kept}"] = {"class frechet": {1: 5.0, 4: 2.0}.get(kept, 1.0)}
    found["1 x 8"][1]["top 1"] = {"class frechet": 5.1}
    found["1 x 8"][1]["top 4"] = {"class frechet": 2.01}
    found["2 x 4"][1] = {"plain": {"class frechet": 1.0}}
    found["8 x 1"][1] = {"plain": {"class frechet": 3.1}}
    assert verdict_of(found)[0] == "pass"
    one = {name: values[:1] for name, values in found.items()}
    assert verdict_of(one)[0] == "inconclusive"


def test_the_claim_runs(tmp_path):
    found = claim(ClaimRun((0, 1), tmp_path, "tiny", quiet=True))
    names = [measure.name for measure in found.measures]
    assert len(names) == len(set(names))
    assert any("masked" in name for name in names)
