"""Next-scale generation (VAR, arXiv 2404.02905): the unit is a whole grid, coarse to fine.

A position of scale k reads what the scales before it add up to, at its own resolution, and predicts
the code of its own cell; all cells of a scale are predicted at once. Captions condition twice, as
class embeddings do in VAR: the mean of their tokens' embeddings is the input of the first scale and
sets norms and gates of all blocks; and they stand before the picture as tokens that everything
sees. A class is a caption of one word. An empty caption is a learned vector, the null condition of
guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arra.codecs.base import Codec
from arra.codecs.multiscale import MultiScaleCodec
from arra.codecs.pyramids import CodePyramid, ResidualConfig, ResidualPyramid
from arra.errors import InputError
from arra.generators.base import Batch, CodeGenerator, Output
from arra.generators.batches import Store
from arra.generators.scale_batches import ScaleBatches
from arra.networks.adaln import Block, Memory, Modulated, Sight, initialise
from arra.networks.scan import runs_of
from arra.orders.layout import FOREVER, visible
from arra.orders.pyramid import Pyramid
from arra.randomness import seeded
from arra.registry import generators
from arra.settings import BatchConfig, ScaleSize, Sizes


@dataclass(frozen=True)
class ScaleConfig:
    """What a next-scale generator is."""

    sizes: tuple[tuple[int, int], ...]
    """Rows and columns of each scale, coarse to fine."""
    residual: ResidualConfig
    """What its codes mean: the codec's."""
    text: int
    """Entries of the text tokenizer."""
    size: ScaleSize = field(default_factory=ScaleSize)
    """The network."""
    prefix: bool = True
    """Whether captions also stand before the picture; if not, only their mean counts (VAR)."""
    codec: str = ""
    """Fingerprint of the codec whose codes the model draws."""


@dataclass
class ScaleCache:
    """What B rows have read: keys and values of all blocks, and the picture so far."""

    memories: list[Memory]
    """One a block."""
    real: Tensor
    """(B, T) bool: which stored positions are not padding."""
    condition: Tensor
    """(B, D)."""
    states: list[Tensor]
    """The state of the pyramid before each scale that was read, and the newest one."""
    prefix: int
    """How many of the stored positions are the caption's, padding included."""

    @property
    def rows(self) -> int:
        """B."""
        return len(self.condition)

    @property
    def level(self) -> int:
        """The scale that was predicted last."""
        return len(self.states) - 1

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        for memory in self.memories:
            memory.gather(rows)
        self.real, self.condition = self.real[rows], self.condition[rows]
        self.states = [state[rows] for state in self.states]

    def fork(self, copies: int) -> None:
        """Repeat every row `copies` times, copies of a row side by side."""
        rows = torch.arange(self.rows, device=self.condition.device)
        self.gather(rows.repeat_interleave(copies))

    def truncate(self, level: int, pyramid: Pyramid) -> None:
        """Go back to when scale `level` was predicted, so that it can be drawn anew."""
        if not 0 <= level <= self.level:
            raise InputError(f"ScaleCache.truncate: {level}, expected 0 to {self.level}")
        length = self.prefix + pyramid.slices[level].stop
        for memory in self.memories:
            memory.truncate(length)
        self.real, self.states = self.real[:, :length], self.states[: level + 1]


@generators.register("scales")
class ScaleGenerator(CodeGenerator):
    """Blocks with AdaLN over a pyramid of scales. Codebook and smoothing of the codec are kept as
    buffers, so that a saved generator needs no codec to read or draw codes."""

    Config = ScaleConfig
    config: ScaleConfig
    sampler = "scales"
    default_codec = "multiscale"
    takes: ClassVar[type[Any]] = MultiScaleCodec
    """The codec whose codes it draws."""

    def __init__(self, config: ScaleConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config)
        size = config.size
        self.pyramid = Pyramid(config.sizes)
        self.width, self.depth = size.width, size.depth
        self.tokenizer = tokenizer
        self.scales = self._meaning().frozen()
        self.text = nn.Embedding(config.text, size.width)
        self.null = nn.Parameter(torch.empty(size.width))
        if config.prefix:
            self.text_places = nn.Parameter(torch.empty(size.positions, size.width))
        self.read_in = nn.Linear(self.scales.width, size.width)
        self._add_places(size.width)
        self.blocks = nn.ModuleList(
            Block(
                size.width,
                size.heads,
                size.feed_forward,
                size.normalised,
                size.drop_path * number / max(size.depth - 1, 1),
                size.mixer,
                size.scan,
            )
            for number in range(size.depth)
        )
        self.norm = Modulated(size.width)
        self.head = nn.Linear(size.width, self.scales.vocabulary)
        initialise(self, size.width, size.depth, size.gate)
        self.head.weight.data.mul_(0.02)
        for weight in (self.text.weight, self.null, self.read_in.weight):
            weight.data.mul_(size.inputs)
        self.register_buffer("level", self.pyramid.levels(), persistent=False)

    level: Tensor

    def _add_places(self, width: int) -> None:
        """Parameters of `where`."""
        self.places = nn.Parameter(torch.empty(self.pyramid.length, width))
        self.levels = nn.Parameter(torch.empty(len(self.pyramid.sizes), width))

    def _meaning(self) -> CodePyramid:
        """How codes become what is read; its weights come from the codec or a saved generator."""
        return ResidualPyramid(self.config.residual)

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
        if not isinstance(codec, cls.takes):
            raise InputError(
                f"a {codec.registered_name} codec: its codes are none that a {cls.registered_name} "
                f"generator draws; prepare the store with --train-codec {cls.default_codec}"
            )
        size = replace(sizes.scale, positions=max(sizes.scale.positions, longest))
        return cls.from_scratch(tokenizer, codec, size, seed=seed)

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: MultiScaleCodec,
        size: ScaleSize | None = None,
        *,
        seed: int,
        prefix: bool = True,
    ) -> Self:
        """A generator of the codec's codes with random weights, a function of `seed`."""
        config = ScaleConfig(
            codec.config.sizes,
            codec.config.residual,
            text=len(tokenizer),
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
        return cls.from_scratch(tokenizer, MultiScaleCodec.tiny(), size, seed=0)

    # ---- training ------------------------------------------------------------------------------

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> ScaleBatches:
        return ScaleBatches(store, self.pyramid, config, features)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        for layer in layers:
            if not 1 <= layer <= self.depth:
                raise InputError(f"layer {layer}: expected 1 to {self.depth}, the number of blocks")
        picture, sample = batch.place >= 0, batch.segment.clamp(min=0)
        text = (batch.segment >= 0) & ~picture
        segment = batch.segment
        if not self.config.prefix:  # captions count through their mean alone
            segment = segment.masked_fill(text, -1)
        words = self.text(batch.tokens.masked_fill(~text, 0))
        condition = self.conditions(words, text, sample, batch.samples)
        place = batch.place.clamp(min=0)
        x = self._pictures(self._codes(batch, picture), condition)[sample, place]
        if self.config.prefix:
            x = torch.where(picture[..., None], x, words + self.text_where(batch.position, text))
        moment = torch.where(picture, self.level[place] + 1, 0)
        alone = bool(((segment == segment.amax(dim=1, keepdim=True)) | (segment < 0)).all())
        sight = self._sight(segment, moment, alone, batch.samples)
        condition = condition[segment.amax(dim=1)] if alone else condition[sample]
        hidden = {}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, condition, sight)
            if number in layers:
                hidden[number] = x
        supervised = batch.target >= 0
        logits = self.logits_of(x, condition)[supervised]
        return Output(logits, batch.target[supervised], hidden)

    def _codes(self, batch: Batch, picture: Tensor) -> Tensor:
        """(B, L) the codes that stand at the positions of each sample."""
        shape = (batch.samples, self.pyramid.length)
        codes = torch.zeros(shape, dtype=torch.int64, device=batch.tokens.device)
        return codes.index_put(
            (batch.segment[picture], batch.place[picture]), batch.tokens[picture]
        )

    def conditions(self, words: Tensor, text: Tensor, sample: Tensor, samples: int) -> Tensor:
        """(B, D): the mean of each sample's words, the null vector for those that have none."""
        flat = words.new_zeros(samples, self.width)
        mean = flat.index_add(0, sample[text], words[text])
        count = torch.bincount(sample[text], minlength=samples)[:, None]
        return torch.where(count > 0, mean / count.clamp(min=1), self.null)

    def text_where(self, position: Tensor, text: Tensor) -> Tensor:
        """(R, T, D) for the position of each token in its caption."""
        last = int(position.masked_fill(~text, 0).max())
        if last >= len(self.text_places):
            raise InputError(
                f"a caption of {last + 1} tokens: this model takes {len(self.text_places)} "
                "(ScaleSize.positions)"
            )
        return self.text_places[position.masked_fill(~text, 0)]

    def _pictures(self, codes: Tensor, condition: Tensor) -> Tensor:
        """(B, L, D) inputs of all positions under teacher forcing."""
        read = self.scales.inputs(codes, self.pyramid)
        first = condition[:, None].expand(-1, self.pyramid.counts[0], -1)
        return torch.cat((first, self.read_in(read)), dim=1) + self.where()

    def where(self) -> Tensor:
        """(L, D): the embedding of every position's place and scale."""
        return self.places + self.levels[self.level]

    def _sight(self, segment: Tensor, moment: Tensor, alone: bool, samples: int) -> Sight:
        """What positions learn of each other; one mask for all rows that are laid out alike."""
        runs = None
        if "scan" in self.config.size.mixer and not (alone and bool((segment >= 0).all())):
            runs = runs_of(segment, samples)
        if alone:
            segment = segment.clamp(max=0)
            if bool(((segment == segment[:1]) & (moment == moment[:1])).all()):
                segment, moment = segment[:1], moment[:1]
        dies = torch.where(moment > 0, moment + 1, FOREVER) if self._forgets else FOREVER
        return Sight(visible(segment, moment, dies)[:, None], runs=runs)

    @property
    def _forgets(self) -> bool:
        """Whether attention sees a scale only from within (captions are seen by all)."""
        return "intra" in self.config.size.mixer

    def logits_of(self, x: Tensor, condition: Tensor) -> Tensor:
        """(R, T, V) float32."""
        with torch.autocast(x.device.type, enabled=False):
            return self.head(self.norm(x.float(), condition.float()))

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Number of scales: so many passes draw a picture."""
        return len(self.pyramid.sizes)

    @property
    def codes(self) -> int:
        return self.scales.vocabulary

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        return self.pyramid.sizes

    def prompt_ids(self, caption: str | None) -> list[int]:
        """Token ids of a caption; None is the empty one, the null condition of guidance."""
        return [] if caption is None else self.caption_ids(caption)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, ScaleCache]:
        """Read captions of any lengths: logits (B, n, V) of the first scale, and the cache."""
        device, longest = self.device, max(map(len, prompts))
        tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
        text = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):  # padding on the left
            tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt), dtype=torch.int64)
            text[row, longest - len(prompt) :] = True
        tokens, text = tokens.to(device), text.to(device)
        words = self.text(tokens)
        rows = torch.arange(len(prompts), device=device)
        condition = self.conditions(words, text, rows[:, None].expand_as(text), len(prompts))
        state = self.scales.begin(len(prompts), self.pyramid, device)
        cache = ScaleCache(
            [], text[:, :0], condition, [state], longest if self.config.prefix else 0
        )
        keep = cache.prefix if self._forgets else None
        cache.memories = [Memory(keep=keep) for _ in self.blocks]
        if cache.prefix > 0:
            position = (text.cumsum(dim=1) - 1).clamp(min=0)
            self._advance(words + self.text_where(position, text), text, cache)
        first = condition[:, None].expand(-1, self.pyramid.counts[0], -1)
        return self._scale(first, 0, cache), cache

    def step(self, codes: Tensor, cache: ScaleCache) -> Tensor:
        """Logits (B, n', V) of the next scale after `codes` (B, n) were drawn; extends `cache`."""
        level = cache.level
        cache.states.append(self.scales.add(cache.states[-1], codes, level, self.pyramid))
        read = self.scales.read(cache.states[-1], level + 1, self.pyramid)
        return self._scale(self.read_in(read), level + 1, cache)

    def _scale(self, inputs: Tensor, level: int, cache: ScaleCache) -> Tensor:
        x = inputs + self.where()[self.pyramid.slices[level]]
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return self.logits_of(self._advance(x, real, cache), cache.condition)

    def _advance(self, x: Tensor, real: Tensor, cache: ScaleCache) -> Tensor:
        """States after the last block; new positions see all that are real, and each other."""
        cache.real = torch.cat((cache.real, real), dim=1)
        mask = None
        if not bool(cache.real.all()):
            # a row of padding alone sees itself: attention to nothing is not a number
            itself = F.pad(
                torch.eye(x.shape[1], dtype=torch.bool, device=x.device),
                (cache.real.shape[1] - x.shape[1], 0),
            )
            mask = (cache.real[:, None] | (itself & ~real[..., None]))[:, None]
            if self._forgets and mask.shape[-1] > len(x[0]):
                mask = torch.cat((mask[..., : cache.prefix], mask[..., -len(x[0]) :]), dim=-1)
        sight = Sight(mask, real=None if bool(real.all()) else real)
        for block, memory in zip(self.blocks, cache.memories, strict=True):
            x = block(x, cache.condition, sight, memory)
        return x
