"""Which learning rate each arm of the claim takes: all try the same, with another seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from arra.experiments.parallel import Job, run_jobs
from arra.systems.jpeg_lm.arms import make_judge, train_arm
from arra.systems.jpeg_lm.recipe import ARMS, RATES, Recipe

SEED = 100
"""No seed of the claim."""


def tune(recipe: Recipe, steps: int, folder: Path, quiet: bool = True) -> dict[str, dict[str, Any]]:
    """Arm -> learning rate -> what `train_arm` measured after `steps`.

    Take the rate with the fewest bits of a held-out picture: of one codec, they tell rates apart
    better than a distance does, and the claim does not rest on them.
    """
    train = replace(recipe.train, steps=steps, checkpoint_every=steps)
    short = replace(recipe, train=train, drawn=100)
    judge = make_judge(recipe)
    tried = [(arm, rate) for arm in ARMS for rate in RATES]
    jobs = [
        Job(
            f"{arm}, learning rate {rate}",
            train_arm,
            {
                "recipe": replace(short, rates={**recipe.rates, arm: rate}),
                "judge": judge,
                "arm": arm,
                "seed": SEED,
                "folder": folder / f"{rate}",
                "quiet": quiet,
            },
        )
        for arm, rate in tried
    ]
    found: dict[str, dict[str, Any]] = {arm: {} for arm in ARMS}
    for (arm, rate), result in zip(tried, run_jobs(jobs, quiet=quiet), strict=True):
        found[arm][f"{rate}"] = result
    return found
