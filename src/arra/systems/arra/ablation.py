"""Running the paper's ablations, and the page and plots made from their results.

`python -m arra.systems.arra.ablation` writes the tables of docs/ablation.md and the plots beside it
from the committed results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from arra.environment import source_tree
from arra.errors import ArraError
from arra.experiments.grid import Runner, run_grid
from arra.experiments.scene_cells import SceneRunner, SceneSetting
from arra.experiments.study_plots import plot_convergence, plot_differences
from arra.experiments.study_results import StudyResult, collect, read_study
from arra.experiments.study_tables import markdown, section
from arra.files import atomic_file
from arra.jobs.ablating import MEASURES as STORE_MEASURES
from arra.jobs.ablating import StoreRunner, StoreSetting
from arra.systems.arra.claim import MEASURES
from arra.systems.arra.studies import choose

RESULTS = Path(__file__).parent / "ablation_results"
"""The committed results: copies of the STUDY.json that `arra ablate` left in its folder."""
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def ablate(
    names: Sequence[str],
    seeds: int,
    folder: Path,
    setting: SceneSetting | StoreSetting,
    processes: int | None = None,
    quiet: bool = False,
) -> list[StudyResult]:
    """Run studies over seeds 0, 1, ... as variations of `setting`; their results.

    `folder` gets STUDY.json, STUDY.png and STUDY-convergence.png, and `tables.md` with the tables
    of all studies that it has. Cells are kept there, so that the same call goes on after an
    interruption, and more studies or seeds add to what is there.
    """
    studies = choose(names)
    runner: Runner
    if isinstance(setting, SceneSetting):
        runner, measures = SceneRunner(folder, processes, quiet), MEASURES
    else:
        runner, measures = StoreRunner(folder), STORE_MEASURES
    found = run_grid(studies, setting, range(seeds), runner, processes, quiet)
    results = [
        collect(study, found[study.name], setting, range(seeds), measures) for study in studies
    ]
    for result in results:
        result.write(folder / f"{result.study}.json")
        plot(result, folder)
    write_text(folder / "tables.md", markdown(read_results(folder)))
    return results


def plots(result: StudyResult) -> dict[str, Callable[[StudyResult, Path], object]]:
    """The plots that a result has something to show in: file name -> what draws it."""
    found: dict[str, Callable[[StudyResult, Path], object]] = {}
    if len(result.seeds) > 1:
        found[f"{result.study}.png"] = plot_differences
    if result.convergence:
        found[f"{result.study}-convergence.png"] = plot_convergence
    return found


def plot(result: StudyResult, folder: Path) -> None:
    """Write the plots of a study into `folder`."""
    for name, draw in plots(result).items():
        draw(result, folder / name)


def read_results(folder: Path) -> list[StudyResult]:
    """The results of studies in a folder, in the order in which `arra ablate` lists studies."""
    files = {file.stem: file for file in folder.glob("*.json")}
    return [read_study(files[study.name]) for study in choose(("all",)) if study.name in files]


def tables(results: Sequence[StudyResult]) -> str:
    """The generated part of the page: a section and a plot for each study."""
    parts = [] if results else ["Nothing has been measured yet."]
    for result in results:
        parts.append(section(result))
        parts += [f"![{Path(name).stem}](ablation/{name})" for name in plots(result)]
    return "\n\n".join(parts)


def page(text: str, results: Sequence[StudyResult]) -> str:
    """The page `text` with its tables replaced by those of `results`."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ArraError(f"the page has no place for tables between {BEGIN} and {END}")
    return f"{head}{BEGIN}\n\n{tables(results)}\n\n{END}{tail}"


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the page and its plots in the source tree."""
    root = source_tree()
    if root is None:
        raise ArraError("the page is made in a source tree, and this is none")
    results = read_results(RESULTS)
    path = root / "docs" / "ablation.md"
    write_text(path, page(path.read_text(encoding="utf-8"), results))
    for result in results:
        plot(result, root / "docs" / "ablation")


if __name__ == "__main__":
    main()
