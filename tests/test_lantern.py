"""LANTERN's claim: codes that are as flat as they should be, who lends, what is measured, and how
it is judged. The rules themselves: `test_speculative_rules`; the drafter: `test_feature_drafts`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arra.codecs.patches import PatchCodec, PatchConfig
from arra.experiments.digits import digits
from arra.pixels import to_unit
from arra.samplers.speculative.observed import Observed
from arra.samplers.speculative.rules import Match, Relaxed, Strict, nearest, output_law
from arra.samplers.speculative.rules import without_replacement as drawn
from arra.samplers.speculative.tapes import enumerated
from arra.systems.lantern.arms import flat_store, lenders, rule_of
from arra.systems.lantern.claim import judged
from arra.systems.lantern.recipe import NEAREST, PLAIN, RANDOM, RECIPES, STRICT, Arm, Recipe
from page_kit import SMALLER, blocks, run_bash, run_python

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def codec():
    return PatchCodec.fit(digits()[0].pictures[:100], PatchConfig(2, 32))


def test_codes_are_any_that_are_near(codec):
    """Within the spread of the nearest, all of them in turn; with no spread the codec's own."""
    known = type(digits()[0])(digits()[0].pictures[:40], digits()[0].labels[:40])
    codes = flat_store(codec, known, 0.6, 0).rows(range(40)).codes
    squares = codec.squares(to_unit(known.pictures)).permute(0, 2, 3, 1)
    far = torch.cdist(squares.flatten(0, 2), codec.table)
    chosen = far.gather(1, codes.flatten()[:, None]).squeeze(1)
    assert bool((chosen <= far.amin(dim=1) + 0.6).all())
    assert not torch.equal(codes, flat_store(codec, known, 0.6, 1).rows(range(40)).codes)
    same = flat_store(codec, known, 0.0, 0).rows(range(40)).codes
    assert torch.equal(same, codec.encode(to_unit(known.pictures)))


def test_who_lends(codec):
    recipe = Recipe(codes=32, neighbours=5)
    near = lenders(recipe, Arm("", NEAREST), codec, 0)
    assert torch.equal(near, nearest(codec.code_vectors(), 5))
    for seed in range(3):
        far = lenders(recipe, Arm("", RANDOM), codec, seed)
        assert far.shape == (32, 5)
        assert not (far == torch.arange(32)[:, None]).any()
        assert all(len(set(row)) == 5 for row in far.tolist())
    assert not torch.equal(far, lenders(recipe, Arm("", RANDOM), codec, 0))
    rule = rule_of(recipe, Arm("", RANDOM, 0.3), codec, 2)
    assert isinstance(rule, Relaxed)
    assert (rule.delta, rule.ratio, rule.residual) == (0.3, None, "paper")
    assert torch.equal(rule.neighbours, far)
    assert type(rule_of(recipe, Arm(STRICT), codec, 0)) is Strict


def laws(seed, size):
    numbers = torch.Generator().manual_seed(seed)
    return torch.randn(2, size, generator=numbers, dtype=torch.float64).softmax(dim=-1)


@pytest.mark.parametrize("guesses", [1, 2])
def test_the_output_law_is_that_of_all_decisions(guesses):
    """The unit's own draw included, which `output_law` does not take both ways."""
    near = nearest(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), 3)
    p, q = laws(1, 5)
    for rule in (Match(), Strict(), Relaxed(near, 0.3), Relaxed(near, ratio=2.0)):

        def run(tape, rule=rule):
            return rule.decide(p, q, drawn(q, guesses, tape), tape, 0)[1]

        wanted = torch.zeros_like(p)
        for code, chance in enumerated(run).items():
            wanted[code] = chance
        torch.testing.assert_close(output_law(rule, p, q, guesses), wanted, rtol=0, atol=1e-12)
        tried, wanted = [3, 0][:guesses], torch.zeros_like(p)
        decided = enumerated(lambda tape, r=rule, g=tried: r.decide(p, None, g, tape, 0)[1])
        for code, chance in decided.items():
            wanted[code] = chance
        torch.testing.assert_close(output_law(rule, p, None, tried), wanted, rtol=0, atol=1e-12)


def test_every_so_many_decisions_are_looked_at():
    """The mean of exact distances, 0 where nothing was guessed; decisions are the rule's."""
    near = nearest(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), 4)
    rule, pairs = Relaxed(near, 0.4), [laws(seed, 6) for seed in range(6)]
    observed = Observed(rule, 2, drawn=True)

    def decide(one, tape):
        return [
            one.decide(p, q, [n % 6] if n < 4 else [], tape, n)[1] for n, (p, q) in enumerate(pairs)
        ]

    class First:
        """Always the first possible way."""

        def accept(self, probability):
            return probability == 1.0

        def choose(self, law, unit):
            return int(law.argmax())

    assert decide(observed, First()) == decide(rule, First())
    apart = [0.5 * float((output_law(rule, *pairs[n]) - pairs[n][0]).abs().sum()) for n in (0, 2)]
    assert observed.variation() == pytest.approx((apart[0] + apart[1] + 0.0) / 3, abs=1e-9)
    given = Observed(rule, 4, drawn=False)
    given.decide(pairs[0][0], None, [1, 3], First(), 0)
    law = output_law(rule, pairs[0][0], None, [1, 3])
    assert given.variation() == pytest.approx(0.5 * float((law - pairs[0][0]).abs().sum()))
    assert given.variation() > 0.01
    strict = Observed(Strict(), 1, drawn=True)
    decide(strict, First())
    assert strict.variation() < 1e-12


def result(near, strict=2.0, lost=0.0, added=1.0, control=3.0):
    """Of one seed, with what counts for the verdict."""
    return {
        STRICT: {"units per pass": strict, "accuracy": 0.9, "frechet": 5.0},
        NEAREST: {"units per pass": near, "accuracy": 0.9 - lost, "frechet": 5.0 + added},
        RANDOM: {"units per pass": near, "accuracy": 0.8, "frechet": 5.0 + control},
    }


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"near": 2.8}, "pass"),
        ({"near": 2.5}, "inconclusive"),
        ({"near": 2.1}, "fail"),
        ({"near": 2.8, "lost": 0.05}, "inconclusive"),
        ({"near": 2.8, "control": 1.5}, "inconclusive"),
        ({"near": 2.8, "control": 1.0}, "fail"),
        ({"near": 2.8, "added": -0.5, "control": 0.5}, "pass"),
    ],
)
def test_the_verdict(given, verdict):
    assert judged([result(**given)] * 3)[0] == verdict
    assert judged([result(**given)])[0] == "inconclusive"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    """Its commands and its Python, only smaller."""
    monkeypatch.chdir(tmp_path)
    changes = {
        **SMALLER,
        "draft": {"--steps": "3", "--precision": "fp32", "--batch.size": "8"},
        "prepare": {**SMALLER["prepare"], "--codec.vocabulary": "128"},
    }
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        for language, block in blocks((DOCS / "lantern.md").read_text(encoding="utf-8")):
            if language == "bash":
                run_bash(block, changes=changes, scenes=100)
            else:
                run_python(block, names, ((r"steps=500", "steps=2"),), "lantern")
    assert names["codes"].shape == (4, names["model"].generator.units)
    same, plain = (list((tmp_path / name).glob("a-red*.png")) for name in ("same", "fast"))
    assert len(same) == len(plain) == 2


def test_arms_are_told_apart():
    for make in RECIPES.values():
        names = [PLAIN, *(arm.name for arm in make().arms)]
        assert len(set(names)) == len(names)
        assert make().arms[0] == Arm(STRICT)
