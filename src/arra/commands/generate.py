"""`arra generate`: draw pictures for prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from arra.settings import SamplingConfig

# Frozen, so that one object can be the default of every call.
_SAMPLINGCONFIG = SamplingConfig()


def command(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT")] = (),
    *,
    out: Annotated[Path, arg(metavar="DIR")],
    prompts_file: Annotated[Path | None, arg(name="prompts", metavar="FILE")] = None,
    count: int = 1,
    seed: int = 0,
    batch: int = 64,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
    sampling: Annotated[SamplingConfig, arg(name="")] = _SAMPLINGCONFIG,
) -> None:
    """Draw pictures for prompts with a trained checkpoint, one PNG for each prompt and seed.

    Every PNG carries its prompt, seed, settings and checkpoint in text chunks. DIR also gets
    manifest.jsonl (one JSON object a picture) and grid.png. The same prompt, seed and settings give
    the same picture. Killed at any moment, the same command draws only what is missing and ends
    with the same files; more prompts or seeds can be added to a folder, other settings cannot.

    Args:
        checkpoint: A run folder, its model/, or an exported checkpoint.
        prompts: What to draw; quote each prompt.
        out: Folder for the pictures.
        prompts_file: A UTF-8 text file with a prompt on each line.
        count: Pictures for each prompt, with the seeds --seed and following.
        seed: Seed of the first picture of each prompt.
        batch: Pictures drawn at once.
        device: Where to draw: auto, cpu, cuda, cuda:1, mps.
        overwrite: Replace pictures in DIR that were drawn with other settings.
        json: Print a JSON list of the pictures for programs.
        sampling: How pictures are drawn.
    """
    from arra.jobs.console import choose_device, print_json
    from arra.jobs.generation import GRID, Generation, generate, read_prompts
    from arra.text_to_image import TextToImage

    wanted = [*prompts, *(read_prompts(prompts_file) if prompts_file is not None else ())]
    model = TextToImage.from_pretrained(checkpoint, choose_device(device))
    made = generate(model, Generation(wanted, out, count, seed, sampling, batch, overwrite))
    if json:
        print_json(
            [
                {"file": str(file), "prompt": one.prompt, "seed": one.seed}
                for file, one in zip(made.files, made.wanted, strict=True)
            ]
        )
    else:
        kept = len(made.files) - made.drawn
        there = f" ({kept} were there)" if kept else ""
        print(f"{made.drawn} pictures drawn{there}: {out}; side by side: {out / GRID}")
