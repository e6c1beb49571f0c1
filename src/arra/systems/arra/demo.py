"""The demo: a language model learns to draw from captions, with and without alignment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from arra.environment import machine_info, versions
from arra.experiments.arms import Arm, arm_job, drawn_pictures
from arra.experiments.bench import Bench, build_bench
from arra.experiments.parallel import Stopwatch, run_jobs
from arra.files import to_plain
from arra.metrics.bootstrap import ratio
from arra.metrics.readings import Reading
from arra.pixels import to_uint8, to_unit
from arra.report import Pictures, Report, write_report
from arra.systems.arra.recipe import ALIGNED, BASELINE, RECIPES, Recipe

SHOWN = 24
"""Prompts on the page."""


def run_demo(folder: Path, budget: str = "full", seed: int = 0, quiet: bool = False) -> Report:
    """Everything from scenes to the report; goes on where an interrupted call stopped.

    Leaves `report.html`, `report.json`, `grid.png` and the checkpoints `baseline/model` and
    `aligned/model` in `folder`.
    """
    recipe = RECIPES[budget]()
    watch = Stopwatch()
    bench = build_bench(recipe.bench, folder / "bench", quiet=quiet)
    watch.lap("codec, reader, encoder, store")
    arms = [BASELINE, ALIGNED]
    found = run_arms(bench, recipe, arms, seed, folder, quiet)
    watch.lap("training and judging both arms")
    report, pictures = compose(bench, recipe, found, folder, seed)
    watch.lap("report")
    report["seconds"] = {**watch.seconds, "total": sum(watch.seconds.values())}
    write_report(folder, report, pictures)
    return report


def run_arms(
    bench: Bench, recipe: Recipe, arms: list[Arm], seed: int, folder: Path, quiet: bool
) -> dict[str, dict[str, Any]]:
    """Train and judge the arms side by side: name -> result."""
    jobs = [
        arm_job(arm.label, bench, arm, recipe.plan, recipe.judge, seed, folder / arm.name)
        for arm in arms
    ]
    return {arm.name: result for arm, result in zip(arms, run_jobs(jobs, quiet=quiet), strict=True)}


def compose(
    bench: Bench, recipe: Recipe, found: Mapping[str, dict[str, Any]], folder: Path, seed: int
) -> tuple[Report, Pictures]:
    """What the page says and shows."""
    real, scenes = bench.scenes("heldout", recipe.judge.prompts, recipe.judge.prompt_seed)
    right = {
        name: [a == b for a, b in zip(*result["per_prompt"]["all"], strict=True)]
        for name, result in found.items()
    }
    drawn = {name: drawn_pictures(folder / name)[:SHOWN] for name in found}
    codec = bench.codec
    through = to_uint8(codec.decode(codec.encode(to_unit(real[:8]))))
    pictures = Pictures(
        captions=[scene.caption for scene in scenes[:SHOWN]],
        arms=drawn,
        real=real[:SHOWN],
        right={name: values[:SHOWN] for name, values in right.items()},
        read={name: [in_words(r) for r in bench.reader.read(p)] for name, p in drawn.items()},
        originals=real[:8],
        reconstructions=through,
    )
    report = {
        "seconds": {},
        "arms": {name: _arm(result) for name, result in found.items()},
        "reader_error": _reader_error(bench),
        "differences": {"all": paired(found["aligned"], found["baseline"], "all")},
        "prompts": recipe.judge.prompts,
        "trained": _trained(bench, found),
        "history": {name: result["training"]["history"] for name, result in found.items()},
        "settings": {"seed": seed, **to_plain(recipe)},
        "machine": dict(machine_info()),
        "versions": versions(),
    }
    return cast(Report, report), pictures


def _arm(result: dict[str, Any]) -> dict[str, Any]:
    accuracy = result["prompt_accuracy"]
    bits = result["bits"]
    return {
        "prompt_accuracy": {
            name: accuracy[name] for name in ("digit", "colour", "relation", "all")
        },
        "frechet": {
            k: result["frechet"][k] for k in ("value", "low", "high", "floor", "encoder", "n")
        },
        "held_out_bits": bits["heldout"],
        "step_seconds": result["training"]["step_seconds"],
        "more": {
            "held-out bits per token, seen combinations": bits["seen"],
            "right number of digits": accuracy["count"],
            "background, where named": accuracy["ground"],
            "whole prompt right, prompts shuffled (control)": result["shuffled_prompts"]["all"],
            "MS-SSIM within a prompt": result["ms_ssim"]["generated"],
            "MS-SSIM within a prompt, real scenes": result["ms_ssim"]["real"],
            "nearer to training than real pictures are (0.01 expected)": result["nearest_training"][
                "features"
            ],
            **(
                {"image-text cosine": result["image_text"]["matched"]}
                if "image_text" in result
                else {}
            ),
        },
    }


def _reader_error(bench: Bench) -> dict[str, Any]:
    """How often the reader is wrong about real test scenes: 1 - accuracy."""
    right = bench.report("reader")["right"]
    return {
        name: {
            "value": 1 - right[name]["value"],
            "low": 1 - right[name]["high"],
            "high": 1 - right[name]["low"],
        }
        for name in ("digit", "colour", "relation", "all")
    }


def _trained(bench: Bench, found: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    codec, encoder = bench.report("codec"), bench.report("encoder")
    reader, training = bench.report("reader"), next(iter(found.values()))["training"]
    names = {
        "codec": (
            f"vector quantisation, error {codec['mse']:.4f} on [-1, 1], "
            f"{codec['usage']:.0%} of the codes used",
            codec,
        ),
        "reader": ("reads digits, inks and places; the judge", reader),
        "encoder": (f"frozen teacher of the alignment, trained by {encoder['objective']}", encoder),
        "language model": ("Llama from random weights, the same start in each arm", training),
    }
    return [
        {"name": name, "what": what, "parameters": facts["parameters"], "steps": facts["steps"]}
        for name, (what, facts) in names.items()
    ]


def paired(one: dict[str, Any], other: dict[str, Any], attribute: str) -> dict[str, float]:
    """Difference of a share between two arms on the same prompts, bootstrapped over prompts."""
    (r1, asked), (r2, _) = one["per_prompt"][attribute], other["per_prompt"][attribute]
    difference, asked_of = np.asarray(r1) - np.asarray(r2), np.asarray(asked)
    rng = np.random.default_rng(0)
    draws = rng.integers(len(asked_of), size=(2000, len(asked_of)))
    values = difference[draws].sum(axis=1) / np.maximum(asked_of[draws].sum(axis=1), 1)
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": ratio(difference, asked_of), "low": float(low), "high": float(high)}


def in_words(reading: Reading) -> str:
    """What the reader saw, as a phrase."""
    digits = sorted(reading.digits, key=lambda d: (round(d.row / 6), d.column))
    seen = ", ".join(f"{d.colour} {d.value}" for d in digits) or "no digit"
    return f"{seen} on {reading.ground}"
