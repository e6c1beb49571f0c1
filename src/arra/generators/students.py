"""Students that draw what a teacher draws in a step or two (Distilled Decoding, arXiv 2412.17153).

With codes as a function of noise (`samplers.flow`) the noise e_1 ... e_L and the condition decide a
whole picture q_1 ... q_L. A student learns that map, and shortcuts of it, from pairs that its
teacher made: it reads the first t positions as code vectors, the others as noise, and predicts the
codes of the latter, all at once. Its network is the teacher's but for the way in: every position
reads a vector, and stands where its code will be.

B pictures, L codes of d numbers, P positions of captions, width D, V codes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arra.codecs.base import Codec
from arra.codecs.quantized import most_similar
from arra.errors import InputError
from arra.files import to_plain
from arra.generators.base import Batch, CodeGenerator, Generator, Output
from arra.generators.batches import Store
from arra.generators.student_batches import NOISE, StudentBatches
from arra.generators.vectors import Prompts
from arra.networks.adaln import modulate
from arra.randomness import Noise, seeded
from arra.registry import generators
from arra.settings import BatchConfig, SamplingConfig, Sizes


@dataclass(frozen=True)
class StudentOptions:
    """What a student of a distilled generator has beside its teacher's network."""

    starts: tuple[int, ...] = ()
    """How many of the teacher's units are known at each step of drawing: 0, then growing; empty: 0
    and a third of them."""
    steps: int = 1
    """How many of these steps draw a picture, the first ones."""
    split: int | None = None
    """Unit from which on codes are read from predicted vectors; None: all from logits."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """What a student is."""

    teacher: Any
    """The configuration of its teacher."""
    dimensions: int
    """d, numbers of a code's vector, and of its noise."""
    starts: tuple[int, ...]
    """From how many of the teacher's units it can go on; the first is 0."""
    steps: int = 1
    """How many of them are steps of drawing."""
    split: int | None = None
    """Unit from which on codes are read from predicted vectors; None: all from logits."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How the teacher drew what the student learnt."""

    def __post_init__(self) -> None:
        growing = all(one < other for one, other in pairwise(self.starts))
        if not growing or self.starts[:1] != (0,):
            raise InputError(f"StudentOptions.starts: {self.starts}, expected 0, then growing")
        if not 1 <= self.steps <= len(self.starts):
            raise InputError(
                f"StudentOptions.steps: {self.steps}, expected 1 to {len(self.starts)}, the number "
                "of starts"
            )
        if self.split is not None and self.split < 0:
            raise InputError(f"StudentOptions.split: {self.split}, expected 0 or more")

    @property
    def codec(self) -> str:
        """Fingerprint of the codec whose codes the model draws."""
        return self.teacher.codec


@dataclass
class MapCache:
    """B pictures on their way."""

    prompts: Prompts
    noise: Tensor
    """(B, L, d), kept for all steps: another tail would belong to another picture."""
    codes: Tensor
    """(B, L) int64."""
    step: int = 0
    """The next one."""


class VectorOut(nn.Module):
    """Vectors from states by a last layer whose norm the condition sets: (B, L, D) to (B, L, d)."""

    def __init__(self, width: int, dimensions: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, dimensions)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Of states and a condition (B, D); float32."""
        shift, scale = (self.table + condition[:, None]).float().chunk(2, dim=1)
        return self.out(modulate(x.float(), scale, shift).to(self.out.weight.dtype)).float()


class Student(Generator):
    """A generator that maps noise to the codes that its teacher would draw with it."""

    Config = StudentConfig
    config: StudentConfig
    sampler = "noise"
    taught = True
    laws: ClassVar[tuple[str, ...]] = ("cross_entropy", "vectors")
    teacher: ClassVar[type[CodeGenerator]]
    """Of which generators it is a student."""
    vectors: Tensor
    body: Any
    """The teacher's network without its way in."""

    def __init__(self, config: StudentConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config)
        self.tokenizer = tokenizer
        self.body = self._body()
        self.width, self.depth = self.body.width, self.body.depth
        self.kinds = nn.Embedding(2, self.width)  # noise, data
        nn.init.normal_(self.kinds.weight, std=0.02)
        self.project = nn.Linear(config.dimensions, self.width)
        self.vector_out = VectorOut(self.width, config.dimensions)
        shape = (self.body.codes, config.dimensions)
        # random, so that a seed decides even this; a teacher's codec has others
        self.register_buffer("vectors", F.normalize(torch.randn(shape), dim=1))
        wrong = [start for start in config.starts if not 0 <= start < len(self.bounds) - 1]
        if wrong or (config.split is not None and config.split >= len(self.bounds)):
            raise InputError(
                f"StudentOptions.starts: {config.starts}, split {config.split}; expected less than "
                f"{len(self.bounds) - 1}, the units of the teacher"
            )

    @abstractmethod
    def _body(self) -> nn.Module:
        """The network of a new teacher, without what a student has instead."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[int, ...]:
        """How many codes are known after 0, 1, ... of the teacher's units."""

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
        raise InputError(
            f"generator {cls.registered_name}: is made of a trained {cls.teacher.registered_name} "
            "generator and learns from it; use arra distill"
        )

    @classmethod
    def of_teacher(
        cls,
        teacher: Any,
        vectors: Tensor,
        sampling: SamplingConfig,
        options: StudentOptions | None = None,
        *,
        seed: int,
    ) -> Self:
        """An untrained student that begins with its teacher's weights; what is new is a function of
        `seed`. `vectors` (V, d) are those of the codes, `sampling` how the teacher draws them."""
        cls._check_teacher(teacher)
        options = options or StudentOptions()
        starts = options.starts or tuple(sorted({0, round(teacher.units / 3)}))
        config = cls.Config(
            teacher=cls._teacher_config(teacher),
            dimensions=vectors.shape[1],
            starts=starts,
            steps=options.steps,
            split=options.split,
            sampling=sampling,
        )
        with seeded(seed):
            made = cls(config, teacher.tokenizer)
        theirs = teacher.state_dict()
        made.body.load_state_dict({name: theirs[name] for name in made.body.state_dict()})
        made.vectors.copy_(vectors)
        with torch.no_grad():
            made._begin_as(teacher)
        return made.to(teacher.device)

    @classmethod
    def _check_teacher(cls, teacher: CodeGenerator) -> None:
        """`InputError` for a teacher whose codes or conditions a student does not know."""

    @classmethod
    def _teacher_config(cls, teacher: Any) -> Any:
        """What a student remembers of its teacher's configuration: not where that lay."""
        return teacher.config

    @abstractmethod
    def _begin_as(self, teacher: Any) -> None:
        """Set the projection of code vectors to what the teacher reads of these codes."""

    # ---- what it draws -------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Steps: so many passes draw a picture."""
        return self.config.steps

    @property
    def codes(self) -> int:
        return self.body.codes

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        return self.body.grids

    @property
    def codes_shape(self) -> tuple[int, ...]:
        return self.body.codes_shape

    @property
    def positions(self) -> int:
        """L."""
        return prod(self.codes_shape)

    @property
    def sampling(self) -> SamplingConfig:
        """Guidance, temperature and filters, which are part of what was learnt."""
        return self.config.sampling

    @property
    def known(self) -> tuple[int, ...]:
        """Codes that are known at each start."""
        return tuple(self.bounds[start] for start in self.config.starts)

    def prompt_ids(self, caption: str | None) -> list[int]:
        return self.prompt([] if caption is None else self.caption_ids(caption))

    @abstractmethod
    def prompt(self, text: Sequence[int]) -> list[int]:
        """What stands before a picture whose caption has these ids; of none it is the null."""

    def paced(
        self, *, steps: int | None = None, rounds: int | None = None, solver: str | None = None
    ) -> Self:
        if rounds is not None or solver is not None:
            raise InputError("rounds, solver: a student draws in steps alone (--steps)")
        if steps is None or not 1 <= steps <= len(self.config.starts):
            raise InputError(
                f"steps: {steps}, expected 1 to {len(self.config.starts)}, as this student learnt"
            )
        with seeded(0):  # weights that are given away at once
            other = type(self)(replace(self.config, steps=steps), self.tokenizer)
        other.load_state_dict(self.state_dict(), assign=True)
        return other.to(self.device).train(self.training)

    def learnt_from(self, teacher: Generator) -> bool:
        """Whether a generator has the kind, the size and the codec of this student's teacher."""
        same = to_plain(teacher._settings()) == to_plain(self.body._settings())
        return type(teacher) is self.teacher and same

    # ---- training ------------------------------------------------------------------------------

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return self.body.decoder_blocks()

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> StudentBatches:
        return StudentBatches(store, config, features, self.prompt, self.positions, self.known)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        """Logits (M, V), and squared errors (M,) of vectors, of the M codes that are not known."""
        for layer in layers:
            if not 1 <= layer <= self.depth:
                raise InputError(f"layer {layer}: expected 1 to {self.depth}, the number of blocks")
        if batch.read is None or NOISE not in batch.features:
            raise InputError(f"{type(self).__name__}: this batch has no noise")
        texts = batch.tokens.shape[1] - self.positions
        prompts = Prompts(batch.tokens[:, :texts], batch.segment[:, :texts] >= 0)
        known = batch.read[:, texts:] >= 0
        x = self._mixed(batch.tokens[:, texts:], batch.features[NOISE], known)
        logits, vectors, hidden = self._predicted(prompts, x, known, layers)
        targets = batch.tokens[:, texts:][~known]
        apart = (vectors[~known] - self.vectors[targets]).square().sum(dim=-1)
        return Output(logits[~known], targets, hidden, apart)

    def _mixed(self, codes: Tensor, noise: Tensor, known: Tensor) -> Tensor:
        """(B, L, d): vectors of the codes (B, L) that are known, noise at the other positions."""
        given = F.embedding(codes.masked_fill(~known, 0), self.vectors)
        return torch.where(known[..., None], given, noise.to(given.dtype))

    @abstractmethod
    def _predicted(
        self, prompts: Prompts, x: Tensor, known: Tensor, layers: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Logits (B, L, V) and vectors (B, L, d) of all codes, and hidden states (B, P + L, D)."""

    def _inside(self, x: Tensor, known: Tensor) -> Tensor:
        """(B, L, D) what positions read of vectors (B, L, d), known or noise."""
        return self.project(x) + self.kinds(known.long())

    # ---- sampling ------------------------------------------------------------------------------

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> MapCache:
        """See `samplers.vectors.VectorStepper`."""
        made = noise(self.positions, self.config.dimensions).to(self.device)
        codes = torch.zeros(made.shape[:2], dtype=torch.int64, device=self.device)
        return MapCache(Prompts.of(prompts, self.device), made, codes)

    def unit(self, cache: MapCache, noise: Noise, scale: float, temperature: float) -> None:
        """The next step; scale and temperature are part of what was learnt."""
        self.go_on(cache, self.known[cache.step])
        cache.step += 1

    def go_on(self, cache: MapCache, known: int) -> None:
        """Keep the first `known` codes and predict the others from them and their noise."""
        given = self._given(cache, known)
        logits, vectors, _ = self._read(cache, given)
        said = logits.argmax(dim=-1)
        if self.config.split is not None:
            first = self.bounds[self.config.split]
            bias = -0.5 * self.vectors.square().sum(dim=1)
            said[:, first:] = most_similar(vectors[:, first:], self.vectors, bias)
        cache.codes = torch.where(given, cache.codes, said)

    def take(self, cache: MapCache, codes: Tensor) -> None:
        """Put codes (B, n), somebody else's, in the place of the first n."""
        cache.codes = torch.cat((codes.to(cache.codes), cache.codes[:, codes.shape[1] :]), dim=1)

    def said(self, cache: MapCache, known: int) -> Tensor:
        """Logits (B, L, V) of all codes, when the first `known` ones are."""
        return self._read(cache, self._given(cache, known))[0]

    def _given(self, cache: MapCache, known: int) -> Tensor:
        """(B, L) bool."""
        places = torch.arange(self.positions, device=self.device)
        return (places < known).expand_as(cache.codes)

    def _read(self, cache: MapCache, given: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        x = self._mixed(cache.codes, cache.noise, given)
        return self._predicted(cache.prompts, x, given)

    def drawn(self, cache: MapCache) -> Tensor:
        """(B, L) int64."""
        return cache.codes


def linear_fit(known: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (D, d) and bias (D,) of the best linear map of rows (V, d) onto rows (V, D)."""
    ones = torch.ones(len(known), 1)
    inputs = torch.cat((known.cpu().double(), ones.double()), dim=1)
    found = torch.linalg.lstsq(inputs, wanted.cpu().double(), driver="gelsd").solution
    return found[:-1].T, found[-1]


def student_of(
    teacher: Generator,
    vectors: Tensor,
    sampling: SamplingConfig,
    options: StudentOptions | None = None,
    *,
    seed: int,
) -> Student:
    """An untrained student of this teacher; `InputError` where there is none of its kind."""
    kinds = [generators[name] for name in generators if generators[name].taught]
    for kind in kinds:
        if type(teacher) is kind.teacher:
            return kind.of_teacher(teacher, vectors, sampling, options, seed=seed)
    known = ", ".join(kind.teacher.registered_name for kind in kinds)
    raise InputError(f"a {teacher.registered_name} generator: there are students of {known}")
