"""The claim: with equal model, data and steps, alignment makes better pictures, free at inference.

Three arms over paired seeds (equal initial weights, data order, dropped captions and sampling
noise): next-token prediction alone, with HYBNEXT alignment, and, as the control, aligned to the
features of another picture. The primary measure is the held-out cross-entropy, the least noisy one
on a shared codec; it is measured without the alignment loss. One aligned arm is trained for as long
as the demo trains its own, to see what the recipe comes to.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from arra.experiments.arms import Arm, arm_job
from arra.experiments.bench import Bench, build_bench
from arra.experiments.parallel import Job, run_jobs
from arra.experiments.timing import median_ratio, step_seconds
from arra.files import to_plain
from arra.metrics.bootstrap import PairedDifference
from arra.systems.arra.recipe import ALIGNED, BASELINE, CLAIM_STEPS, RECIPES, SHUFFLED, Recipe
from arra.systems.base import ClaimRun
from arra.systems.results import ClaimResult, Estimate, Measure, Verdict
from arra.systems.seeds import Result, Row, estimate, measure, paired

ARMS = (BASELINE, ALIGNED, SHUFFLED)


def held_out(result: Result, combinations: str) -> float:
    """Bits per token of test scenes, or, of a law of vectors, the loss."""
    return result["bits" if "bits" in result else "loss"][combinations]["value"]


MEASURES: tuple[Row, ...] = (
    ("held-out bits per token, new combinations", "lower", lambda r: held_out(r, "heldout")),
    ("held-out bits per token, seen combinations", "lower", lambda r: held_out(r, "seen")),
    ("prompts right in everything", "higher", lambda r: r["prompt_accuracy"]["all"]["value"]),
    ("digits right", "higher", lambda r: r["prompt_accuracy"]["digit"]["value"]),
    ("inks right", "higher", lambda r: r["prompt_accuracy"]["colour"]["value"]),
    ("relations right", "higher", lambda r: r["prompt_accuracy"]["relation"]["value"]),
    ("Fréchet distance to real scenes", "lower", lambda r: r["frechet"]["value"]),
)


def claim(run: ClaimRun) -> ClaimResult:
    """Train and judge all arms with all seeds; the verdict rests on paired differences."""
    longer = RECIPES[run.budget]()
    train = longer.plan.train
    steps = CLAIM_STEPS if run.budget == "full" else train.steps // 2
    recipe = replace(longer, plan=replace(longer.plan, train=replace(train, steps=steps)))
    bench = build_bench(recipe.bench, run.folder / "bench", quiet=run.quiet)
    results, long = _run_all(bench, recipe, longer, run)
    columns = [results[arm.name] for arm in (ALIGNED, BASELINE, SHUFFLED)]
    measures = [measure(row, *columns) for row in MEASURES]
    measures += [
        Measure(f"{name}, one arm of {train.steps} steps", Estimate(read(long)), better=better)
        for name, better, read in MEASURES[2:6]
    ]
    differences = {}
    if len(run.seeds) > 1:
        for name, _, read in MEASURES[:4]:
            helped = paired(read, results["aligned"], results["baseline"])
            control = paired(read, results["shuffled"], results["baseline"])
            differences[name] = helped
            measures.append(
                Measure(f"paired difference, {name}", estimate(helped), None, estimate(control))
            )
    measures.append(_cost(bench, recipe, 100 if run.budget == "full" else 3))
    verdict, statement = _verdict(results, differences)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(measures),
        scale=_scale(recipe, results),
        settings=to_plain(recipe),
    )


def _run_all(
    bench: Bench, recipe: Recipe, longer: Recipe, run: ClaimRun
) -> tuple[dict[str, list[Result]], Result]:
    """arm -> results in the order of the seeds, and the result of the longer arm."""

    def job(label: str, arm: Arm, of: Recipe, seed: int, folder: Path) -> Job:
        return arm_job(label, bench, arm, of.plan, of.judge, seed, folder)

    first = run.seeds[0]
    jobs = [job("aligned, longer", ALIGNED, longer, first, run.folder / "longer")]
    pairs = [(seed, arm) for seed in run.seeds for arm in ARMS]
    jobs += [
        job(f"{arm.name}, seed {seed}", arm, recipe, seed, run.folder / f"seed-{seed}" / arm.name)
        for seed, arm in pairs
    ]
    long, *rest = run_jobs(jobs, quiet=run.quiet)  # the longest first: the others fill the gaps
    found: dict[str, list[Result]] = {arm.name: [] for arm in ARMS}
    for (_, arm), result in zip(pairs, rest, strict=True):
        found[arm.name].append(result)
    return found, long


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
    against_control = paired(read, results["aligned"], results["shuffled"])
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
