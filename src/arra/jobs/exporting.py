"""The job of `arra export`: a checkpoint as a plain language model folder, checked by reloading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from arra import __version__
from arra.data.tokenizer import CaptionEncoder
from arra.errors import ArraError, InputError
from arra.files import atomic_folder
from arra.generators.base import Batch
from arra.generators.batches import collate, sequence
from arra.generators.native import is_native
from arra.generators.raster import RasterGenerator
from arra.networks.language_model import load_causal_lm
from arra.text_to_image import CODEC, TextToImage, quiet_transformers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    dtype: str
    parameters: int
    fingerprint: str
    bytes: int

    def summary(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "folder": str(self.folder),
            "dtype": self.dtype,
            "parameters": self.parameters,
            "fingerprint": self.fingerprint,
            "bytes": self.bytes,
            "verified": True,
        }


def export(
    model: TextToImage,
    folder: Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    overwrite: bool = False,
) -> Exported:
    """Write `model` with weights of `dtype`, its codec in `codec/`, and a model card.

    An adapter is added to the weights first, which may move the logits by rounding only. Before the
    folder gets its name, transformers loads it and must give the same logits, bit for bit;
    `ArraError` otherwise. Changes the model's own weights.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r}, expected one of {', '.join(DTYPES)}")
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not empty; name a new folder, or replace it (--overwrite)")
    generator = model.to("cpu").generator
    if not isinstance(generator, RasterGenerator):
        raise InputError(
            f"export: a {generator.registered_name} generator is no language model that other "
            "programs know; its checkpoint is what there is"
        )
    _merge(generator)
    lm = generator.lm
    for parameter in lm.parameters():
        # not lm.to(), which would round buffers too: loading makes rotary frequencies anew
        parameter.data = parameter.data.to(DTYPES[dtype])
    expected = _logits(generator)
    with atomic_folder(folder) as temporary:
        model.write(temporary)
        card = model_card(model, generator, dtype)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        _verify(temporary, generator, expected)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    return Exported(folder, dtype, parameters, model.fingerprint(), size)


ROUNDING = 1e-4
"""How far logits may move when an adapter is added to the weights, as a share of the largest."""


def _merge(generator: RasterGenerator) -> None:
    """Add an adapter to the weights; `ArraError` when the logits move by more than rounding."""
    if generator.config.adapted is None:
        return
    before = _logits(generator)
    generator.merge()
    gap = float((_logits(generator) - before).abs().max() / before.abs().max())
    if not gap <= ROUNDING:
        raise ArraError(
            f"export: merging the adapter changed the logits by {gap:.1e} of the largest, expected "
            f"at most {ROUNDING:.0e}; nothing was written"
        )


def _probe(generator: RasterGenerator) -> Batch:
    """A sequence of the kind that the model was trained on: a prompt and every code."""
    vocabulary = generator.config.vocabulary
    codes = [unit % vocabulary.codes for unit in range(generator.units)]
    assert generator.tokenizer is not None
    text = CaptionEncoder.of(generator.tokenizer)(["a picture"])[0]
    return collate([sequence(text, codes, vocabulary, supervise_text=True)], {}, vocabulary.pad)


@torch.no_grad()
def _logits(generator: RasterGenerator) -> Tensor:
    """(M, V) of the probe, without those that are impossible by construction."""
    logits = generator.eval()(_probe(generator)).logits.float()
    return logits.masked_fill(logits == torch.finfo(generator.lm.dtype).min, 0.0)


def _verify(folder: Path, generator: RasterGenerator, expected: Tensor) -> None:
    """What transformers loads from `folder` gives these logits, in the generator's place."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        again = load_causal_lm(folder, dtype="auto").eval()
        AutoTokenizer.from_pretrained(folder)
    found = _logits(RasterGenerator(generator.config, again, generator.tokenizer))
    if found.shape != expected.shape or not torch.equal(found, expected):
        gap = float((found - expected).abs().max()) if found.shape == expected.shape else "shape"
        raise ArraError(
            f"export: the reloaded model's logits differ from the checkpoint's (largest difference "
            f"{gap}); nothing was written"
        )


def model_card(model: TextToImage, generator: RasterGenerator, dtype: str) -> str:
    """README.md of an exported checkpoint: what it is, its token layout, how to draw with it."""
    codec = model.codec
    v, (rows, columns) = generator.config.vocabulary, generator.config.grid
    height, width = model.size
    tokenizer = generator.tokenizer
    last = (*v.after, v.begin)
    first = v.prompt([])[: -len(last)]

    def written(ids: Sequence[int]) -> str:
        if tokenizer is None or not ids:
            return "nothing" if not ids else str(list(ids))
        return f"`{tokenizer.decode(list(ids))}` ({', '.join(map(str, ids))})"

    ends = () if v.row_end is None else (v.row_end,)
    codes, until = f"{rows} x {columns} codes, row by row,", f"exactly {rows * columns} codes"
    if generator.end is not None:
        codes = f"at most {generator.units} codes, the bytes of a file,"
        until = "codes up to the end of image, which is the last of them"
    return f"""---
library_name: transformers
pipeline_tag: text-to-image
tags:
- arra
- autoregressive-image-generation
---

# A text-to-image model

A `{generator.lm.config.model_type}` language model ({dtype}) that continues a caption with the
codes of a picture of {height} x {width} pixels: {codes} of a
{codec.registered_name} codec with {v.codes} codes, which lies in `{CODEC}/`. Made with arra
{__version__}.

## Draw

```
arra generate PATH_OF_THIS_FOLDER "a caption" --out pictures
```

```python
import arra

model = arra.TextToImage.from_pretrained("PATH_OF_THIS_FOLDER")
pictures = model.draw(["a caption"], seeds=[0])  # (1, {height}, {width}, {codec.channels}) uint8
```

## Token layout

| what | token ids |
|---|---|
| before the caption | {written(first)} |
| caption, as the tokenizer reads it, without special tokens | variable |
| after it, up to begin of image | {written(last)} |
| picture code k, k = 0 to {v.codes - 1} | {v.offset} + k |
| after each row of codes | {written(ends)} |
| end of image | {written([v.end])} |

After "begin of image" come {until}. The empty caption (no ids in its place)
is the unconditional branch of classifier-free guidance.

{_by_hand(generator, list(first), list(last))}
The codec turns the grid into pixels in [-1, 1]: `Codec.from_pretrained(".../{CODEC}").decode(grid)`
with `from arra.codecs.base import Codec`.
"""


def _by_hand(generator: RasterGenerator, before: list[int], after: list[int]) -> str:
    """How any program draws with the exported folder; nothing where its class forbids it."""
    v, (rows, columns) = generator.config.vocabulary, generator.config.grid
    if is_native(generator.lm):  # they hide codes, or have a head of their own for them
        return ""
    if generator.end is not None:
        return (
            "Without arra, `generate` of any program that runs language models draws codes and "
            "stops at the end of image; what follows it is filled up with it.\n\n"
        )
    return f"""Without arra, any program that runs language models can draw the codes; restrict
every step to the ids of picture codes. Here with guidance, which compares each step with the empty
caption:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch

lm = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
text = tokenizer.encode("a caption", add_special_tokens=False)
prompt = torch.tensor([[*{before}, *text, *{after}]])
codes = range({v.offset}, {v.offset + v.codes})
out = lm.generate(
    prompt,
    negative_prompt_ids=torch.tensor([{[*before, *after]}]),
    guidance_scale=2.0,
    max_new_tokens={rows * columns},
    do_sample=True,
    top_k=0,
    prefix_allowed_tokens_fn=lambda batch, ids: list(codes),
)
grid = (out[:, prompt.shape[1] :] - {v.offset}).view(1, {rows}, {columns})
```

"""
