"""Raster generation by a Llama of its own (LlamaGen, arXiv 2406.06525; ELM, arXiv 2410.16257).

The condition stands before the picture; its last position predicts the first cell, every cell the
next. A cell may hold m codes (ELM's sub-codes of a binary code): they are embedded together and
predicted by m heads, independently of each other given the cells before. What they have in common
within a cell is therefore lost; that is part of the design and decides how many are good.

Beside `RasterGenerator`, which is an ordinary language model, this one has rotary positions of two
dimensions, conditions that are no text, and sub-codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from arra.codecs.base import Codec
from arra.errors import InputError
from arra.generators.base import Batch, CodeGenerator, Output
from arra.generators.batches import Store
from arra.generators.grid_batches import GridBatches
from arra.generators.grid_trees import GridTreeStepper
from arra.networks.adaln import Memory
from arra.networks.conditions import FeatureCondition, TokenCondition
from arra.networks.grid_llama import Block, Norm, SplitEmbedding, divided
from arra.networks.part import weights_fingerprint
from arra.networks.rotary import ConditionAttention, rotary_table
from arra.orders.layout import visible
from arra.randomness import seeded
from arra.registry import generators
from arra.settings import BatchConfig, GridOptions, LlamaSize, Sizes

TEXT_ENCODER = "text_encoder"
_SPREAD = 0.02


@dataclass(frozen=True)
class GridConfig:
    """What a Llama over a grid of codes is."""

    grid: tuple[int, int]
    """Rows and columns of cells."""
    codes: int
    """V, how many codes there are."""
    split: int = 1
    """m, codes of a cell."""
    text: int = 1
    """Entries of the text tokenizer; of classes their number."""
    longest: int = 64
    """Tokens of the longest caption (condition "tokens")."""
    size: LlamaSize = field(default_factory=LlamaSize)
    """The network. `tied` has no effect: the head begins at zero."""
    options: GridOptions = field(default_factory=GridOptions)
    """Condition and dropout."""
    features: int = 0
    """Width of the text encoder's features (condition "features")."""
    nulls: int = 120
    """Positions of the null condition (condition "features")."""
    end: int = -1
    """Id that ends a caption for the text encoder; -1 is none."""
    text_encoder: str = ""
    """Fingerprint of the text encoder's weights."""
    codec: str = ""
    """Fingerprint of the codec whose codes the model draws."""

    def __post_init__(self) -> None:
        if self.codes < 2 or self.split < 1 or self.codes**self.split > 1 << 62:
            raise InputError(f"GridConfig: {self.split} codes of {self.codes}, expected 2 or more")
        if (self.options.condition == "features") != (self.features > 0):
            raise InputError("GridConfig.features: a width, for the condition 'features' alone")


@dataclass
class GridCache:
    """What B rows have read: keys and values of all blocks. Rows are padded on the left."""

    memories: list[Memory]
    """One a block."""
    real: Tensor
    """(B, T) bool: which stored positions are not padding."""
    prompt: int
    """How many of the stored positions are the condition's, padding included."""

    @property
    def rows(self) -> int:
        """B."""
        return len(self.real)

    @property
    def cells(self) -> int:
        """How many cells were read."""
        return self.real.shape[1] - self.prompt

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        for memory in self.memories:
            memory.gather(rows)
        self.real = self.real[rows]

    def fork(self, copies: int) -> None:
        """Repeat every row `copies` times, copies of a row side by side."""
        rows = torch.arange(self.rows, device=self.real.device)
        self.gather(rows.repeat_interleave(copies))

    def truncate(self, cells: int) -> None:
        """Forget all but the first `cells` cells."""
        if not 0 <= cells <= self.cells:
            raise InputError(f"GridCache.truncate: {cells}, expected 0 to {self.cells}")
        for memory in self.memories:
            memory.truncate(self.prompt + cells)
        self.real = self.real[:, : self.prompt + cells]


@generators.register("grid")
class GridGenerator(CodeGenerator):
    """A causal Llama over the cells of a grid, in raster order."""

    Config = GridConfig
    config: GridConfig
    sampler: ClassVar[str] = "scales"
    rotary: Tensor

    def __init__(self, config: GridConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config)
        size, options = config.size, config.options
        self.width, self.depth = size.width, size.depth
        self.tokenizer = tokenizer
        self.condition: FeatureCondition | TokenCondition
        if options.condition == "features":
            self.condition = FeatureCondition(
                config.features, size.width, config.text, config.nulls
            )
        else:
            longest = config.longest if options.condition == "tokens" else 0
            self.condition = TokenCondition(config.text, size.width, longest)
        self.embed = SplitEmbedding(config.codes, config.split, size.width)
        self.dropout = nn.Dropout(options.token_dropout)
        self.blocks = nn.ModuleList(
            Block(
                size.width,
                size.heads,
                size.feed_forward,
                options.dropout,
                options.drop_path * number / max(size.depth - 1, 1),
            )
            for number in range(size.depth)
        )
        self.norm = Norm(size.width)
        self.head = nn.Linear(size.width, config.split * config.codes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_SPREAD)
        nn.init.zeros_(self.head.weight)  # the first loss is ln V, whatever the rest is
        attention: ConditionAttention = "content" if options.condition == "tokens" else "even"
        table = rotary_table(config.grid, size.width // size.heads, size.rope_theta, attention)
        self.register_buffer("rotary", table, persistent=False)

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
        if len(codec.codes_axes) != 2 + (codec.split > 1):
            raise InputError(
                f"a {codec.registered_name} codec: its codes are no grid; prepare the store with "
                "--train-codec vq, lfq or binary"
            )
        if sizes.grid.condition == "features":
            raise InputError(
                "GridOptions.condition: 'features' needs a text encoder; make such a generator in "
                "Python (GridGenerator.from_scratch)"
            )
        return cls.from_scratch(
            tokenizer,
            codec.vocabulary,
            grid,
            sizes.llama,
            sizes.grid,
            seed=seed,
            split=codec.split,
            longest=max(64, longest),
            codec=codec.fingerprint(),
        )

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codes: int,
        grid: tuple[int, int],
        size: LlamaSize | None = None,
        options: GridOptions | None = None,
        *,
        seed: int,
        split: int = 1,
        longest: int = 64,
        codec: str = "",
        text_encoder: nn.Module | None = None,
    ) -> Self:
        """A generator with random weights, a function of `seed`, for cells of `split` codes each.

        For the condition "features" `text_encoder` is a text encoder of transformers (LlamaGen:
        Flan-T5) and `tokenizer` its own.
        """
        options = options or GridOptions()
        given: dict[str, Any] = {}
        if text_encoder is not None:
            text: Any = text_encoder.config
            end = getattr(text, "eos_token_id", None)
            given = {
                "features": getattr(text, "d_model", None) or text.hidden_size,
                "end": -1 if end is None else end,
                "text_encoder": weights_fingerprint(text_encoder),
            }
        config = GridConfig(
            grid,
            codes,
            split,
            text=len(tokenizer),
            longest=longest,
            size=size or LlamaSize(),
            options=options,
            codec=codec,
            **given,
        )
        with seeded(seed):
            made = cls(config, tokenizer)
        if text_encoder is not None:
            assert isinstance(made.condition, FeatureCondition)
            made.condition.attach(text_encoder)
        return made

    @classmethod
    def tiny(cls) -> Self:
        from arra.data.tokenizer import train_text_tokenizer

        tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
        size = LlamaSize(width=32, depth=2, heads=2, feed_forward=48)
        made = cls.from_scratch(tokenizer, 16, (3, 3), size, seed=0, longest=16)
        # zeros would say nothing of what is read
        nn.init.normal_(made.head.weight, std=_SPREAD, generator=torch.Generator().manual_seed(0))
        return made

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if isinstance(self.condition, FeatureCondition):
            self.condition.encoder.save_pretrained(save_directory / TEXT_ENCODER)

    def _load_weights(self, folder: Path) -> None:
        super()._load_weights(folder)
        if isinstance(self.condition, FeatureCondition):
            from transformers import AutoModelForTextEncoding

            encoder = AutoModelForTextEncoding.from_pretrained(folder / TEXT_ENCODER)
            self.condition.attach(encoder)

    # ---- what it draws -------------------------------------------------------------------------

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Of one picture, as the codec decodes them: (rows, columns), and m where it is not 1."""
        split = self.config.split
        return (*self.config.grid, split) if split > 1 else self.config.grid

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        return (self.config.grid,)

    @property
    def codes(self) -> int:
        return self.config.codes

    @property
    def units(self) -> int:
        """Number of cells: so many passes draw a picture."""
        return self.config.grid[0] * self.config.grid[1]

    def prompt(self, ids: Sequence[int]) -> list[int]:
        """What stands before a picture with this caption; without ids the null condition.

        `InputError` for a class of several tokens.
        """
        kind, null = self.config.options.condition, self.config.text
        if not ids:
            return [null] * (self.config.nulls if kind == "features" else 1)
        if kind == "class" and len(ids) > 1:
            raise InputError(f"a class is one token, not {len(ids)}: take the condition 'tokens'")
        end = [self.config.end] if kind == "features" and self.config.end >= 0 else []
        return [*ids, *end]

    def prompt_ids(self, caption: str | None) -> list[int]:
        """Ids of the positions before a picture; None is the null condition of guidance."""
        return self.prompt(() if caption is None else self.caption_ids(caption))

    # ---- training ------------------------------------------------------------------------------

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def compile_blocks(self) -> None:
        """Compile the blocks in place (`torch.compile`)."""
        for block in self.blocks:
            block.compile()

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> GridBatches:
        return GridBatches(store, self.prompt, self.config, config, features)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        """Logits (M m, V) and targets (M m,) of M positions with a target, m to each."""
        for layer in layers:
            if not 1 <= layer <= self.depth:
                raise InputError(f"layer {layer}: expected 1 to {self.depth}, the number of blocks")
        cell = self._cells(batch)
        x = self.dropout(self._inputs(batch, cell))
        rotary, mask = self.rotary[cell + 1], self._mask(batch)
        hidden = {}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, rotary, mask)
            if number in layers:
                hidden[number] = x
        supervised = batch.target >= 0
        targets = divided(batch.target[supervised], self.config.codes, self.config.split)
        return Output(self.logits_of(x[supervised]).flatten(0, 1), targets.flatten(), hidden)

    def _cells(self, batch: Batch) -> Tensor:
        """(R, T) at which cell a position stands; -1 is none."""
        if batch.read is None:
            raise InputError("GridGenerator: this batch does not say which place a position reads")
        return batch.read

    def _inputs(self, batch: Batch, cell: Tensor) -> Tensor:
        """(R, T, D) vectors of condition and codes."""
        picture = cell >= 0
        text = (batch.segment >= 0) & ~picture
        before = self.conditions(batch.tokens, batch.position, text, batch.segment)
        return torch.where(picture[..., None], self._codes(batch.tokens, picture), before)

    def _codes(self, tokens: Tensor, picture: Tensor) -> Tensor:
        """(R, T, D) of tokens (R, T), each of which stands for m codes."""
        tokens = tokens.masked_fill(~picture, 0)
        return self.embed(divided(tokens, self.config.codes, self.config.split))

    def conditions(self, ids: Tensor, position: Tensor, text: Tensor, owner: Tensor) -> Tensor:
        """(R, T, D); only those at `text` mean anything."""
        ids, position = ids.masked_fill(~text, 0), position.masked_fill(~text, 0)
        if isinstance(self.condition, FeatureCondition):
            return self.condition(ids, position, owner.masked_fill(~text, -1))
        return self.condition(ids, position)

    def _mask(self, batch: Batch) -> Tensor | None:
        """(R, 1, T, T) bool; None where every row is one sample from its first position on."""
        order = torch.arange(batch.tokens.shape[1], device=batch.tokens.device)
        if bool(((batch.position == order) | (batch.segment < 0)).all()):
            return None
        return visible(batch.segment, order.expand_as(batch.segment))[:, None]

    def logits_of(self, x: Tensor) -> Tensor:
        """(..., m, V) float32."""
        return self.head(self.norm(x)).float().unflatten(-1, (self.config.split, -1))

    def undraftable(self, longest: int) -> str:
        return "" if self.causal and self.config.split == 1 else super().undraftable(longest)

    def tree_stepper(self) -> GridTreeStepper:
        return GridTreeStepper(self)

    # ---- sampling ------------------------------------------------------------------------------

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, GridCache]:
        """Read conditions of any lengths: logits (B, m, V) of the first cell, and the cache."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        real = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):  # padding on the left
            ids[row, longest - len(prompt) :] = torch.tensor(list(prompt), dtype=torch.int64)
            real[row, longest - len(prompt) :] = True
        ids, real = ids.to(self.device), real.to(self.device)
        position = (real.cumsum(dim=1) - 1).clamp(min=0)
        rows = torch.arange(len(prompts), device=self.device)
        x = self.conditions(ids, position, real, rows[:, None].expand_as(ids))
        cache = GridCache([Memory() for _ in self.blocks], real[:, :0], longest)
        return self._advance(x, self.rotary[:1].expand(longest, -1, -1), real, cache), cache

    def step(self, codes: Tensor, cache: GridCache) -> Tensor:
        """Logits (B, m, V) of the next cell after `codes` (B, m) were drawn; extends `cache`."""
        cell = cache.cells
        real = torch.ones(len(codes), 1, dtype=torch.bool, device=codes.device)
        return self._advance(self.embed(codes)[:, None], self.rotary[cell + 1][None], real, cache)

    def _advance(self, x: Tensor, rotary: Tensor, real: Tensor, cache: GridCache) -> Tensor:
        """Logits (B, m, V) behind the last of the new positions (B, T)."""
        new, mask = x.shape[1], None
        cache.real = torch.cat((cache.real, real), dim=1)
        if not bool(cache.real.all()):
            old = cache.real.shape[1] - new
            order = torch.arange(old + new, device=x.device)
            seen = cache.real[:, None] & (order <= order[old:, None])
            # a row of padding alone sees itself: attention to nothing is not a number
            itself = F.pad(torch.eye(new, dtype=torch.bool, device=x.device), (old, 0))
            mask = (seen | (itself & ~real[..., None]))[:, None]
        for block, memory in zip(self.blocks, cache.memories, strict=True):
            x = block(x, rotary[None], mask, memory)
        return self.logits_of(x[:, -1])
