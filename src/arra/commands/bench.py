"""`arra bench`: how fast arra is beside its peers and beside what the machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from arra.experiments.speed.results import BenchResult


def command(
    benches: Positional[Annotated[tuple[str, ...], arg(metavar="BENCH")]] = (),
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/bench"),
    budget: Literal["tiny", "full"] = "full",
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Time arra against its peers in one run, and against the limits of this machine.

    Without a bench, they are listed; "all" runs all. All contenders of a case do the same work and
    take turns; ratios are taken repeat by repeat. First the machine is measured: bytes a second
    from memory, operations a second of matrix products. Nothing else should run meanwhile. DIR gets
    BENCH.json with every second that was measured, and its plots.

    Args:
        benches: Which benches.
        out: Folder of the results.
        budget: "full" takes some minutes a bench; "tiny" only shows that it runs.
        threads: Threads that torch computes with. Default: one for each core.
        json: Print the results as JSON for programs instead of tables.
    """
    from arra.experiments.speed.bench import choose_benches, list_benches, run_bench
    from arra.jobs.console import print_json, print_table

    if not benches:
        known = list_benches()
        if json:
            print_json([{"bench": bench.name, "question": bench.question} for bench in known])
        else:
            print_table(["bench", "question"], [[bench.name, bench.question] for bench in known])
        return
    chosen = choose_benches(benches)
    _threads(threads)
    from arra.experiments.speed.floors import measure_floors
    from arra.experiments.speed.page import plot

    floors = measure_floors(scale=1.0 if budget == "full" else 0.05)
    results = []
    for bench in chosen:
        result = run_bench(bench, floors, out, budget, quiet=json)
        results.append((result, plot(result, out)))
        if not json:
            _print(*results[-1])
    if json:
        from arra.files import read_json

        print_json([read_json(out / f"{result.bench}.json") for result, _ in results])


def _threads(count: int | None) -> None:
    import torch

    from arra.environment import usable_cores
    from arra.errors import InputError

    if count is not None and count < 1:
        raise InputError(f"threads: {count}, expected at least 1")
    torch.set_num_threads(count or usable_cores())


def _print(result: BenchResult, plots: list[Path]) -> None:
    from arra.experiments.speed.tables import case_table, curve_table, floors_line
    from arra.jobs.console import print_table

    print(f"{result.bench}: {result.question}")
    print(floors_line(result))
    series = {curve.series for curve in result.curves()}
    for case in result.cases:
        if case.series not in series:
            print_table(*case_table(case), title=case.name)
    if series:
        print_table(*curve_table(result))
    for path in plots:
        print(f"plot: {path}")
