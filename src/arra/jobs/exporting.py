"""The job of `arra export`: a checkpoint as a plain language model folder, checked by reloading."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from arra import __version__
from arra.errors import ArraError, InputError
from arra.files import atomic_folder
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

    Before the folder gets its name, `AutoModelForCausalLM` loads it and must give the same logits,
    bit for bit; `ArraError` otherwise. Changes the type of the model's own weights.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r}, expected one of {', '.join(DTYPES)}")
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not empty; name a new folder, or replace it (--overwrite)")
    model.to("cpu")
    lm = model.generator.lm
    for parameter in lm.parameters():
        # not lm.to(), which would round buffers too: loading makes rotary frequencies anew
        parameter.data = parameter.data.to(DTYPES[dtype])
    ids = _probe(model)
    with atomic_folder(folder) as temporary:
        model.write(temporary)
        card = model_card(model, dtype)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        _verify(temporary, ids, _logits(lm, ids))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    return Exported(folder, dtype, parameters, model.fingerprint(), size)


def _probe(model: TextToImage) -> Tensor:
    """(1, T) a sequence of the kind that the model was trained on: a prompt and every code."""
    generator, vocabulary = model.generator, model.generator.config.vocabulary
    codes = torch.arange(generator.units) % vocabulary.codes + vocabulary.offset
    return torch.cat([torch.tensor(generator.prompt_ids("a picture")), codes])[None]


@torch.no_grad()
def _logits(lm: Any, ids: Tensor) -> Tensor:
    return lm(input_ids=ids).logits.float()


def _verify(folder: Path, ids: Tensor, expected: Tensor) -> None:
    from transformers import AutoTokenizer

    with quiet_transformers():
        again = load_causal_lm(folder, dtype="auto").eval()
        AutoTokenizer.from_pretrained(folder)
    found = _logits(again, ids)
    if found.shape != expected.shape or not torch.equal(found, expected):
        gap = float((found - expected).abs().max()) if found.shape == expected.shape else "shape"
        raise ArraError(
            f"export: the reloaded model's logits differ from the checkpoint's (largest difference "
            f"{gap}); nothing was written"
        )


def model_card(model: TextToImage, dtype: str) -> str:
    """README.md of an exported checkpoint: what it is, its token layout, how to draw with it."""
    generator, codec = model.generator, model.codec
    v, (rows, columns) = generator.config.vocabulary, generator.config.grid
    height, width = model.size
    tokenizer = generator.tokenizer
    ids = [token for token in (v.begin, v.end, v.start) if token is not None]
    name = {} if tokenizer is None else {i: tokenizer.convert_ids_to_tokens(i) for i in ids}
    start = "nothing" if v.start is None else f"`{name.get(v.start)}` ({v.start})"
    first = "" if v.start is None else f"{v.start}, "
    return f"""---
library_name: transformers
pipeline_tag: text-to-image
tags:
- arra
- autoregressive-image-generation
---

# A text-to-image model

A `{generator.lm.config.model_type}` language model ({dtype}) that continues a caption with the
codes of a picture of {height} x {width} pixels: {rows} x {columns} codes, row by row, of a
{codec.registered_name} codec with {v.codes} codes, which lies in `{CODEC}/`. Made with arra
{__version__}.

## Draw

```
arra generate PATH_OF_THIS_FOLDER "a caption" --out pictures
```

```python
import arra

model = arra.TextToImage.from_pretrained("PATH_OF_THIS_FOLDER")
pictures = model.draw(["a caption"], seeds=[0])  # (1, {height}, {width}, 3) uint8
```

## Token layout

| what | token ids |
|---|---|
| start of every sequence | {start} |
| caption, as the tokenizer reads it, without special tokens | variable |
| begin of image, `{name.get(v.begin)}` | {v.begin} |
| picture code k, k = 0 to {v.codes - 1} | {v.offset} + k |
| end of image, `{name.get(v.end)}` | {v.end} |

After "begin of image" come exactly {rows * columns} codes. The empty caption (no ids between start
and begin of image) is the unconditional branch of classifier-free guidance.

Without arra, any program that runs language models can draw the codes (here without guidance);
restrict every step to the ids of picture codes:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch

lm = AutoModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")
text = tokenizer.encode("a caption", add_special_tokens=False)
prompt = torch.tensor([[{first}*text, {v.begin}]])
codes = range({v.offset}, {v.offset + v.codes})
out = lm.generate(
    prompt,
    max_new_tokens={rows * columns},
    do_sample=True,
    top_k=0,
    prefix_allowed_tokens_fn=lambda batch, ids: list(codes),
)
grid = (out[:, prompt.shape[1] :] - {v.offset}).view(1, {rows}, {columns})
```

The codec turns the grid into pixels in [-1, 1]: `Codec.from_pretrained(".../{CODEC}").decode(grid)`
with `from arra.codecs.base import Codec`.
"""
