"""How fast pictures are drawn, beside transformers and a loop of gpt-fast's kind."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arra.experiments.speed.measure import Case, Contender, Precision, Work
from arra.settings import LlamaSize, SamplingConfig

if TYPE_CHECKING:
    from arra.generators.raster import RasterGenerator

QUESTION = "How fast are pictures drawn, token by token, with guidance?"
GUIDANCE = 2.0
BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "int8": 1}
GENERATE, GENERATE_BF16 = "transformers generate", "transformers generate, bf16"
COMPILED = "transformers generate, compiled"
COMPILED_BF16 = "transformers generate, compiled, bf16"
GPT_FAST = "loop as gpt-fast's"


@dataclass(frozen=True)
class Size:
    """A model and how much of a picture it draws here."""

    name: str
    model: LlamaSize
    codes: int
    grid: tuple[int, int]
    note: str = ""


DEMO = Size("demo model", LlamaSize(128, 5, 4, 352, 128, 100.0, True), 1024, (6, 6))
BASE = Size(
    "111M",
    LlamaSize.named("111M"),
    16384,
    (4, 16),
    "The first 64 of 256 tokens: later ones read more of the cache, which costs everybody more.",
)
TINY = Size("tiny model", LlamaSize(32, 2, 2, 48, 64), 16, (2, 2))


def cases(budget: str, folder: Path) -> Iterator[Callable[[], Case]]:
    """Batches of 1 and of many, of a small model and of one that memory bandwidth limits.

    `ARRA_DEMO` may name a folder that `arra demo` made: then precisions are also judged by the
    pictures that the trained model draws.
    """
    if budget == "tiny":
        yield partial(_case, TINY, 2, [GENERATE], {})
        return
    peers = [COMPILED, GENERATE, GPT_FAST]
    yield partial(_case, DEMO, 1, peers, {"arra": 8.0})
    peers = [COMPILED_BF16, GENERATE, GENERATE_BF16]
    yield partial(_case, DEMO, 32, peers, {"arra": 3.0}, judged=True)
    targets = {"arra, bf16": 2.0, "arra, int8 weights": 3.5}
    for pictures in (1, 8):
        peers = [GENERATE_BF16, COMPILED_BF16, GENERATE, f"{GPT_FAST}, bf16"]
        yield partial(_case, BASE, pictures, peers, targets)


def _case(
    size: Size,
    pictures: int,
    peers: Sequence[str],
    targets: Mapping[str, float],
    judged: bool = False,
) -> Case:
    generator = _generator(size)
    made = [_peer(generator, pictures, name) for name in peers]
    made += [_ours(generator, pictures, p, judged) for p in ("fp32", "bf16", "int8")]
    return Case(
        name=f"{size.name}, batch {pictures}",
        unit="step",
        units=generator.units,
        contenders=tuple(made),
        peers=tuple(peers),
        targets=targets,
        note=f"A step is a token of all {pictures} pictures and of their pairs without caption. "
        + size.note,
    )


def _generator(size: Size) -> RasterGenerator:
    from arra.data.tokenizer import train_text_tokenizer
    from arra.experiments.decoding_peers import PROMPT
    from arra.generators.raster import RasterGenerator

    tokenizer = train_text_tokenizer([PROMPT])
    made = RasterGenerator.from_scratch(tokenizer, size.codes, size.grid, size.model, seed=0)
    return made.eval()


def _peer(generator: RasterGenerator, pictures: int, name: str) -> Contender:
    import torch

    from arra.experiments.decoding_peers import generate_run, gpt_fast_run

    precision: Precision = "bf16" if "bf16" in name else "fp32"
    work = _work(generator, pictures, precision)
    if name.startswith(GPT_FAST):
        run = gpt_fast_run(generator, pictures, GUIDANCE, precision)
        options = "static cache, fused projections, compiled step, torch.multinomial"
        return Contender(name, options, run, precision, work)
    lm = generator.lm
    if precision == "bf16":
        lm = copy.deepcopy(lm).to(torch.bfloat16)  # type: ignore[arg-type]
    compiled = "compiled" in name
    options = "static cache, forward compiled by generate" if compiled else "dynamic cache"
    options += f", {precision}; pairs in one batch, guidance and draw in a logits processor"
    run = generate_run(generator, lm, pictures, GUIDANCE, compiled)
    return Contender(name, options, run, precision, work)


def _ours(
    generator: RasterGenerator, pictures: int, precision: Precision, judged: bool
) -> Contender:
    from arra.experiments.decoding_peers import PROMPT
    from arra.generators.fast import decoding
    from arra.networks.decoding import building
    from arra.samplers.ancestral import AncestralSampler

    sampler = AncestralSampler(SamplingConfig(guidance=GUIDANCE))
    kinds: list[str] = []

    def run() -> Any:
        way = decoding(generator, generator.units, decoder="fast", precision=precision)
        kinds.append(way.kind)
        return sampler(way.stepper, [PROMPT] * pictures, range(pictures), batch=pictures)

    def facts() -> dict[str, float]:
        found = {"seconds of building": building.build_seconds}
        demo = os.environ.get("ARRA_DEMO")
        return {**found, **_quality(demo)[precision]} if judged and demo else found

    names = {"fp32": "arra", "bf16": "arra, bf16", "int8": "arra, int8 weights"}
    options = "own decoder, one call a step; prompts read once; all of drawing but the codec"
    work = _work(generator, pictures, precision)
    return Contender(names[precision], options, run, precision, work, facts)


@cache
def _quality(demo: str) -> dict[Precision, dict[str, float]]:
    from arra.experiments.decoding_quality import quality

    return quality(Path(demo))


def _work(generator: RasterGenerator, pictures: int, precision: Precision) -> Work:
    """What a picture's tokens need at the least: all matrices and the filled cache for each step,
    and two operations for every number of a matrix and row."""
    from arra.experiments.decoding_peers import PROMPT
    from arra.networks.decoding.llama import llama_of

    vocabulary = generator.config.vocabulary
    llama = llama_of(generator.lm, vocabulary.offset, vocabulary.codes)
    parts = [[b.qkv, b.out, b.gate, b.up, b.down] for b in llama.blocks]
    matrices = sum(x.weight.numel() for block in parts for x in block) + llama.head.weight.numel()
    rows = 2 * pictures
    prompts = [len(generator.prompt_ids(text)) for text in (PROMPT, None)]
    positions = sum(prompts) / 2 + generator.units / 2
    each = len(parts) * 2 * llama.kv_heads * llama.head_size * positions
    weights = matrices * BYTES[precision]
    step = weights + rows * each * max(BYTES[precision], 2)  # keys and values are kept in bf16
    return Work(
        bytes=generator.units * step,
        operations=generator.units * rows * 2 * (matrices + each),
        cached=weights < 16 << 20,
    )
