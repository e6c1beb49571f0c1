"""What generators of vectors share: captions, batches, and how they are made, saved and drawn.

A sequence is a caption, padded on the left, and behind it the L positions that predict the picture,
the same for all. B pictures, n vectors of C numbers each, P positions of captions, width D.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arra.codecs.base import Codec
from arra.errors import InputError
from arra.generators.base import Batch, Generator
from arra.generators.batches import IGNORE, Sample, Store, StoreBatches
from arra.heads.processes import Diffusion, Flow, Process
from arra.heads.solvers import Solved
from arra.randomness import Noise, seeded
from arra.settings import BatchConfig, LlamaSize, Sizes, VectorOptions

PROCESS = ("objective", "steps", "noise_schedule", "stochastic", "logit")
"""The options that name the way from noise to vectors."""
SOLVED = (*PROCESS, "solver")
"""The same where any solver may follow it."""
HEAD = ("inner", "inner_depth", "repeats")
"""Those of a head of single vectors."""
MAP_HEAD = ("inner", "inner_depth", "told", "guided_until")
"""Those of a head over maps."""


@dataclass(frozen=True)
class VectorConfig:
    """What a generator of vectors is."""

    grid: tuple[int, int]
    """Rows and columns of vectors."""
    dimensions: int
    """C, numbers of a vector."""
    text: int = 1
    """Entries of the text tokenizer."""
    longest: int = 64
    """Tokens of the longest caption."""
    size: LlamaSize = field(default_factory=LlamaSize)
    """The network; `tied` and `positions` have no effect."""
    options: VectorOptions = field(default_factory=VectorOptions)
    """Head, solver and units."""
    codec: str = ""
    """Fingerprint of the codec whose vectors the model draws."""
    frames: int = 1
    """Frames of a clip, whose numbers lie side by side in a vector."""

    def __post_init__(self) -> None:
        if min(*self.grid, self.frames) < 1 or self.dimensions < 1:
            raise InputError(
                f"VectorConfig: a grid of {self.grid} vectors of {self.dimensions}, expected 1 or "
                "more"
            )
        if self.dimensions % self.frames:
            raise InputError(
                f"VectorConfig.frames: {self.frames}, which does not divide vectors of "
                f"{self.dimensions} numbers"
            )

    @property
    def cells(self) -> int:
        """n."""
        return self.grid[0] * self.grid[1]


class VectorBatches(StoreBatches):
    """caption, then L positions that predict the picture; its vectors are `Batch.latents`."""

    def __init__(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None,
        prompt: Callable[[Sequence[int]], list[int]],
        positions: int,
    ):
        """`prompt`: text ids to what stands before the picture; `positions`: L."""
        super().__init__(store, config, features)
        self.prompt, self.positions = prompt, positions
        self._check(config)

    def _check(self, config: BatchConfig) -> None:
        """`InputError` for settings of batches that this generator has no use of."""
        if config.layout == "packed":
            raise InputError("BatchConfig.layout: packed, but this generator has one picture a row")
        for name in ("supervise_text", "replay"):
            if value := getattr(config, name):
                raise InputError(
                    f"BatchConfig.{name}: {value}, but this generator predicts no text"
                )

    def _listed(self, codes: Tensor) -> Sequence[Sequence[int]]:
        if not codes.is_floating_point():
            raise InputError(
                "the store's codes are indices, this generator draws vectors: prepare it with "
                "--train-codec kl or pixels"
            )
        return [()] * len(codes)

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        prompt = self.prompt(text)
        place = [-1] * len(prompt) + list(range(self.positions))
        tokens = [*prompt, *[0] * self.positions]
        return Sample(tokens, [IGNORE] * len(tokens), place, place)

    def _collated(
        self, samples: Sequence[Sample], features: Mapping[str, Tensor], config: BatchConfig
    ) -> Batch:
        return super()._collated(samples, features, replace(config, layout="left"))

    def _finished(self, batch: Batch, codes: Tensor, key: tuple[int, int, int]) -> Batch:
        return replace(batch, latents=codes.flatten(1, -2))

    def _told(self, batch: Batch, number: int) -> Batch:
        return replace(batch, seed=torch.tensor(number))


@dataclass(frozen=True)
class Prompts:
    """Captions of B rows, padded on the left."""

    ids: Tensor
    """(B, P) int64."""
    real: Tensor
    """(B, P) bool: what is not padding."""

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], device: torch.device) -> Self:
        """Of ids of any lengths."""
        shape = (len(prompts), max(map(len, prompts), default=0))
        ids, real = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            first = shape[1] - len(prompt)
            ids[row, first:] = torch.tensor(list(prompt), dtype=torch.int64)
            real[row, first:] = True
        return cls(ids.to(device), real.to(device))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return type(self)(self.ids[rows], self.real[rows])


class VectorGenerator(Generator):
    """A generator whose codes are vectors. Subclasses give `forward` and the steps of drawing.

    Those that also have `unit_sizes`, `path_draws`, `paths` and `keep` can be drafted, see
    `samplers.speculative.vectors.PathStepper`, and say so by `undraftable`.
    """

    Config = VectorConfig
    config: VectorConfig
    sampler = "vectors"
    default_codec = "kl"
    laws: ClassVar[tuple[str, ...]] = ("vectors",)
    reads: ClassVar[tuple[str, ...]] = PROCESS
    """The fields of `VectorOptions` that it makes something of; others must be left alone."""

    def __init__(self, config: VectorConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config)
        for option in fields(config.options):
            value = getattr(config.options, option.name)
            if option.name not in self.reads and value != option.default:
                raise InputError(
                    f"VectorOptions.{option.name}: {value!r}, but a {self.registered_name} "
                    f"generator has no use of it; it reads {', '.join(self.reads)}"
                )
        self.width, self.depth = config.size.width, config.size.depth
        self.dimensions, self.tokenizer = config.dimensions, tokenizer

    # ---- making one ----------------------------------------------------------------------------

    @classmethod
    def for_store(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: Codec,
        grid: tuple[int, int],
        sizes: Sizes,
        *,
        seed: int,
        longest: int = 0,
    ) -> Self:
        if not codec.dimensions:
            raise InputError(
                f"a {codec.registered_name} codec: its codes are indices, a {cls.registered_name} "
                "generator draws vectors; prepare the store with --train-codec kl or pixels"
            )
        return cls.from_scratch(
            tokenizer,
            codec.dimensions,
            grid,
            sizes.llama,
            sizes.vectors,
            seed=seed,
            longest=longest,
            codec=codec.fingerprint(),
            frames=codec.frames,
        )

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        dimensions: int,
        grid: tuple[int, int],
        size: LlamaSize | None = None,
        options: VectorOptions | None = None,
        *,
        seed: int,
        longest: int = 0,
        codec: str = "",
        frames: int = 1,
    ) -> Self:
        """A generator with random weights, a function of `seed`."""
        config = cls.Config(
            grid,
            dimensions,
            text=len(tokenizer),
            longest=max(64, longest),
            size=size or LlamaSize(),
            options=options or VectorOptions(),
            codec=codec,
            frames=frames,
        )
        with seeded(seed):
            return cls(config, tokenizer)

    @classmethod
    def tiny(cls) -> Self:
        from arra.data.tokenizer import train_text_tokenizer

        tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
        size = LlamaSize(width=32, depth=2, heads=2, feed_forward=48)
        small: dict[str, Any] = {"steps": 3, "inner": 16, "inner_depth": 1, "rounds": 3}
        options = VectorOptions(**{n: v for n, v in small.items() if n in cls.reads})
        return cls.from_scratch(tokenizer, 3, (2, 2), size, options, seed=0)

    # ---- what it draws -------------------------------------------------------------------------

    @property
    def codes(self) -> int:
        return 0

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        return (self.config.grid,)

    @property
    def codes_shape(self) -> tuple[int, ...]:
        return (*self.config.grid, self.dimensions)

    @property
    def positions(self) -> int:
        """L: positions that predict the picture, those of all `grids`."""
        return sum(rows * columns for rows, columns in self.grids)

    def prompt_ids(self, caption: str | None) -> list[int]:
        return self._prompt([] if caption is None else self.caption_ids(caption))

    def _prompt(self, text: Sequence[int]) -> list[int]:
        """What stands before a picture whose caption has these ids; of none it is guidance's."""
        return list(text)

    def paced(
        self, *, steps: int | None = None, rounds: int | None = None, solver: str | None = None
    ) -> Self:
        given: dict[str, Any] = {"steps": steps, "rounds": rounds, "solver": solver}
        chosen = {name: value for name, value in given.items() if value is not None}
        config = replace(self.config, options=replace(self.config.options, **chosen))
        with seeded(0):  # weights that are given away at once
            other = type(self)(config, self.tokenizer)
        other.load_state_dict(self.state_dict(), assign=True)
        return other.to(self.device).train(self.training)

    # ---- training ------------------------------------------------------------------------------

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> VectorBatches:
        return VectorBatches(store, config, features, self._prompt, self.positions)

    def _read(self, batch: Batch) -> tuple[Prompts, Tensor]:
        """Captions, and vectors (B, n, C), of a batch."""
        if batch.latents is None:
            raise InputError(f"{type(self).__name__}: this batch has no vectors (Batch.latents)")
        texts = batch.tokens.shape[1] - self.positions
        return Prompts(batch.tokens[:, :texts], batch.segment[:, :texts] >= 0), batch.latents

    def _check_layers(self, layers: Sequence[int]) -> None:
        for layer in layers:
            if not 1 <= layer <= self.depth:
                raise InputError(f"layer {layer}: expected 1 to {self.depth}, the number of blocks")

    # ---- sampling ------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> Any:
        """See `samplers.vectors.VectorStepper`."""

    @abstractmethod
    def unit(self, cache: Any, noise: Noise, scale: float, temperature: float) -> None:
        """See `samplers.vectors.VectorStepper`."""

    @abstractmethod
    def drawn(self, cache: Any) -> Tensor:
        """See `samplers.vectors.VectorStepper`."""


def process_of(options: VectorOptions) -> Process:
    """The way from noise to vectors that the options name."""
    flow = options.objective == "flow"
    for name, plain in (("noise_schedule", "cosine"),) if flow else (("logit", False),):
        if (value := getattr(options, name)) != plain:
            raise InputError(
                f"VectorOptions.{name}: {value!r}, which has no meaning for {options.objective}"
            )
    process: Flow | Diffusion
    if options.objective == "flow":
        process = Flow(steps=options.steps, logit=options.logit, stochastic=options.stochastic)
    else:
        process = Diffusion(
            options.objective,
            steps=options.steps,
            ancestral=options.stochastic,
            schedule=options.noise_schedule,
        )
    return process if options.solver == "own" else Solved(process, options.solver)


def no_logits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets of no position, where x is."""
    return x.new_zeros(0, 1), torch.zeros(0, dtype=torch.int64, device=x.device)


def drawn_noise(noise: Noise, draws: int, vectors: int, channels: int) -> Tensor:
    """(draws, B vectors, C): what a head takes for so many vectors of each picture."""
    made = noise(draws, vectors, channels)
    return made.transpose(0, 1).flatten(1, 2)
