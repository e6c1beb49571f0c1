"""The claim: with equal model, data and steps, alignment makes better pictures, free at inference.

Three arms over paired seeds (equal initial weights, data order, dropped captions and sampling
noise): next-token prediction alone, with HYBNEXT alignment, and, as the control, aligned to the
features of another picture. The primary measure is the held-out cross-entropy, the least noisy one
on a shared codec; it is measured without the alignment loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from arra.experiments.arms import Arm, arm_job
from arra.experiments.bench import Bench, build_bench
from arra.experiments.parallel import run_jobs
from arra.experiments.timing import median_ratio, step_seconds
from arra.files import to_plain
from arra.metrics.bootstrap import PairedDifference, paired_difference
from arra.systems.arra.recipe import ALIGNED, BASELINE, CLAIM_STEPS, RECIPES, SHUFFLED, Recipe
from arra.systems.base import ClaimRun
from arra.systems.results import ClaimResult, Estimate, Measure, Verdict

ARMS = (BASELINE, ALIGNED, SHUFFLED)
Result = dict[str, Any]
Reading = Callable[[Result], float]

MEASURES: tuple[tuple[str, str, Reading], ...] = (
    ("held-out bits per token, new combinations", "lower", lambda r: r["bits"]["heldout"]["value"]),
    ("held-out bits per token, seen combinations", "lower", lambda r: r["bits"]["seen"]["value"]),
    ("prompts right in everything", "higher", lambda r: r["prompt_accuracy"]["all"]["value"]),
    ("digits right", "higher", lambda r: r["prompt_accuracy"]["digit"]["value"]),
    ("inks right", "higher", lambda r: r["prompt_accuracy"]["colour"]["value"]),
    ("relations right", "higher", lambda r: r["prompt_accuracy"]["relation"]["value"]),
    ("Fréchet distance to real scenes", "lower", lambda r: r["frechet"]["value"]),
)


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms with all seeds; the verdict rests on paired differences."""
    recipe = RECIPES[run.budget]()
    if run.budget == "full":
        recipe = replace(
            recipe,
            plan=replace(recipe.plan, train=replace(recipe.plan.train, steps=CLAIM_STEPS)),
        )
    bench = build_bench(recipe.bench, run.folder / "bench", quiet=run.quiet)
    results = _run_all(bench, recipe, run)
    measures = [_measure(name, better, read, results) for name, better, read in MEASURES]
    differences = {}
    if len(run.seeds) > 1:
        for name, _, read in MEASURES[:4]:
            helped = _paired(read, results, "aligned", "baseline")
            control = _paired(read, results, "shuffled", "baseline")
            differences[name] = helped
            measures.append(
                Measure(f"paired difference, {name}", _interval(helped), None, _interval(control))
            )
    measures.append(_cost(bench, recipe, 20 if run.budget == "full" else 3))
    verdict, statement = _verdict(results, differences)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(measures),
        scale=_scale(recipe, results),
        settings=to_plain(recipe),
    )


def _run_all(bench: Bench, recipe: Recipe, run: ClaimRun) -> dict[str, list[Result]]:
    """arm -> results in the order of the seeds."""
    pairs = [(seed, arm) for seed in run.seeds for arm in ARMS]
    jobs = [
        arm_job(
            f"{arm.name}, seed {seed}",
            bench,
            arm,
            recipe.plan,
            recipe.judge,
            seed,
            run.folder / f"seed-{seed}" / arm.name,
        )
        for seed, arm in pairs
    ]
    found: dict[str, list[Result]] = {arm.name: [] for arm in ARMS}
    for (_, arm), result in zip(pairs, run_jobs(jobs, quiet=run.quiet), strict=True):
        found[arm.name].append(result)
    return found


def _measure(name: str, better: Any, read: Reading, results: dict[str, list[Result]]) -> Measure:
    values = {arm: _over_seeds([read(r) for r in found]) for arm, found in results.items()}
    return Measure(name, values["aligned"], values["baseline"], values["shuffled"], better)


def _over_seeds(values: Sequence[float]) -> Estimate:
    """Mean over seeds with its t interval."""
    if len(values) < 2:
        return Estimate(values[0], per_seed=tuple(values))
    gap = paired_difference(values, [0.0] * len(values)).interval
    return Estimate(gap.value, gap.low, gap.high, tuple(values))


def _paired(
    read: Reading, results: dict[str, list[Result]], one: str, other: str
) -> PairedDifference:
    return paired_difference([read(r) for r in results[one]], [read(r) for r in results[other]])


def _interval(difference: PairedDifference) -> Estimate:
    i = difference.interval
    return Estimate(i.value, i.low, i.high, difference.differences)


def _cost(bench: Bench, recipe: Recipe, repeats: int) -> Measure:
    """Time of a training step with alignment over one without, the steps taken in turn."""
    arms: dict[str, Arm] = {"aligned": ALIGNED, "baseline": BASELINE}
    times = step_seconds(bench, arms, recipe.plan, repeats)
    middle, low, high = median_ratio(times["aligned"], times["baseline"])
    return Measure(
        "time of a training step, aligned over baseline (median, quartiles)",
        Estimate(middle, low, high),
        better="lower",
    )


def _verdict(
    results: dict[str, list[Result]], differences: dict[str, PairedDifference]
) -> tuple[Verdict, str]:
    """Pass: better than the baseline and than the control, beyond what seeds explain. Fail: worse
    than the baseline beyond what seeds explain. Otherwise the experiment could not tell."""
    name, _, read = MEASURES[0]
    if not differences:
        return "inconclusive", f"One seed shows no spread, so nothing can be said of {name}."
    helped = differences[name]
    against_control = _paired(read, results, "aligned", "shuffled")
    said = (
        f"{name}: aligned minus baseline {helped.statement()}; aligned minus control "
        f"{against_control.interval.value:+.4g} [{against_control.interval.low:+.4g}, "
        f"{against_control.interval.high:+.4g}]."
    )
    if helped.interval.high < 0 and against_control.interval.high < 0:
        return "pass", f"Alignment lowers the held-out cross-entropy, the control does not. {said}"
    if helped.interval.low > 0:
        return "fail", f"Alignment raises the held-out cross-entropy. {said}"
    return "inconclusive", f"No difference beyond the spread over seeds was found. {said}"


def _scale(recipe: Recipe, results: dict[str, list[Result]]) -> str:
    training = results["baseline"][0]["training"]
    side = recipe.bench.scene.size
    batch = recipe.plan.batch.size * recipe.plan.train.accumulation
    return (
        f"{recipe.bench.pictures} digit scenes of {side} x {side} pixels, a Llama of "
        f"{training['parameters'] / 1e6:.2f} M parameters, {training['steps']} steps of "
        f"{batch} pictures, {len(results['baseline'])} paired seeds, "
        f"{recipe.judge.prompts} prompts"
    )
