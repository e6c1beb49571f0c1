"""Next-scale generation in any schedule (FlexVAR, arXiv 2502.20313).

Every scale shows the picture itself, not what coarser scales left over. So scales do not need the
ones that training had before them: the model learns from schedules drawn at random, and draws in
any number of steps, at any size and aspect ratio. Places are told by one table over the picture,
averaged to the size of a scale, and nothing tells which step it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arra.codecs.pyramids import CodePyramid, DirectConfig, DirectPyramid
from arra.codecs.scalable import ScalableCodec
from arra.errors import InputError
from arra.generators.base import Batch, Output
from arra.generators.batches import IGNORE, Sample, Store
from arra.generators.scale_batches import ScaleBatches
from arra.generators.scales import ScaleGenerator
from arra.orders.pyramid import Pyramid
from arra.orders.schedules import RandomSchedules, Scales, fitted
from arra.randomness import seeded
from arra.registry import generators
from arra.settings import BatchConfig, ScaleSize


@dataclass(frozen=True)
class FlexibleConfig:
    """What a next-scale generator of direct scales is."""

    stored: Scales
    """Rows and columns of every scale whose codes a store has; training's schedules choose from
    them."""
    sizes: Scales
    """The scales that are drawn unless others are asked for."""
    direct: DirectConfig
    """What its codes mean: the codec's."""
    text: int
    """Entries of the text tokenizer."""
    schedules: RandomSchedules | None = None
    """The law of training's schedules; None trains `sizes` alone."""
    table: int = 32
    """Side of the table of places; twice the largest grid in training, so that training only ever
    averages it. 0: an embedding of every place and scale in its stead, as in VAR."""
    size: ScaleSize = field(default_factory=ScaleSize)
    """The network. The table of places has entries of about 1, beside which what is read should
    not vanish: small models learn faster with `inputs` of about 10."""
    prefix: bool = True
    """Whether captions also stand before the picture; if not, only their mean counts (VAR)."""
    codec: str = ""
    """Fingerprint of the codec whose codes the model draws."""

    def __post_init__(self) -> None:
        if self.table == 0 and self.schedules is not None:
            raise InputError("FlexibleConfig.schedules: random ones need a table of places")
        if self.table < 0:
            raise InputError(f"FlexibleConfig.table: {self.table}, expected 0 or more")
        missing = set(self.sizes) - set(self.stored)
        if missing:
            raise InputError(
                f"FlexibleConfig.sizes: {sorted(missing)} are none of the stored scales"
            )


class FlexibleBatches(ScaleBatches):
    """Batches of scales that are drawn at random: one schedule for all parts of a step.

    `place` counts the cells of all stored scales, coarse to fine, of which a batch has some.
    """

    def __init__(
        self,
        store: Store,
        stored: Pyramid,
        config: BatchConfig | None = None,
        features: Sequence[str] | None = None,
        *,
        fixed: Scales,
        schedules: RandomSchedules | None = None,
    ):
        """`schedules` is the law of the scales; without one they are always `fixed`."""
        super().__init__(store, stored, config, features)
        self.fixed, self.schedules = fixed, schedules

    def sizes(self, step: int) -> Scales:
        """The scales of a step: a function of it and the seed."""
        if self.schedules is None:
            return self.fixed
        sides = self.schedules.draw(np.random.default_rng([self.config.seed, 4, step]))
        # the sides are those of a picture as large as the stored ones
        whole = (*sides, max(self.pyramid.grid)) if sides[-1] != max(self.pyramid.grid) else sides
        return fitted(whole, self.pyramid.grid)[: len(sides)]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        here = self.pyramid.places_of(self.sizes(step))

        def sample(text: Sequence[int], codes: Sequence[int]) -> Sample:
            return self._chosen(text, codes, here)

        return self._batch(step * parts + part, sample)

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        return self._chosen(text, codes, self.pyramid.places_of(self.fixed))

    def _chosen(self, text: Sequence[int], codes: Sequence[int], here: list[int]) -> Sample:
        """A sample that has, of all stored codes, those at these places."""
        self._check(codes)
        words, chosen = len(text), [codes[place] for place in here]
        target, place = [IGNORE] * words + chosen, [-1] * words + here
        return Sample([*text, *chosen], target, place, [-1] * len(target))


@generators.register("flexible-scales")
class FlexibleGenerator(ScaleGenerator):
    """The network of `ScaleGenerator` over direct scales, with places that need no schedule."""

    default_codec, takes = "scalable", ScalableCodec
    Config = FlexibleConfig  # type: ignore[assignment]
    config: FlexibleConfig  # type: ignore[assignment]

    def __init__(self, config: FlexibleConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config, tokenizer)  # type: ignore[arg-type]
        self.stored = Pyramid(config.stored)
        if config.table:
            self.table.data.copy_(waves(config.size.width, config.table))

    def _add_places(self, width: int) -> None:
        if self.config.table:
            side = self.config.table
            self.table = nn.Parameter(torch.empty(width, side, side))
            self.start = nn.Parameter(torch.empty(width))
        else:
            super()._add_places(width)

    def _meaning(self) -> CodePyramid:
        return DirectPyramid(self.config.direct)

    def where(self) -> Tensor:
        """(L, D): the table averaged to the sizes of the scales; the first one begins a picture."""
        if not self.config.table:
            return super().where()
        first, *others = (resized(self.table, size).flatten(1).T for size in self.pyramid.sizes)
        return torch.cat((first + self.start, *others))

    @classmethod
    def from_scratch(  # type: ignore[override]
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: ScalableCodec,
        size: ScaleSize | None = None,
        *,
        seed: int,
        prefix: bool = True,
        sizes: Scales | None = None,
        random: bool = True,
    ) -> Self:
        """A generator of the codec's codes with random weights, a function of `seed`.

        `sizes` are drawn unless others are asked for; by default the paper's steps, or halves of
        the grid. `random`: whether training draws its schedules at random.
        """
        grid = codec.config.grid
        schedules = RandomSchedules.of_side(max(grid))
        config = FlexibleConfig(
            stored=codec.pyramid.sizes,
            sizes=sizes or fitted(schedules.default, grid),
            direct=codec.config.direct,
            text=len(tokenizer),
            schedules=schedules if random else None,
            table=2 * max(grid),
            size=size or ScaleSize(),
            prefix=prefix,
            codec=codec.fingerprint(),
        )
        with seeded(seed):
            made = cls(config, tokenizer)
        made.scales.load_state_dict(codec.scales.state_dict())
        return made

    @classmethod
    def tiny(cls) -> Self:
        from arra.data.tokenizer import train_text_tokenizer

        tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
        size = ScaleSize(width=32, depth=2, heads=2, feed_forward=48, gate=1.0, positions=16)
        return cls.from_scratch(tokenizer, ScalableCodec.tiny(), size, seed=0)

    def scheduled(self, sizes: Scales) -> Self:
        """This generator, with the same weights, drawing other scales: rows and columns of each.

        `fitted` makes them of a schedule and a grid. The last scale says how large a picture is.
        """
        if not self.config.table:
            raise InputError("scheduled: a generator without a table of places has one schedule")
        other = copy.copy(self)
        other._buffers = dict(self._buffers)  # the one below is not the original's
        other.pyramid = other.stored = Pyramid(sizes)
        other.level = other.pyramid.levels().to(self.device)
        return other

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> FlexibleBatches:
        """Of all stored scales; of a view (`scheduled`), of its own."""
        schedules = self.config.schedules if self.stored.sizes == self.config.stored else None
        return FlexibleBatches(
            store, self.stored, config, features, fixed=self.pyramid.sizes, schedules=schedules
        )

    @property
    def grids(self) -> Scales:
        return self.stored.sizes

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Of the scales that are drawn, of which a codec paints the last."""
        return (self.pyramid.length,)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        """Logits of the scales that the batch has."""
        levels = self.stored.levels().to(batch.place.device)
        held = levels[batch.place[batch.place >= 0]].unique().tolist()
        sizes = tuple(self.stored.sizes[level] for level in held)
        if sizes == self.pyramid.sizes == self.stored.sizes:
            return super().forward(batch, layers)
        chosen = torch.tensor(self.stored.places_of(sizes), device=batch.place.device)
        lookup = torch.full((self.stored.length,), -1, device=batch.place.device)
        lookup[chosen] = torch.arange(len(chosen), device=lookup.device)
        place = torch.where(batch.place >= 0, lookup[batch.place.clamp(min=0)], -1)
        view = self if sizes == self.pyramid.sizes else self.scheduled(sizes)
        return ScaleGenerator.forward(view, replace(batch, place=place), layers)


def waves(width: int, side: int) -> Tensor:
    """(width, side, side): sin(y w_j) in channel 2j, cos(x w_j) in 2j + 1, w_j = 10000^(-2j/width).

    As in the released code: rows are told by sines and columns by cosines alone.
    """
    channel = torch.arange(width)
    frequency = 10000.0 ** (-(channel - channel % 2).double() / width)
    at = torch.arange(side).double()
    rows = torch.sin(frequency[:, None] * at)[:, :, None].expand(-1, -1, side)
    columns = torch.cos(frequency[:, None] * at)[:, None, :].expand(-1, side, -1)
    return torch.where((channel % 2 == 0)[:, None, None], rows, columns).float()


def resized(table: Tensor, size: tuple[int, int]) -> Tensor:
    """(D, h, w) of a table (D, H, W): averages over what a cell covers; larger sizes repeat it."""
    return F.adaptive_avg_pool2d(table[None], size)[0]
