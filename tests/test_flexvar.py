"""The claim of FlexVAR: pixels as codes without loss, the arms, and the rule of the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from arra.experiments.digits import digits, train_judge
from arra.orders.pyramid import Pyramid
from arra.settings import BatchConfig
from arra.systems.flexvar import recipe
from arra.systems.flexvar.arms import schedules_of, train_arm
from arra.systems.flexvar.claim import judged
from arra.systems.flexvar.models import (
    EVERY,
    SCALES,
    decode,
    encode,
    make_generator,
    store_of,
)


@pytest.mark.parametrize("arm", recipe.ARMS)
def test_codes_give_the_digits_back(arm):
    pictures = digits()[1].pictures[:100]
    codes = encode(arm, pictures)
    sizes = SCALES if arm in (recipe.RESIDUAL, recipe.DIRECT) else EVERY
    assert codes.shape[1] == Pyramid(sizes).length
    assert (decode(arm, codes, sizes) == pictures).all()


def test_arms_are_of_one_size_and_see_the_same_rows():
    """And with the same first weights, where they have the same ones."""
    made = {arm: make_generator(arm, recipe.tiny(), 3) for arm in recipe.ARMS}
    blocks = {arm: dict(model.blocks.named_parameters()) for arm, model in made.items()}
    counts = {arm: sum(p.numel() for p in named.values()) for arm, named in blocks.items()}
    assert len(set(counts.values())) == 1
    one, other = made[recipe.FIXED].state_dict(), made[recipe.FLEXIBLE].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    known = digits()[1]
    seen = set()
    for arm, model in made.items():
        batches = model.batches(store_of(arm, known), BatchConfig(8))
        seen.add(tuple(batches._indices(5)))
        sizes = {batches.sizes(step) for step in range(30)} if arm != recipe.RESIDUAL else {SCALES}
        assert (len(sizes) > 3) == (arm == recipe.FLEXIBLE)
    assert len(seen) == 1


def test_unseen_schedules_are_unseen():
    batches = make_generator(recipe.FLEXIBLE, recipe.full(), 0).batches(
        store_of(recipe.FLEXIBLE, digits()[1]), BatchConfig(8)
    )
    trained = {tuple(rows for rows, _ in batches.sizes(step)) for step in range(2000)}
    assert recipe.DEFAULT in trained
    assert not trained & set(recipe.UNSEEN)


def test_an_arm_is_trained_and_judged_in_its_schedules(tmp_path: Path):
    known, held_out = digits()
    judge = train_judge(known, held_out, 0)
    for arm in (recipe.RESIDUAL, recipe.FLEXIBLE):
        found = train_arm(recipe.tiny(), judge, arm, 0, tmp_path, True)
        assert set(found["schedules"]) == {recipe.named(sides) for sides in schedules_of(arm)}
        assert all(r["frechet"] > 0 for r in found["schedules"].values())


def results(direct: float, unseen: float, control: float) -> dict:
    """Two seeds: direct scales so many times as far as residual ones, unseen schedules of the
    flexible model than its default, and those of the control."""

    def arm(default: float, other: float, jitter: float) -> dict:
        names = [recipe.named(sides) for sides in recipe.UNSEEN]
        far = {recipe.named(recipe.DEFAULT): default, **dict.fromkeys(names, other)}
        return {"schedules": {n: {"frechet": f * jitter, "accuracy": 0.8} for n, f in far.items()}}

    return {
        recipe.RESIDUAL: [arm(40.0, 40.0, j) for j in (1.0, 1.1)],
        recipe.DIRECT: [arm(40.0 * direct, 40.0, j) for j in (1.0, 1.101)],
        recipe.FIXED: [arm(40.0, 40.0 * control, j) for j in (1.0, 1.1)],
        recipe.FLEXIBLE: [arm(40.0, 40.0 * unseen, j) for j in (1.0, 1.101)],
    }


@pytest.mark.parametrize(
    ("direct", "unseen", "control", "verdict"),
    [
        (1.0, 1.2, 4.0, "pass"),
        (1.3, 1.2, 4.0, "fail"),  # scales that show the picture do worse
        (1.0, 1.8, 4.0, "fail"),  # unseen schedules lose quality
        (1.0, 1.2, 1.0, "fail"),  # one trained schedule does as well
    ],
)
def test_the_verdict_follows_its_rule(direct, unseen, control, verdict):
    assert judged(results(direct, unseen, control))[0] == verdict


def test_one_seed_says_nothing():
    found = {arm: values[:1] for arm, values in results(1.0, 1.0, 4.0).items()}
    assert judged(found)[0] == "inconclusive"
