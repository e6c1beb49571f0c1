"""The pictures of the page: what arms measured, and what they write and draw after a mistake.

`python -m arra.systems.sequencematch.pictures runs/sequencematch docs/sequencematch` makes them of
what `arra reproduce sequencematch` left.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from arra.experiments.digits import WORDS, digits, encoded
from arra.experiments.plotting import COLOURS, GRID, INK, PALE, canvas, save, sheet
from arra.generators.backspacing import Writing
from arra.generators.raster import RasterGenerator
from arra.samplers.backtracking import standing
from arra.systems.results import ClaimResult, Estimate, read_result
from arra.systems.sequencematch.additions import FIGURES, WRITTEN, additions, corrupted
from arra.systems.sequencematch.arms import write
from arra.systems.sequencematch.recipe import ARMS, BACKSPACE, LIKELIHOOD, MATCH, Recipe
from arra.text_to_image import TextToImage, load_generator

NAMES = {
    MATCH: "SequenceMatch",
    BACKSPACE: "likelihood, with backspaces",
    LIKELIHOOD: "likelihood alone",
}
_MEASURES = {
    "right sums": "right sums",
    "right after a wrong figure": "right sums after a wrong figure",
    "pictures: digit right": "right digits",
    "pictures: digit right after a wrong code in the middle": "right digits after a wrong code",
}
"""Of the result: what they are called in the plot."""
_GREY = 128
ERASE = "⌫"
_SHOWN = 4


def plot(result: ClaimResult, path: Path) -> None:
    """Shares that are right by arm: means with their 95 % intervals, and each seed."""
    figure, axes = canvas(7.2, 3.2)
    measures = {measure.name: measure for measure in result.measures}
    for row, name in enumerate(_MEASURES):
        measure = measures[name]
        for number, found in enumerate((measure.system, measure.baseline, measure.control)):
            assert found is not None
            _estimate(axes, found, row + 0.24 * (number - 1), COLOURS[1 + number])
    for number, arm in enumerate(ARMS):
        axes.plot([], [], "D", ms=5, mfc="white", color=COLOURS[1 + number], label=NAMES[arm])
    axes.set_yticks(range(len(_MEASURES)), list(_MEASURES.values()))
    axes.set_ylim(len(_MEASURES) - 0.5, -0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share")
    axes.grid(axis="x", color=GRID, lw=0.6)
    figure.legend(fontsize=7.5, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def _estimate(axes: object, found: Estimate, height: float, colour: str) -> None:
    line = axes.plot  # type: ignore[attr-defined]
    if found.low is not None and found.high is not None:
        line(
            [max(found.low, 0.0), min(found.high, 1.0)], [height] * 2, color=colour, lw=1, alpha=0.5
        )
    line(found.per_seed, [height] * len(found.per_seed), "o", ms=3, color=colour)
    line(found.value, height, "D", ms=5, mfc="white", color=colour)


@dataclass(frozen=True)
class Written:
    """What an arm made of a sum whose beginning was given."""

    prompt: str
    arm: str
    given: int
    """Actions that were given, the last of which is wrong."""
    actions: tuple[int, ...]
    right: bool


def written(folder: Path, seed: int, recipe: Recipe | None = None) -> list[Written]:
    """The first held-out sums after a figure that was made wrong, by all arms in turn."""
    recipe = recipe or Recipe()
    _, held_out = additions(recipe.sums, recipe.asked, seed)
    given, end = corrupted(held_out.answers, seed)[:_SHOWN], len(FIGURES)
    found: dict[str, list[list[int]]] = {}
    for arm in ARMS:
        model = load_generator(folder / f"additions-{arm}-{seed}" / "training" / "model").eval()
        assert isinstance(model, RasterGenerator)
        asked = [model.caption_ids(text) for text in held_out.prompts[:_SHOWN]]
        writing = Writing.of_text(model, WRITTEN, FIGURES)
        found[arm] = write(model, writing, asked, arm, seed, given)
    answers = held_out.answers.tolist()
    return [
        Written(
            held_out.prompts[row],
            arm,
            len(given[row]),
            tuple(found[arm][row]),
            standing(found[arm][row], end) == answers[row],
        )
        for row in range(_SHOWN)
        for arm in ARMS
    ]


def plot_texts(rows: Sequence[Written], path: Path) -> None:
    """Texts as they were written, token by token: what was given wrong, what was taken back."""
    height = 0.25
    figure, axes = canvas(7.2, height * (len(rows) + 1.6))
    axes.set_axis_off()
    axes.set_xlim(0, 30)
    axes.set_ylim(len(rows) - 0.3, -1.3)
    for number, row in enumerate(rows):
        top = number + 0.25 * (number // len(ARMS))
        if number % len(ARMS) == 0:
            axes.text(0, top, row.prompt, family="monospace", fontsize=8.5, va="center", color=INK)
        axes.text(8.2, top, NAMES[row.arm], fontsize=8, va="center", color=INK)
        place = 16.0
        for label, colour, struck in tokens(row):
            box = {"boxstyle": "square,pad=0.25", "fc": colour, "ec": PALE, "lw": 0.6}
            style = {"ha": "center", "va": "center", "fontsize": 8.5, "bbox": box}
            axes.text(place, top, label, color=PALE if struck else INK, **style)
            if struck:
                axes.plot([place - 0.3, place + 0.3], [top, top], color=INK, lw=0.8, zorder=5)
            place += 1.0
        said, colour = ("right", COLOURS[3]) if row.right else ("wrong", COLOURS[2])
        axes.text(27.5, top, said, fontsize=8, va="center", color=colour)
    axes.set_ylim(len(rows) + 0.75, -1.0)
    save(figure, path)


def tokens(row: Written) -> list[tuple[str, str, bool]]:
    """Label, colour of the box, and whether it was taken back, of each token of a text; the end is
    left out."""
    end, gone = len(FIGURES), _taken_back(row.actions, len(FIGURES))
    found = []
    for place, action in enumerate(row.actions):
        if action == end:
            continue
        wrong = place == row.given - 1
        colour = "#ffd8b5" if wrong else "#eef1f4" if place < row.given else "white"
        label = ERASE if action == end + 1 else FIGURES[action]
        found.append((label, colour, place in gone))
    return found


def _taken_back(actions: Sequence[int], end: int) -> set[int]:
    """Places of actions that a later backspace undoes."""
    stack: list[int] = []
    gone = set()
    for place, action in enumerate(actions):
        if action == end + 1:
            gone.add(stack.pop())
        elif action < end:
            stack.append(place)
    return gone


def picture(folder: Path, seed: int, path: Path) -> None:
    """Digits by all arms from the same noise; and what each makes of a held-out digit whose middle
    code is wrong."""
    held_out = digits()[1]
    first = [int(np.flatnonzero(held_out.labels == digit)[0]) for digit in range(len(WORDS))]
    free: list[tuple[str, np.ndarray]] = []
    after: list[tuple[str, np.ndarray]] = []
    for arm in ARMS:
        model = TextToImage.from_pretrained(folder / f"pictures-{arm}-{seed}" / "model", "cpu")
        generator, name = model.generator, NAMES[arm].replace(", ", ",\n")
        assert isinstance(generator, RasterGenerator)
        writing, end = Writing.of_pictures(generator), generator.codes
        asked = [generator.caption_ids(word) for word in WORDS]
        real = encoded(model.codec, held_out.pictures[first]).flatten(1)
        given = corrupted(real, seed, last=generator.units // 2)
        if not after:
            after.append(("real", model.paint(real.view(-1, *generator.config.grid))))
            after.append(("given", _begun(model, given)))
        for rows, start in ((free, None), (after, given)):
            actions = write(generator, writing, asked, arm, seed, start)
            codes = torch.tensor([standing(row, end) for row in actions])
            rows.append((name, model.paint(codes.view(-1, *generator.config.grid))))
    sheet([(f"{name}\n(free)", p) for name, p in free] + after, path, width=5.6)


def _begun(model: TextToImage, given: Sequence[Sequence[int]]) -> np.ndarray:
    """Pictures of which only the first codes are there; the others are grey."""
    generator = model.generator
    codes: Tensor = torch.zeros(len(given), generator.units, dtype=torch.int64)
    codes[:, : len(given[0])] = torch.tensor(given)
    pictures = model.paint(codes.view(-1, *generator.codes_shape))
    side = model.codec.downsample
    known = np.arange(generator.units).reshape(generator.codes_shape) < len(given[0])
    pictures[:, ~known.repeat(side, 0).repeat(side, 1)] = _GREY
    return pictures


def draw(folder: Path, out: Path, recipe: Recipe | None = None) -> None:
    """Write arms.png, texts.png and digits.png into `out`, of the first seed."""
    result = read_result(folder / "result.json")
    out.mkdir(parents=True, exist_ok=True)
    plot(result, out / "arms.png")
    plot_texts(written(folder, result.seeds[0], recipe), out / "texts.png")
    picture(folder, result.seeds[0], out / "digits.png")


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the page.")
    parser.add_argument("folder", type=Path, help="what the claim left")
    parser.add_argument("out", type=Path, help="where pictures go")
    options = parser.parse_args()
    draw(options.folder, options.out)


if __name__ == "__main__":
    main()
