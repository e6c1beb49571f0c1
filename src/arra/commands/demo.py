"""`arra demo`: the main job in minutes, with a page at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

if TYPE_CHECKING:
    from arra.report import Report


def command(
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/demo"),
    budget: Literal["tiny", "full"] = "full",
    seed: int = 0,
    json: bool = False,
) -> None:
    """A language model learns to draw digit scenes from captions, with and without alignment.

    Trains everything from nothing on two CPU cores (codec, reader, encoder, two language models),
    judges both arms on combinations that training never showed, and writes a page that shows the
    difference. Run again after an interruption, it goes on where it stopped.

    Args:
        out: Folder for the report and the two checkpoints.
        budget: "full" takes minutes and draws pictures that one can read; "tiny" takes about one
            minute and only shows that everything runs.
        seed: Of initial weights, data order and sampling, the same for both arms.
        json: Print the report as JSON for programs instead of a table.
    """
    from arra.systems.arra.demo import run_demo

    report = run_demo(out, budget, seed, quiet=json)
    if json:
        print((out / "report.json").read_text(encoding="utf-8"), end="")
        return
    _print_table(report)
    print(f"The page: {out / 'report.html'}")
    print("Three commands to try next:")
    print(f'  arra generate {out}/aligned/model "a red 3 left of a blue 5" --out pictures')
    print(f"  arra evaluate {out}/aligned/model --scenes --out evaluation")
    print("  arra prepare FOLDER_OF_CAPTIONED_PICTURES --train-codec vq --out store")


def _print_table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    arms = report["arms"]
    title = f"{report.get('prompts')} prompts of combinations that training never showed"
    table = Table("measure", *arms, title=title)
    for name in ("digit", "colour", "relation", "all"):
        cells = [_interval(arm["prompt_accuracy"][name], 100) for arm in arms.values()]
        table.add_row(f"{name} right, %", *cells)
    table.add_row("Fréchet distance", *[_interval(arm["frechet"], 1) for arm in arms.values()])
    table.add_row(
        "held-out bits per token", *[_interval(a["held_out_bits"], 1) for a in arms.values()]
    )
    table.add_row("seconds per step", *[_interval(a["step_seconds"], 1) for a in arms.values()])
    Console().print(table)
    print(
        f"{report['seconds']['total']:.0f} s in all; the reader itself is wrong about "
        f"{100 * (report['reader_error']['digit']['value'] or 0):.1f} % of real digits."
    )


def _interval(value: object, scale: float) -> str:
    if not isinstance(value, dict):
        return f"{value:.3f}"
    digits = 1 if scale == 100 else 3
    text = f"{scale * value['value']:.{digits}f}"
    if value.get("low") is None:
        return text
    return f"{text} [{scale * value['low']:.{digits}f}, {scale * value['high']:.{digits}f}]"
