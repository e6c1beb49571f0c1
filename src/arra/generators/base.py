"""What a generator is, and the two records that training passes around: batch and output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from arra.data.tokenizer import CaptionEncoder, load_text_tokenizer, one_line
from arra.errors import InputError
from arra.networks.part import Part
from arra.registry import Registry, generators
from arra.settings import BatchConfig, Sizes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from arra.codecs.base import Codec
    from arra.generators.batches import Store, StoreBatches

TOKENIZER = "tokenizer"
"""In a saved generator's folder, that of its tokenizer."""
DATA, NOISE, MODEL = range(3)
"""Who chose a token (`Batch.source`): the data; noise put into it, which is read but not learnt; or
the model itself, some steps ago."""


@dataclass(frozen=True)
class Batch:
    """Training sequences. B samples lie in R rows of T positions (R = B unless rows are packed, or
    samples of plain text follow)."""

    tokens: Tensor
    """(R, T) int64."""
    segment: Tensor
    """(R, T) int64: which sample (0 to B - 1) a position belongs to; -1 is padding."""
    position: Tensor
    """(R, T) int64: the position within its own sample, for rotary embeddings."""
    target: Tensor
    """(R, T) int64: the token that the output here should predict; -100 is none."""
    image: Tensor
    """(R, T) bool: the output here predicts image content (these are ARRA's HYBNEXT positions)."""
    place: Tensor
    """(R, T) int64: which of the picture's codes, in the order of the codec, is predicted here; -1
    is none. In raster order that is the place on the grid."""
    read: Tensor | None = None
    """(R, T) int64: which place of the picture is the input here, -1 is none; None: not told."""
    latents: Tensor | None = None
    """(B, n, C) float32: the picture's codes where they are vectors; `place` and `read` count them,
    and the tokens that stand for them mean nothing."""
    seed: Tensor | None = None
    """() int64: of the noise of a law of vectors; None: torch's own stream, which training sets
    anew for every micro-batch."""
    group: Tensor | None = None
    """(B,) int64: which sequence of pictures each belongs to, where pictures of a batch, in their
    order, know of each other; None: they do not."""
    dies: Tensor | None = None
    """(R, T) int64: the column from which on a position is no longer seen, because its token was
    taken back; `FOREVER` for never; None: all stay. `position` then counts the tokens that are
    left, and may go back."""
    source: Tensor | None = None
    """(R, T) int64: who chose the target, `DATA`, `NOISE` or `MODEL`; None: all is data."""
    features: dict[str, Tensor] = field(default_factory=dict)
    """Encoder features: "cls", "mean" (B, D), "patches" (B, N, D); NAME/cls of a named encoder."""

    @property
    def samples(self) -> int:
        """B, the number of samples that have a picture; plain text, if any, comes behind them."""
        return int(self.segment.masked_fill(~self.image, -1).max()) + 1

    def stream(self) -> torch.Generator | None:
        """The noise that `seed` asks for, from its beginning at every call; on the CPU."""
        return None if self.seed is None else torch.Generator().manual_seed(int(self.seed))

    def tensors(self) -> dict[str, Tensor]:
        """The fields that were given, by name, without the features."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        moved = {name: x.to(device, non_blocking=True) for name, x in self.tensors().items()}
        features = {name: x.to(device, non_blocking=True) for name, x in self.features.items()}
        return replace(self, **moved, features=features)


@dataclass(frozen=True)
class Output:
    """What a generator's forward gives; objectives read nothing else."""

    logits: Tensor
    """(M, V) at the M positions with a target, in row-major order of the batch; of a generator that
    predicts m codes at a position (M m, V), those of a position side by side."""
    targets: Tensor
    """(M,) or (M m,) their targets."""
    hidden: dict[int, Tensor]
    """layer -> (R, T, D): output of block `layer` (1 is the first), before the final norm."""
    losses: Tensor | None = None
    """(P,) of a law of vectors: the loss of each position with `Batch.image`, in row-major order.
    Such positions have no target, except where a student predicts a code and its vector; what
    logits there are otherwise belong to others (text, say)."""

    @cached_property
    def scores(self) -> tuple[Tensor, Tensor]:
        """log(sum(exp(logits))) and the target's logit, both (M,) float32: all that losses of the
        next token need, computed once for all of them."""
        return _Scores.apply(self.logits, self.targets)


@dataclass(frozen=True, kw_only=True)
class FeatureOutput(Output):
    """What a network gives that predicts what a target's head reads, at M codes of pictures; logits
    are the head's, targets the codes that come next."""

    features: Tensor
    """(M, D) as predicted."""
    true_features: Tensor
    """(M, D) the target's own."""
    true_logits: Tensor
    """(M, V) what its head makes of these."""


class _Scores(torch.autograd.Function):
    """With one pass over the logits in either direction, which for a vocabulary is much."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        normaliser = torch.logsumexp(logits.float(), dim=-1)
        ctx.save_for_backward(logits, normaliser, targets)
        return normaliser, logits.gather(1, targets[:, None]).squeeze(1).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, normaliser: Tensor, chosen: Tensor) -> tuple[Tensor, None]:
        logits, total, targets = ctx.saved_tensors
        gradient = (logits.float() - total[:, None]).exp_().mul_(normaliser[:, None])
        gradient.scatter_add_(1, targets[:, None], chosen[:, None])
        return gradient.to(logits.dtype), None


class Generator(Part):
    """An order, a network and a head: what can be trained and sampled.

    Its configuration has a field `codec`, the fingerprint of the codec whose codes it draws.
    """

    registry: ClassVar[Registry] = generators
    sampler: ClassVar[str] = "ancestral"
    """Registered name of the sampler that draws its codes, (B, ...) in the order of its units."""
    default_codec: ClassVar[str] = "vq"
    """Kind of codec that `arra prepare` trains where nothing but this generator is asked for."""

    laws: ClassVar[tuple[str, ...]] = ("cross_entropy",)
    """Registered names of the objectives that its own predictions are trained with."""
    dimensions: int = 0
    """C, the numbers of a code where codes are vectors; 0: they are indices."""

    taught: ClassVar[bool] = False
    """Whether it is a student, made of another generator (`generators.students`): it learns from
    what its teacher makes of noise, and neither from pictures nor to say how likely they are."""
    causal: ClassVar[bool] = True
    """Whether what is said at a position depends on nothing that comes after it."""
    width: int
    """D, the width of the hidden states."""
    depth: int
    """Number of decoder blocks."""
    tokenizer: PreTrainedTokenizerBase | None = None
    """Reads captions; None where a generator has no use of it."""
    # made when first needed: copying a tokenizer of a large vocabulary takes a second
    _captions: tuple[PreTrainedTokenizerBase, CaptionEncoder] | None = None

    @classmethod
    @abstractmethod
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
        """A generator with random weights, a function of `seed`, of a prepared store.

        `grid` are the rows and columns of the codec's (finest) codes in the store's pictures,
        `longest` the ids of its longest caption. Raises `InputError` where the generator cannot
        draw the codes of such a codec.
        """

    @property
    @abstractmethod
    def units(self) -> int:
        """Sequential passes that draw a picture, at most."""

    @property
    @abstractmethod
    def codes(self) -> int:
        """Number of different codes, as the codec's `vocabulary`: 0 where they are vectors."""

    @property
    @abstractmethod
    def grids(self) -> tuple[tuple[int, int], ...]:
        """The grids, rows and columns, whose cells `Batch.place` counts one after the other.

        The last one is the picture's finest.
        """

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Shape of one picture's codes as the codec takes them; samplers draw them flat."""
        return (sum(rows * columns for rows, columns in self.grids),)

    def scheduled(self, sizes: tuple[tuple[int, int], ...]) -> Self:
        """This generator, with the same weights, drawing scales of these rows and columns.

        Raises `InputError` where the steps of drawing cannot be chosen.
        """
        raise InputError(
            f"a {self.registered_name} generator draws in the steps of its training; "
            "flexible-scales takes any schedule"
        )

    def paced(
        self, *, steps: int | None = None, rounds: int | None = None, solver: str | None = None
    ) -> Self:
        """This generator, with the same weights, drawing in another number of passes: `steps` of
        the `solver` that draws a unit, `rounds` of one that draws hidden cells.

        Raises `InputError` where passes cannot be chosen.
        """
        raise InputError(
            f"a {self.registered_name} generator draws each unit in one pass; steps and rounds are "
            "for generators of vectors"
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory / TOKENIZER)

    def _load_weights(self, folder: Path) -> None:
        super()._load_weights(folder)
        if (folder / TOKENIZER).is_dir():
            self.tokenizer = load_text_tokenizer(folder / TOKENIZER)

    def caption_ids(self, caption: str) -> list[int]:
        """Token ids of a caption, exactly as preparation made them for training."""
        if self.tokenizer is None:
            raise InputError("this generator has no tokenizer: load it from a saved folder")
        if self._captions is None or self._captions[0] is not self.tokenizer:
            self._captions = self.tokenizer, CaptionEncoder.of(self.tokenizer)
        return self._captions[1]([one_line(caption)])[0]

    def undraftable(self, longest: int) -> str:
        """Why codes cannot be drafted and verified (speculative decoding) where prompt and draft
        have up to `longest` positions; empty where `step_tree` does it."""
        if self.dimensions:
            return "its codes are vectors, of which no table of probabilities can be compared"
        if not self.causal:
            return "it draws hidden cells in rounds, not one code after the other"
        return "a unit of it is not a single code that the next one reads"

    def tree_stepper(self) -> Any:
        """What draws its units and reads draft trees of them (`samplers.speculative`), where
        `undraftable` finds no reason against it."""
        return self

    @abstractmethod
    def prompt_ids(self, caption: str | None) -> list[int]:
        """Token ids that are read before the first unit; None is guidance's empty prompt."""

    @abstractmethod
    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> StoreBatches:
        """Training batches of a prepared store, with those of its `features`, None: all.

        `replay` are pieces of plain text as ids, of which `config.replay` asks for some.
        """

    def decoder_blocks(self) -> Sequence[nn.Module]:
        """The blocks that run one after the other; sharded training gathers their weights one by
        one. A generator that names none is gathered as a whole."""
        return ()

    @abstractmethod
    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        """Logits at supervised positions, or the losses of vectors, and the hidden states after the
        blocks in `layers`."""


class CodeGenerator(Generator):
    """A generator whose codes are indices: the law of a unit is a table of logits."""

    @abstractmethod
    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """Read prompts of any lengths: logits of the first unit, and a cache."""

    @abstractmethod
    def step(self, codes: Tensor, cache: Any) -> Tensor:
        """Logits of the next unit after `codes` were drawn; extends the cache."""
