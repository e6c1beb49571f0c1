"""The tables and the plot of the page about decoding in fewer steps.

python -m arra.systems.arra.decoding.page docs/decoding.md --record runs/bench/decoding
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from arra.experiments.pages import fill_page, take_full
from arra.experiments.plotting import COLOURS, GRID, INK, canvas, save
from arra.experiments.scene_judging import Worth
from arra.experiments.speed.tables import markdown_table
from arra.systems.arra.decoding.costs import PassCost
from arra.systems.arra.decoding.running import (
    FILE,
    PICTURES,
    Decoded,
    DecodingResult,
    read_decoding,
)
from arra.systems.arra.decoding.ways import DEEP, PLAIN, VECTORS

PLOT = "decoding.png"
Table = tuple[list[str], list[list[str]]]


def table(result: DecodingResult) -> Table:
    """A row for each way: what it saves, what it costs, what its pictures are worth."""
    batches, plain = list(result.decoded[0].seconds), result.decoded[0]
    times = [f"ms, batch {batch} (times plain)" for batch in batches]
    columns = ["way", "law", "parameters", "passes", "codes a pass", "guesses right (%)"]
    columns += [*times, "MiB", "right (%)", "Fréchet"]
    rows = []
    for one in result.decoded:
        if one.way in (PLAIN, DEEP, VECTORS):
            plain = one
        rows.append(
            [
                one.way,
                _law(one),
                f"{one.parameters / 1e6:.1f} M",
                f"{one.passes:.1f}",
                f"{one.codes_per_pass:.2f}",
                "" if one.accepted is None else f"{100 * one.accepted:.0f}",
                *(_time(one, plain, batch) for batch in batches),
                f"{one.memory:.0f}",
                _right(one.worth),
                f"{one.worth.frechet:.2f}",
            ]
        )
    return columns, rows


def _law(one: Decoded) -> str:
    """What is known of the law of its codes."""
    if one.lossless:
        return "kept"
    return "learnt" if one.variation is None else f"{one.variation:.2f} away"


def _right(worth: Worth) -> str:
    return f"{100 * worth.right:.0f} ({100 * worth.low:.0f} to {100 * worth.high:.0f})"


def _time(one: Decoded, plain: Decoded, batch: str) -> str:
    ratio = plain.seconds[batch] / one.seconds[batch]
    return f"{1e3 * one.seconds[batch]:.2f} ({ratio:.2f})"


def cost_table(result: DecodingResult) -> Table:
    """What a pass over n nodes costs, in steps; a row for each model, precision and batch."""
    nodes = sorted({cost.nodes for cost in result.costs})
    rows = []
    for key in dict.fromkeys(map(_key, result.costs)):
        mine = {cost.nodes: cost for cost in result.costs if _key(cost) == key}
        step = next(iter(mine.values())).step
        cells = [f"{mine[n].steps:.1f}" if n in mine else "" for n in nodes]
        rows.append([key[0], key[1], str(key[2]), f"{1e3 * step:.2f}", *cells])
    columns = ["model", "precision", "batch", "ms, a step", *(f"{n} nodes" for n in nodes)]
    return columns, rows


def _key(cost: PassCost) -> tuple[str, str, int]:
    return cost.model, cost.precision, cost.batch


def line(result: DecodingResult) -> str:
    """On what the numbers stand."""
    return (
        f"{result.machine_class} ({result.machine.get('cpu', 'unknown processor')}), "
        f"{result.threads} threads, {result.date}; {result.steps} training steps, one seed, "
        f"{result.prompts} prompts of held-out combinations, {result.units} codes a picture, "
        f"guidance 2, top-p 0.8; Fréchet distance of other real scenes {result.floor:.2f}."
    )


def plot(result: DecodingResult, path: Path) -> None:
    """Left: pictures against their seconds. Right: what a pass costs, and what passes give."""
    figure, axes = canvas(9.6, 3.9, (1, 2))
    left, right = axes
    shallow = [one for one in result.decoded if not one.way.startswith((DEEP, VECTORS))]
    for number, one in enumerate(shallow):
        times = [1e3 * seconds for seconds in one.seconds.values()]
        left.plot(times, [one.worth.frechet] * len(times), "o-" if one.lossless else "s--", ms=4,
                  lw=1, color=COLOURS[number % len(COLOURS)], label=one.way)  # fmt: skip
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("ms of a picture: alone (right), of 8, of 32 (left)", color=INK)
    left.set_ylabel("Fréchet distance")
    left.legend(frameon=False, fontsize=6.5, loc="upper right")
    chosen: Callable[[PassCost], bool] = lambda cost: cost.precision == "fp32" and cost.batch != 8  # noqa: E731
    for number, key in enumerate(dict.fromkeys(_key(c) for c in result.costs if chosen(c))):
        mine = [cost for cost in result.costs if _key(cost) == key]
        right.plot([c.nodes for c in mine], [c.steps for c in mine], "o-" if key[2] == 1 else "s--",
                   ms=3.5, lw=1.2, color=COLOURS[number // 2 % len(COLOURS)],
                   label=f"{key[0]}, batch {key[2]}")  # fmt: skip
    guessing = [one for one in shallow if one.accepted is not None]
    for one in (min(guessing, key=_gain), max(guessing, key=_gain)) if guessing else ():
        right.axhline(one.codes_per_pass, color=GRID, lw=1.2)
        right.annotate(f"{one.way} gives", (2, one.codes_per_pass), fontsize=6.5, va="bottom")
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    right.set_xlabel("nodes of a draft", color=INK)
    right.set_ylabel("steps that the pass costs")
    right.legend(frameon=False, fontsize=6.5)
    save(figure, path)


def _gain(one: Decoded) -> float:
    return one.codes_per_pass


def block(name: str, results: Path, link: str) -> str | None:
    """Plot, line and tables; None where nothing has been measured."""
    if not (results / FILE).is_file():
        return None
    result = read_decoding(results / FILE)
    if name == "costs":
        return markdown_table(*cost_table(result))
    return "\n\n".join(
        [
            f"![Fréchet distance against time; what passes cost]({link}/{PLOT})",
            line(result),
            markdown_table(*table(result)),
            f"The first prompts by each:\n\n![scenes]({link}/{PICTURES})",
        ]
    )


def record(runs: Path, results: Path) -> None:
    """Take a full result into `results`, with its plot and pictures."""
    result = read_decoding(runs / FILE)
    take_full(result, runs, results, FILE, lambda to: plot(result, to / PLOT), PICTURES)


if __name__ == "__main__":
    fill_page("decoding in fewer steps", block, record)
