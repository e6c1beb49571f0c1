"""`arra bench`: how fast arra is beside its peers and beside what the machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from arra.experiments.load.config import LoadConfig
from arra.systems.arra.scenes_config import ScenesConfig

if TYPE_CHECKING:
    from arra.experiments.speed.results import BenchResult

# Frozen, so that one object can be the default of every call.
_LOADCONFIG = LoadConfig()
_LOAD = "serve"
_LOAD_QUESTION = "How many requests are answered in time, and at which rate is that over?"
_SCENESCONFIG = ScenesConfig()
_LAWS = "heads"
_LAWS_QUESTION = "What are laws of codes, vectors, maps and entities worth, and what do they cost?"
_DECODING = "decoding"
_DECODING_QUESTION = (
    "What do drafts and distilled students save, and what are their pictures worth?"
)


def command(
    benches: Positional[Annotated[tuple[str, ...], arg(metavar="BENCH")]] = (),
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/bench"),
    budget: Literal["tiny", "full"] = "full",
    threads: int | None = None,
    json: bool = False,
    load: Annotated[LoadConfig, arg(name="")] = _LOADCONFIG,
    scenes: Annotated[ScenesConfig, arg(name="")] = _SCENESCONFIG,
) -> None:
    """Time arra against its peers in one run, and against the limits of this machine.

    Without a bench, they are listed; "all" runs all. All contenders of a case do the same work and
    take turns; ratios are taken repeat by repeat. First the machine is measured: bytes a second
    from memory, operations a second of matrix products. Nothing else should run meanwhile. DIR gets
    BENCH.json with every second that was measured, and its plots.

    "serve", which "all" leaves out, is a load test: clients ask at random times, and one request at
    a time, static batches and the engine of `arra serve` answer the same arrivals. Every picture is
    compared with the one that it would be alone. DIR/serve gets load.json and two plots.

    "heads", which "all" leaves out too, trains a generator of each kind on digit scenes and draws
    with it in several numbers of passes: prompts that are right against passes, operations and
    seconds. DIR/heads gets heads.json and a plot.

    "decoding", which "all" leaves out as well, trains one model of digit scenes and draws with it
    plainly, with drafts of every kind, and by distilled students: codes a pass, seconds, memory and
    pictures; and times passes over drafts of larger models. DIR/decoding gets decoding.json and a
    plot.

    Args:
        benches: Which benches.
        out: Folder of the results.
        budget: "full" takes some minutes a bench; "tiny" only shows that it runs.
        threads: Threads that torch computes with. Default: one for each core.
        json: Print the results as JSON for programs instead of tables.
        load: Of the load test alone.
        scenes: Of "heads" and "decoding" alone.
    """
    from arra.errors import InputError
    from arra.experiments.speed.bench import choose_benches, list_benches, run_bench
    from arra.jobs.console import print_json, print_table

    if not benches:
        known = list_benches()
        listed = [(bench.name, bench.question) for bench in known] + [
            (_LOAD, _LOAD_QUESTION),
            (_LAWS, _LAWS_QUESTION),
            (_DECODING, _DECODING_QUESTION),
        ]
        if json:
            print_json([{"bench": name, "question": question} for name, question in listed])
        else:
            print_table(["bench", "question"], [list(row) for row in listed])
        return
    for name in (_LOAD, _LAWS, _DECODING):
        if name in benches and len(benches) > 1:
            raise InputError(f"{name}: runs alone, not together with {', '.join(benches)}")
    if benches == (_LOAD,):
        _threads(threads)
        _load(load, out / _LOAD, budget, json)
        return
    if benches == (_LAWS,):
        _threads(threads)
        _compare_laws(scenes, out / _LAWS, budget, json)
        return
    if benches == (_DECODING,):
        _threads(threads)
        _compare_decoding(scenes, out / _DECODING, budget, json)
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


def _load(load: LoadConfig, folder: Path, budget: str, json: bool) -> None:
    from arra.experiments.load.page import bound_table, lines, plot, rate_table, work_table
    from arra.experiments.load.results import FILE
    from arra.experiments.load.running import run_load
    from arra.files import read_json
    from arra.jobs.console import print_json, print_table

    result = run_load(load, folder, budget, quiet=json)
    plots = plot(result, folder)
    if json:
        print_json(read_json(folder / FILE))
        return
    for line in lines(result):
        print(line)
    for table in (rate_table, bound_table, work_table):
        print_table(*table(result))
    for path in plots:
        print(f"plot: {path}")


def _compare_laws(scenes: ScenesConfig, folder: Path, budget: str, json: bool) -> None:
    from arra.files import read_json
    from arra.jobs.console import print_json, print_table
    from arra.systems.arra.laws import FILE, run_laws
    from arra.systems.arra.laws_page import PLOT, line, plot, table

    result = run_laws(scenes, folder, budget, quiet=json)
    plot(result, folder / PLOT)
    if json:
        print_json(read_json(folder / FILE))
        return
    print(line(result))
    print_table(*table(result))
    print(f"plot: {folder / PLOT}")


def _compare_decoding(scenes: ScenesConfig, folder: Path, budget: str, json: bool) -> None:
    from arra.files import read_json
    from arra.jobs.console import print_json, print_table
    from arra.systems.arra.decoding.page import PLOT, cost_table, line, plot, table
    from arra.systems.arra.decoding.running import FILE, run_decoding

    result = run_decoding(scenes, folder, budget, quiet=json)
    plot(result, folder / PLOT)
    if json:
        print_json(read_json(folder / FILE))
        return
    print(line(result))
    print_table(*table(result))
    print_table(*cost_table(result), title="what a pass over a draft costs, in steps")
    print(f"plot: {folder / PLOT}")


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
