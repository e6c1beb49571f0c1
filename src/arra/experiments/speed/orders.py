"""Raster against next-scale against next-bits generation: passes and seconds a picture.

Models of about as many parameters draw pictures of as many cells. What their pictures are worth is
another experiment (`arra ablate generators`): weights do not change how long drawing takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arra.experiments.speed.measure import Case, Contender, Precision
from arra.settings import LlamaSize, SamplingConfig, ScaleSize, Sizes

if TYPE_CHECKING:
    from arra.codecs.base import Codec
    from arra.generators.base import Generator

QUESTION = "How long does a picture take code by code, bit by bit, scale by scale?"
_CAPTION = "a red 3"
_SAMPLING = SamplingConfig(guidance=2.0, guidance_schedule="linear")


@dataclass(frozen=True)
class _Size:
    name: str
    llama: LlamaSize
    side: int
    codes: int
    bits: int


_SMALL = _Size("1 M", LlamaSize(128, 5, 4, 352, 128, 100.0, True), 6, 1024, 10)
_BASE = _Size("111 M", LlamaSize.named("111M"), 16, 4096, 12)
_TINY = _Size("tiny", LlamaSize(32, 2, 2, 48, 64), 2, 16, 4)


def cases(budget: str, folder: Path) -> Iterator[Callable[[], Case]]:
    """Pictures of 36 and of 256 codes, alone and many at once, with guidance."""
    if budget == "tiny":
        yield partial(_case, _TINY, 2, ("fp32",), False)
        return
    yield partial(_case, _SMALL, 1, ("fp32",), True)
    yield partial(_case, _SMALL, 32, ("fp32", "bf16"), False)
    yield partial(_case, _BASE, 1, ("fp32", "bf16"), False)


def _case(size: _Size, pictures: int, precisions: tuple[Precision, ...], compiled: bool) -> Case:
    made = [_raster(size, pictures, "fp32", "plain")]
    made += [_raster(size, pictures, precision, "fast") for precision in precisions]
    for order in ("bits", "scales"):
        made += [_other(order, size, pictures, precision) for precision in precisions]
        if compiled:
            made.append(_other(order, size, pictures, "fp32", compiled=True))
    peers = ("raster", "raster, own decoder")
    return Case(
        name=f"{size.name} parameters, {size.side**2} cells, {pictures} at once",
        unit="picture",
        units=pictures,
        contenders=tuple(made),
        peers=peers,
        note="Caption and guidance (a pair for each picture); without the codec's decoder.",
    )


def _raster(size: _Size, pictures: int, precision: Precision, decoder: Any) -> Contender:
    from arra.data.tokenizer import train_text_tokenizer
    from arra.generators.fast import decoding
    from arra.generators.raster import RasterGenerator

    tokenizer = train_text_tokenizer([_CAPTION])
    grid = (size.side, size.side)
    generator = RasterGenerator.from_scratch(tokenizer, size.codes, grid, size.llama, seed=0)
    way = decoding(generator.eval(), generator.units, decoder=decoder, precision=precision)
    name = "raster" if decoder == "plain" else "raster, own decoder"
    if precision != "fp32":
        name += f", {precision}"
    options = "the language model's forward and a cache" if decoder == "plain" else way.kind
    return _contender(name, options, generator, way.stepper, pictures, precision, autocast=False)


def _other(
    order: str, size: _Size, pictures: int, precision: Precision, compiled: bool = False
) -> Contender:
    import arra.generators  # noqa: F401 - registers
    from arra.data.tokenizer import train_text_tokenizer
    from arra.registry import generators

    codec, sizes = _codec(order, size), Sizes(size.llama, ScaleSize.beside(size.llama))
    kind = generators["scales" if order == "scales" else "grid"]
    tokenizer = train_text_tokenizer([_CAPTION])
    generator = kind.for_store(tokenizer, codec, (size.side, size.side), sizes, seed=0).eval()
    name, options = order, "torch's own operations and a cache"
    if compiled:
        name, options = f"{name}, compiled", "every block by torch.compile, shapes dynamic"
        for block in generator.decoder_blocks():
            block.compile(dynamic=True)
    if precision != "fp32":
        name, options = f"{name}, {precision}", f"{options}, under autocast"
    autocast = precision != "fp32"
    return _contender(name, options, generator, generator, pictures, precision, autocast)


def _codec(order: str, size: _Size) -> Codec:
    """A codec that was never trained, of the right shape."""
    from arra.codecs import BinaryCodec, BinaryConfig, MultiScaleCodec, MultiScaleConfig
    from arra.codecs.autoencoder import AutoencoderConfig
    from arra.codecs.pyramids import ResidualConfig
    from arra.orders.pyramid import growing_sizes

    autoencoder = AutoencoderConfig(4, width=16, blocks=1, decoder_blocks=1, groups=2, stem="patch")
    if order == "bits":
        return BinaryCodec.seeded(BinaryConfig(autoencoder, size.bits, 2, autoencoder.width), 0)
    residual = ResidualConfig(size.codes, width=32)
    config = MultiScaleConfig(autoencoder, growing_sizes(size.side), residual)
    return MultiScaleCodec.seeded(config, 0)


def _contender(
    name: str,
    options: str,
    generator: Generator,
    stepper: Any,
    pictures: int,
    precision: Precision,
    autocast: bool,
) -> Contender:
    import torch

    import arra.samplers  # noqa: F401 - registers
    from arra.precision import autocast as casting
    from arra.registry import samplers

    sampler = samplers[generator.sampler](_SAMPLING)
    captions, seeds = [_CAPTION] * pictures, list(range(pictures))

    def run() -> Any:
        with casting(torch.device("cpu"), autocast):
            return sampler(stepper, captions, seeds, batch=pictures)

    parameters = sum(p.numel() for p in generator.parameters()) / 1e6

    def facts() -> dict[str, float]:
        return {"passes": float(generator.units), "parameters (millions)": parameters}

    return Contender(name, options, run, precision, facts=facts)
