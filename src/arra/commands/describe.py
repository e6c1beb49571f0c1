"""`arra describe`: what a checkpoint says of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg


def command(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="PICTURE")],
    *,
    ask: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = (),
    most: int = 48,
    fit: Literal["crop", "pad", "stretch"] = "crop",
    batch: int = 64,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Say what pictures show, or answer questions about them.

    For checkpoints that read as well as draw: the generators raster-vectors and masked-language.
    The likeliest word follows the likeliest word, so that the same picture gives the same text.

    Args:
        checkpoint: A run folder, its model/, or an exported checkpoint.
        pictures: Files of pictures, in any format that `arra prepare` reads.
        ask: A question, or the beginning of a caption; may be repeated, and then each picture has
            several answers. Without it captions are said.
        most: Most tokens of a text.
        fit: How a picture of another size comes to the size that the checkpoint draws.
        batch: Pictures read at once.
        device: Where to work: auto, cpu, cuda, cuda:1, mps.
        json: Print a JSON list of pictures, questions and texts for programs.
    """
    from arra.jobs.console import choose_device, print_json
    from arra.jobs.describing import Description, describe

    job = Description(checkpoint, pictures, ask, most, fit, batch)
    said = describe(job, choose_device(device))
    if json:
        print_json(said)
        return
    for one in said:
        asked = "" if one.asked is None else f"{one.asked} "
        print(f"{one.picture}: {asked}{one.text}")
