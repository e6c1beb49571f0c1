"""The pictures of the page: what the claim's rules accept and draw, and digits drawn alone and with
a draft.

`python -m arra.systems.cspd.pictures docs/cspd --claim CLAIM --work FOLDER` writes them, from the
folder of the claim (`arra reproduce cspd --out CLAIM`), and prints the digits' numbers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from arra.experiments.digit_codes import Words, store_of
from arra.experiments.digit_vectors import Greys, learn, word_generator
from arra.experiments.digits import digits, in_turn, judged, seeds_of, train_judge
from arra.experiments.once import RECORD, once
from arra.experiments.plotting import COLOURS, canvas, save, sheet
from arra.experiments.rings import nearest
from arra.files import read_json
from arra.generators.masked_vectors import MaskedVectorGenerator
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.vectors import PathConfig, SpeculativeVectorSampler
from arra.settings import SamplingConfig
from arra.systems.cspd.arms import ALONE, DRAWN
from arra.systems.cspd.recipe import (
    ALIGNED,
    DIFFUSION,
    EXACT,
    INDEPENDENT,
    RECIPES,
    RELEASED,
    DigitRecipe,
)

PIXELS = Greys(2)


def plot_claim(folder: Path, path: str | Path, seed: int = 0) -> None:
    """Write what stays by every rule, and how far tokens are from the ring's points, as PNG."""
    place = folder / f"{DIFFUSION}-{seed}"
    report, drawn = read_json(place / RECORD)["report"], load_file(str(place / DRAWN))
    figure, (left, right) = canvas(9.0, 2.8, (1, 2))
    ways = {ALIGNED: "shared noise", EXACT: "the same, S = 1"}
    ways |= {INDEPENDENT: "independent noise", RELEASED: "temperature 42"}
    colours = dict(zip(ways, COLOURS[1:], strict=False))
    shares = [report[way]["acceptance"] for way in ways]
    left.barh(range(len(ways)), shares, color=list(colours.values()))
    left.set_yticks(range(len(ways)), list(ways.values()))
    left.invert_yaxis()
    left.set_xlim(0.0, 1.0)
    left.set_title("tested tokens that stay", fontsize=9)
    for way in (ALONE, ALIGNED, RELEASED):
        name, colour = ways.get(way, "target alone"), colours.get(way, COLOURS[0])
        far = nearest(drawn[way], RECIPES["full"]().law)[0].flatten().numpy()
        right.hist(far, 60, (0.0, 0.7), histtype="step", label=name, color=colour)
    right.set_yscale("log")
    right.set_title("distance from the nearest point", fontsize=9)
    right.legend(frameon=False, fontsize=7)
    save(figure, path)


def drawn_digits(recipe: DigitRecipe, folder: Path) -> dict[str, Any]:
    """Train a large and a small generator, draw alone and together; numbers, and pictures beside
    them."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        cropped = known.cropped(recipe.crop)
        store = store_of(cropped, PIXELS.of(cropped.pictures))
        rows, columns, channels = PIXELS.of(known.pictures[:1]).shape[1:]
        made = []
        for number, size in enumerate((recipe.target, recipe.draft)):
            options = replace(recipe.options, inner=recipe.inner[number])
            model = word_generator(
                MaskedVectorGenerator, (rows, columns, channels), size, options, number
            )
            learn(model, store, recipe.batch, recipe.train, number, target / f"training-{number}")
            made.append(model)
        judge = train_judge(known, held_out, recipe.crop)
        report: dict[str, Any] = {}
        for last in recipe.lasts:
            for name, ahead in (("alone", 0), ("drafted", recipe.ahead)):
                how = PathConfig(Budget(ahead, ahead), last=last)
                sampler = SpeculativeVectorSampler(SamplingConfig(1.0), Words(made[1]), how)
                words, seeds = in_turn(recipe.drawn), seeds_of(recipe.drawn, 7)
                vectors = sampler(Words(made[0]), words, seeds, batch=100)
                pictures = PIXELS.pictures(vectors.view(len(words), *made[0].codes_shape))
                np.save(target / f"{name}-{last}.npy", pictures)
                counted = sampler.statistics
                report[f"{name}-{last}"] = {
                    **judged(judge, pictures),
                    "acceptance": counted.acceptance,
                    "passes": counted.passes / counted.pictures,
                }
        return report

    return once(folder / "digits", [recipe, "digits"], make)


def plot_digits(
    folder: Path, path: str | Path, recipe: DigitRecipe | None = None
) -> dict[str, Any]:
    """Write two of each digit, alone and drafted, as PNG; the numbers."""
    report = drawn_digits(recipe or DigitRecipe(), folder)
    rows = [
        (f"{name.replace('-', ', ')}", np.load(folder / "digits" / f"{name}.npy")[:20])
        for name in report
    ]
    sheet(rows, path)
    return report


def main() -> None:
    """Write the pictures of the page."""
    parser = argparse.ArgumentParser(description="Write the pictures of the page of cspd.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--claim", type=Path, default=Path("runs/cspd"), metavar="FOLDER")
    parser.add_argument("--work", type=Path, default=Path("runs/cspd-digits"), metavar="FOLDER")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    plot_claim(given.claim, given.out / "claim.png")
    print(json.dumps(plot_digits(given.work, given.out / "digits.png"), indent=1))


if __name__ == "__main__":
    main()
