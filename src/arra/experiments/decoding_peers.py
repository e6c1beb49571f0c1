"""What drawing is compared with: transformers' `generate`, and a loop of gpt-fast's kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.generation import CompileConfig

from arra.generators.raster import RasterGenerator
from arra.generators.vocabulary import ImageVocabulary
from arra.networks.decoding.eager import EagerDecoder
from arra.networks.decoding.llama import llama_of
from arra.settings import Precision

PROMPT = "a red 3 left of a blue 5"


class GuidedDraw(LogitsProcessor):
    """Guidance and one draw for pairs that share a batch, so that both halves go on alike.

    transformers' own guidance runs the model a second time for every token; `generate` draws each
    row for itself. Here the draw is made in the processor, and `generate` takes the best.
    """

    def __init__(self, vocabulary: ImageVocabulary, guidance: float, seed: int = 0):
        self.pictures = slice(vocabulary.offset, vocabulary.offset + vocabulary.codes)
        self.offset, self.guidance = vocabulary.offset, guidance
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        conditional, unconditional = scores[:, self.pictures].chunk(2)
        guided = (unconditional + self.guidance * (conditional - unconditional)).softmax(dim=-1)
        race = torch.empty_like(guided).exponential_(generator=self.rng)
        drawn = (guided / race).argmax(dim=-1).repeat(2)[:, None] + self.offset
        return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)


def generate_run(
    generator: RasterGenerator, lm: PreTrainedModel, pictures: int, guidance: float, compiled: bool
) -> Callable[[], Tensor]:
    """Draw `pictures` with `lm.generate`, pairs in one batch; static cache where `compiled`."""
    vocabulary = generator.config.vocabulary
    texts = [PROMPT] * pictures + [None] * pictures
    ids, real = _padded([generator.prompt_ids(text) for text in texts], vocabulary.pad)
    options: dict[str, Any] = {}
    if compiled:
        compile_config = CompileConfig(mode="default", dynamic=False)
        compile_config._compile_all_devices = True  # type: ignore[assignment]
        options = {"cache_implementation": "static", "compile_config": compile_config}

    def run() -> Tensor:
        return lm.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=real,
            do_sample=False,
            max_new_tokens=generator.units,
            logits_processor=LogitsProcessorList([GuidedDraw(vocabulary, guidance)]),
            pad_token_id=vocabulary.pad,
            **options,
        )

    return run


def _padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left, and which ids are real."""
    longest = max(map(len, prompts))
    missing = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[pad] * n + list(p) for n, p in zip(missing, prompts, strict=True)])
    real = torch.tensor([[0] * n + [1] * (longest - n) for n in missing])
    return ids, real


def gpt_fast_run(
    generator: RasterGenerator, pictures: int, guidance: float, precision: Precision
) -> Callable[[], Tensor]:
    """Draw as gpt-fast does: static cache, fused projections, the step compiled as a whole, one
    `torch.multinomial` a token; pairs in one batch."""
    vocabulary = generator.config.vocabulary
    llama = llama_of(generator.lm, vocabulary.offset, vocabulary.codes)
    prompts = [generator.prompt_ids(text) for text in [PROMPT] * pictures + [None] * pictures]
    length = max(map(len, prompts)) + generator.units
    decoder = EagerDecoder(llama, precision, length, compile=True)

    @torch.inference_mode()
    def run() -> Tensor:
        logits, cache = decoder.prefill(prompts, length)
        codes: list[Tensor] = []
        for unit in range(generator.units):
            if unit:
                logits = decoder.step(codes[-1].repeat(2) + vocabulary.offset, cache)
            conditional, unconditional = logits.chunk(2)
            law = (unconditional + guidance * (conditional - unconditional)).softmax(dim=-1)
            codes.append(torch.multinomial(law, 1)[:, 0])
        return torch.stack(codes, dim=1)

    return run
