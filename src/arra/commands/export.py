"""`arra export`: a checkpoint as a plain language model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def command(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Path, arg(metavar="DIR")],
    dtype: Literal["float32", "bfloat16"] = "float32",
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Export a checkpoint as a folder that any program for language models loads.

    DIR is what AutoModelForCausalLM and AutoTokenizer load, with the codec in codec/ and a model
    card (README.md) that explains the token layout. It is loaded again and must give the same
    logits before it gets its name.

    Args:
        checkpoint: A run folder, its model/, or an exported checkpoint.
        out: The new folder.
        dtype: Number type of the language model's weights; the codec's stay float32.
        overwrite: Replace DIR.
        json: Print the summary as JSON for programs.
    """
    from arra.jobs.console import print_json
    from arra.jobs.exporting import export
    from arra.text_to_image import TextToImage

    made = export(TextToImage.from_pretrained(checkpoint, "cpu"), out, dtype, overwrite)
    if json:
        print_json(made.summary())
    else:
        print(
            f"{made.folder}: {made.parameters:,} parameters in {made.dtype}, "
            f"{made.bytes / 1e6:.1f} MB; reloaded with transformers, the logits are equal"
        )
