"""`arra ablate`: the paper's ablation tables as a resumable grid over paired seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from arra.experiments.study_results import StudyResult


def command(
    studies: Positional[Annotated[tuple[str, ...], arg(metavar="STUDY")]] = (),
    seeds: int = 3,
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/ablate"),
    budget: Literal["tiny", "full"] = "full",
    store: Annotated[Path | None, arg(metavar="STORE")] = None,
    lm: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    steps: Annotated[int | None, arg(metavar="INT")] = None,
    processes: Annotated[int | None, arg(metavar="INT")] = None,
    json: bool = False,
) -> None:
    """What each choice of the alignment is worth: ablation tables on digit scenes or your pictures.

    Each study varies one choice (mechanism, aggregation, encoder, projector, weight, similarity,
    depth, resolution, generators; "all" for all) and compares with training without alignment, over
    paired seeds. Without a study, they are listed. Cells that studies share are trained once,
    everything done is kept in DIR, and after an interruption, or with more studies or seeds, the
    same command goes on. DIR gets STUDY.json and STUDY.png for each study, and tables.md.

    Args:
        studies: Which tables.
        seeds: Number of paired seeds, at least 2 for an interval.
        out: Folder of the results and of all that is trained.
        budget: "full" takes one to two minutes of one core a cell; "tiny" only shows that it runs.
        store: A folder that `arra prepare` made: cells are trained on it instead of digit scenes,
            and held-out bits of a part of its rows are measured. Studies that change digit scenes,
            codec or encoder do not apply; the patch target needs its aggregation "patches".
        lm: With --store, the language model to start from; without it a small Llama is made.
        steps: Training steps of a cell. Default: 300, half of the claim's, or 2000 on a store.
        processes: How many cells are trained at once. Default: one per core, or 1 with a GPU.
        json: Print the results as JSON for programs instead of tables.
    """
    from arra.errors import InputError

    if seeds < 1:
        raise InputError(f"seeds: {seeds}, expected at least 1")
    if not studies:
        _list(budget, json)
        return
    from arra.files import to_plain
    from arra.jobs.console import print_json, resumable
    from arra.systems.arra.ablation import ablate
    from arra.systems.arra.studies import base, base_of_store

    if store is None and lm is not None:
        raise InputError("lm: a language model needs the store that was prepared for it (--store)")
    setting = base(budget, steps) if store is None else base_of_store(store, lm, steps)
    with resumable("the grid"):
        results = ablate(studies, seeds, out, setting, processes, quiet=json)
    if json:
        print_json([{**to_plain(result), "summary": result.summary()} for result in results])
        return
    for result in results:
        _print(result)
    print(f"written to {out / 'tables.md'}, with plots and JSON beside it")


def _list(budget: str, json: bool) -> None:
    from arra.experiments.grid import cells_of
    from arra.jobs.console import print_json, print_table
    from arra.systems.arra.studies import STUDIES, base

    setting = base(budget)
    if json:
        print_json(
            [
                {
                    "study": study.name,
                    "question": study.question,
                    "variations": [variation.name for variation in study.variations],
                }
                for study in STUDIES.values()
            ]
        )
        return
    rows = [
        [
            study.name,
            study.question,
            ", ".join(variation.name for variation in study.variations),
            str(len(cells_of([study], setting, [0]))),
        ]
        for study in STUDIES.values()
    ]
    print_table(["study", "question", "variations", "cells per seed"], rows)
    every = len(cells_of(list(STUDIES.values()), setting, [0]))
    print(f"All together: {every} cells per seed, for studies share cells.")


def _print(result: StudyResult) -> None:
    from arra.experiments.study_tables import convergence_table, foot, table
    from arra.jobs.console import print_table

    columns, rows = table(result)
    print_table(columns, rows, title=f"{result.study}: {result.question}")
    if result.convergence:
        title = "convergence factor: steps without alignment over steps with it, above 1 is faster"
        print_table(*convergence_table(result), title=title)
    print(foot(result))
