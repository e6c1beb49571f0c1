"""Drawing with a decoder of our own, where there is one for the model and it pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from arra.errors import InputError
from arra.generators.base import Generator
from arra.generators.raster import RasterGenerator
from arra.networks.decoding import building
from arra.networks.decoding.eager import EagerDecoder
from arra.networks.decoding.llama import Unsupported, llama_of, unsupported
from arra.networks.decoding.native import NativeDecoder
from arra.orders.trees import Trees
from arra.settings import Decoder, Precision, SamplingConfig

SAVED_SECONDS = 3e-4
"""What the kernels, or a compiled graph, save of a step for each block: the calls from Python."""
LONGEST_PROMPT = 4096
"""Tokens of a prompt for which rotary tables are made."""
COMPILE_SECONDS = 40.0
"""What `torch.compile` takes for a whole step on a GPU: part of the estimate of when it pays."""


@dataclass(frozen=True)
class Decoding:
    """What draws, which way, and why so."""

    stepper: Any
    """A `samplers.ancestral.Stepper`: the generator itself where `kind` is "plain"."""
    kind: str
    """"plain" (the language model's own forward), "eager", "compiled" (torch) or "native"."""
    reason: str
    """Why nothing faster; empty where this is the fastest."""


class FastStepper:
    """A generator's units drawn by a decoder that holds the weights in its own way."""

    def __init__(self, generator: RasterGenerator, decoder: NativeDecoder | EagerDecoder):
        self.generator, self.decoder = generator, decoder
        self.units, self.prompt_ids = generator.units, generator.prompt_ids
        self.end, self.codes = generator.end, generator.codes
        self._offset = generator.config.vocabulary.offset

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """As the generator's; equal prompts are read once."""
        return self.decoder.prefill(prompts, max(map(len, prompts)) + self.units)

    def step(self, codes: Tensor, cache: Any) -> Tensor:
        """As the generator's."""
        return self.decoder.step(codes + self._offset, cache)

    def step_tree(self, codes: Tensor, trees: Trees, cache: Any) -> tuple[Tensor, Tensor]:
        """As the generator's."""
        return self.decoder.step_tree(codes + self._offset, trees, cache)

    # ---- many pictures in one cache, each at a step of its own ----------------------------------

    @property
    def scattered(self) -> bool:
        """Whether `advance` takes any slots, in any order; else those of a range."""
        return self.decoder.scattered

    def room(self, slots: int, prompt: int) -> Any:
        """A cache of empty slots for pictures after prompts of up to `prompt` tokens."""
        return self.decoder.room(slots, prompt + self.units)

    def advance(
        self,
        codes: Tensor,
        cache: Any,
        slots: Any,
        prompts: Sequence[Sequence[int]],
        places: Sequence[int],
    ) -> Tensor:
        """Logits (n + m, codes): of the next unit after `codes` (n,) in `slots`, and of the first
        one after m prompts, each read into one of `places`."""
        return self.decoder.advance(codes + self._offset, cache, slots, prompts, places)


class NativeStepper(FastStepper):
    """One that guides, filters and draws in one call."""

    decoder: NativeDecoder

    def choose(self, logits: Tensor, scale: float, config: SamplingConfig, race: Tensor) -> Tensor:
        """See `NativeDecoder.choose`."""
        return self.decoder.choose(logits, scale, config, race)

    def choices(self, choices: Sequence[tuple[int, int, float, SamplingConfig]]) -> Any:
        """See `NativeDecoder.choices`."""
        return self.decoder.choices(choices)

    def choose_each(self, logits: Tensor, choices: Any, race: Tensor) -> Tensor:
        """See `NativeDecoder.choose_each`."""
        return self.decoder.choose_each(logits, choices, race)


def decoding(
    generator: Generator,
    steps: int,
    *,
    prompt: int = 0,
    decoder: Decoder = "auto",
    precision: Precision = "fp32",
    trees: bool = False,
) -> Decoding:
    """How to draw `steps` units one after the other, after prompts of up to `prompt` tokens.

    "auto" takes the fastest way that gives the tokens of the plain one at fp32. What has to be
    built or compiled first is so only if it saves more time than that takes, by estimate: `steps` x
    blocks x `SAVED_SECONDS`. "fast" builds in any case, and refuses to fall back. With `trees` what
    draws also reads draft trees; whether there are any is for `Generator.undraftable` to say.

    Raises `InputError` where "fast", bf16 or int8 is wanted of a model that cannot be decoded so.
    """
    if decoder == "plain":
        reason = "as wished"
    elif isinstance(generator, RasterGenerator):
        reason = _obstacle(generator, prompt, precision)
    else:
        reason = f"a {generator.registered_name} generator has its own way of drawing only"
    if reason or not isinstance(generator, RasterGenerator):
        if decoder == "fast" or precision != "fp32":
            raise InputError(f"decoder {decoder}, precision {precision}: {reason}")
        return Decoding(generator.tree_stepper() if trees else generator, "plain", reason)
    pays = decoder == "fast" or precision != "fp32"
    saved = steps * generator.depth * SAVED_SECONDS
    if generator.lm.device.type != "cpu":
        kind = "compiled" if pays or saved > COMPILE_SECONDS else "eager"
        why = "" if kind == "compiled" else f"{steps} steps do not pay for compiling"
        return Decoding(FastStepper(generator, _kept(generator, precision, kind)), kind, why)
    if not (pays or building.built() or saved > building.BUILD_SECONDS):
        why = f"{steps} steps do not pay for building the kernels"
    else:
        try:
            native = _kept(generator, precision, "native")
            return Decoding(NativeStepper(generator, native), "native", "")
        except Unsupported as error:
            why = str(error)
    return Decoding(FastStepper(generator, _kept(generator, precision, "eager")), "eager", why)


def _obstacle(generator: RasterGenerator, prompt: int, precision: Precision) -> str:
    """Why no decoder of ours gives the tokens of this generator; empty where one does."""
    lm: Any = generator.lm
    if (reason := unsupported(lm, prompt + generator.units)) is not None:
        return reason
    if prompt > LONGEST_PROMPT:
        return f"a prompt has more than {LONGEST_PROMPT} tokens"
    if generator.config.vocabulary.row_end is not None:
        return "its rows of codes end with a token"
    if precision == "fp32" and lm.dtype != torch.float32:
        return f"its weights are {str(lm.dtype).removeprefix('torch.')}"
    return ""


_decoders: WeakKeyDictionary[RasterGenerator, dict[tuple, tuple]] = WeakKeyDictionary()


def _kept(generator: RasterGenerator, precision: Precision, kind: str) -> Any:
    """The decoder of the generator's present weights, made anew when these have changed."""
    weights = list(generator.lm.parameters())
    # training writes in place or puts other tensors; some write behind the version counter's back
    norms = torch.stack(torch._foreach_norm([x.detach() for x in weights])).tolist()
    state = [(x.data_ptr(), x._version) for x in weights], norms
    kept = {k: v for k, v in _decoders.get(generator, {}).items() if v[0] == state}
    if (kind, precision) not in kept:
        vocabulary = generator.config.vocabulary
        llama = llama_of(generator.lm, vocabulary.offset, vocabulary.codes)
        longest = LONGEST_PROMPT + generator.units
        if kind == "native":
            made: Any = NativeDecoder(llama, precision, longest)
        else:
            made = EagerDecoder(llama, precision, longest, compile=kind == "compiled")
        kept[kind, precision] = state, made
    _decoders[generator] = kept
    return kept[kind, precision][1]
