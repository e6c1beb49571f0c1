"""The claim: fusing requests token by token beats batches and one-by-one service, in time and in
waiting, and every request gets the same output.

The same arrivals are served in five ways. What is computed for nobody, and what is moved, is
counted on a clock of passes and is the same on every machine; times are the machine's.
"""

from __future__ import annotations

import statistics

from arra.files import to_plain
from arra.generators.fast import FastStepper
from arra.progress import track
from arra.systems.base import ClaimRun
from arra.systems.flover.recipe import (
    ARMS,
    COMPACTED,
    GAPS,
    RECIPES,
    SCATTERED,
    SEQUENTIAL,
    WINDOW,
    Recipe,
)
from arra.systems.flover.simulator import (
    Arrival,
    Served,
    arrivals,
    fused,
    pass_seconds,
    stepper_of,
    windowed,
)
from arra.systems.results import ClaimResult, Estimate, Measure, Verdict
from arra.systems.seeds import Result, Row, measure, over_seeds

Results = dict[str, list[Result]]

HALF = 0.5
"""Most that fused service may take, in times of one request after the other."""


def claim(run: ClaimRun) -> ClaimResult:
    """Serve the arrivals of every seed in all ways, and time passes of growing numbers of rows."""
    recipe = RECIPES[run.budget]()
    stepper = stepper_of(recipe, recipe.size)
    arms = [arm for arm in ARMS if arm != SCATTERED or stepper.scattered]
    results: Results = {arm: [] for arm in arms}
    with track("serve", len(run.seeds) * len(arms), quiet=run.quiet) as task:
        for seed in run.seeds:
            wanted = arrivals(recipe, seed)
            alone = served(SEQUENTIAL, recipe, stepper, wanted, None).codes
            for arm in arms:
                results[arm].append(measured(arm, recipe, stepper, wanted, alone))
                task.advance()
    verdict, statement = judged(results)
    return ClaimResult(
        verdict=verdict,
        statement=statement,
        measures=tuple(_measures(results) + _passes(recipe, stepper)),
        scale=_scale(recipe, results),
        settings=to_plain({"recipe": recipe}),
    )


def served(
    arm: str, recipe: Recipe, stepper: FastStepper, wanted: list[Arrival], unit: float | None
) -> Served:
    """The arrivals served in one way; see `simulator.fused` for `unit`."""
    if arm == WINDOW:
        return windowed(stepper, wanted, recipe.slots, recipe.window, unit)
    if arm == SEQUENTIAL:
        return fused(stepper, wanted, 1, "compacted", unit)
    placement = {COMPACTED: "compacted", GAPS: "gaps", SCATTERED: "scattered"}[arm]
    return fused(stepper, wanted, recipe.slots, placement, unit)  # type: ignore[arg-type]


def measured(
    arm: str, recipe: Recipe, stepper: FastStepper, wanted: list[Arrival], alone: list[list[int]]
) -> Result:
    """What one way of serving took: counted, then timed on this machine, the middle of some
    times."""
    counted = served(arm, recipe, stepper, wanted, None)
    runs = []
    for _ in range(recipe.repeats):
        unit = pass_seconds(stepper, 1, recipe.prompt, recipe.timed)
        runs.append(served(arm, recipe, stepper, wanted, unit))
    timed = sorted(runs, key=lambda run: run.total)[len(runs) // 2]
    useful = sum(arrival.length - 1 for arrival in wanted)
    return {
        "different": sum(
            one != other
            for found in (counted.codes, *(run.codes for run in runs))
            for one, other in zip(found, alone, strict=True)
        ),
        "rows": counted.rows,
        "wasted": counted.wasted,
        "moves": counted.moves,
        "passes": counted.busy,
        "latency_passes": statistics.mean(counted.latencies),
        "busy": timed.busy,
        "total": timed.total,
        "latency": statistics.mean(timed.latencies),
        "tokens_per_second": (useful + len(wanted)) / timed.total,
    }


def judged(results: Results) -> tuple[Verdict, str]:
    """Pass: every output is that of the request alone, in all arms; fused service with gaps closed
    computes nothing for nobody, in the 95 % interval over seeds takes at most half of the time of
    one request after the other, and takes less time and waiting than batches. Fail: an output
    differs, rows are wasted, or fused service is slower than batches in the whole interval.
    Otherwise the experiment could not tell."""
    different = sum(one["different"] for some in results.values() for one in some)
    wasted = sum(one["wasted"] for one in results[COMPACTED])
    if different:
        return "fail", f"{different} outputs are not those of the request alone."
    if wasted:
        return "fail", f"With gaps closed {wasted} rows were computed for nobody."
    if len(results[COMPACTED]) < 2:
        return "inconclusive", "One seed shows no spread, so nothing can be said."
    half = over_seeds(ratios(results, "total", SEQUENTIAL))
    time = over_seeds(ratios(results, "total", WINDOW))
    wait = over_seeds(ratios(results, "latency", WINDOW))
    said = (
        "All outputs are those of the request alone and no row is computed for nobody. Time from "
        f"the first arrival to the last token, fused / one after the other: {half}; "
        f"fused / batches: {time}; mean waiting, fused / batches: {wait}."
    )
    if (time.low or 0.0) > 1.0:
        return "fail", f"Fused service is slower than batches. {said}"
    bounds = ((half, HALF), (time, 1.0), (wait, 1.0))
    if all(found.high is not None and found.high < most for found, most in bounds):
        return "pass", said
    return "inconclusive", f"The seeds do not tell. {said}"


def ratios(results: Results, name: str, other: str) -> list[float]:
    """Fused service over another arm, seed by seed."""
    pairs = zip(results[COMPACTED], results[other], strict=True)
    return [one[name] / another[name] for one, another in pairs]


def _measures(results: Results) -> list[Measure]:
    """Flover beside batches (baseline) and one request after the other (control)."""
    rows: list[Row] = [
        ("outputs that differ from the request alone", "lower", lambda r: r["different"]),
        ("seconds from the first arrival to the last token", "lower", lambda r: r["total"]),
        ("seconds in which something was computed", "lower", lambda r: r["busy"]),
        ("mean seconds from arrival to the last token", "lower", lambda r: r["latency"]),
        ("tokens a second", "higher", lambda r: r["tokens_per_second"]),
        ("passes", "lower", lambda r: r["passes"]),
        ("mean passes from arrival to the last token", "lower", lambda r: r["latency_passes"]),
        ("rows computed", "lower", lambda r: r["rows"]),
        ("rows computed for nobody", "lower", lambda r: r["wasted"]),
        ("slots moved", "lower", lambda r: r["moves"]),
    ]
    columns = [results[arm] for arm in (COMPACTED, WINDOW, SEQUENTIAL)]
    found = [measure(row, *columns) for row in rows]
    for arm, how in ((GAPS, "gaps computed"), (SCATTERED, "rows wherever they lie")):
        if arm in results:
            found += [measure((f"{how}: {name}", b, r), results[arm]) for name, b, r in rows]
    if len(columns[0]) > 1:
        found += [
            Measure(f"{name}, fused / {arm}", over_seeds(ratios(results, key, arm)))
            for key, name in (("total", "time"), ("latency", "waiting"))
            for arm in (SEQUENTIAL, WINDOW)
        ]
    return found


def _passes(recipe: Recipe, stepper: FastStepper) -> list[Measure]:
    """What a pass costs with growing numbers of rows: where fusing begins to pay."""
    found = []
    for size in (recipe.size, recipe.large):
        used = stepper if size == recipe.size else stepper_of(recipe, size)
        one = 0.0
        for rows in recipe.passes:
            seconds = pass_seconds(used, rows, recipe.prompt, recipe.timed)
            one = one or seconds
            found.append(
                Measure(
                    f"times of a pass with one row, {rows} rows, width {size.width}",
                    Estimate(seconds / one),
                    better="lower",
                )
            )
    return found


def _scale(recipe: Recipe, results: Results) -> str:
    low, high = recipe.lengths
    return (
        f"{recipe.requests} synthetic requests with prompts of {recipe.prompt} tokens and outputs "
        f"of {low} to {high}, Poisson arrivals at {recipe.rate} a pass with one row, an untrained "
        f"Llama of {recipe.size.depth} blocks of width {recipe.size.width} in fp32, "
        f"{recipe.slots} slots, a window of {recipe.window:g} passes, "
        f"{len(results[COMPACTED])} seeds of arrivals"
    )
