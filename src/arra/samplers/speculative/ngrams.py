"""Drafts without a network: tri-grams, counted before and adapted to what is being drawn (ADED,
Adaptive Draft-Verification, arXiv 2407.12021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from arra.errors import InputError
from arra.samplers.logits import SamplingConfig
from arra.samplers.speculative.drafts import NO_DRAFT, Budget, Draft, Picture
from arra.samplers.speculative.search import SearchConfig, best, search, sequences
from arra.samplers.speculative.trigrams import Trigrams


@dataclass(frozen=True)
class NgramConfig:
    """How guesses are found."""

    method: Literal["search", "chain"] = "search"
    """A tree of likely continuations found by search, or the likeliest successor time and again."""
    search: SearchConfig = field(default_factory=SearchConfig)
    step: float = 0.04
    """What every tri-gram among the last codes gains at each draft; 0 adapts nothing."""
    cap: float = 3.0
    """Most that one can have."""
    window: int = 16
    """How many of the last codes are looked at."""
    renormalised: bool = False
    """Whether chances of a pair's successors add up to 1 after they gained (not so in ADED)."""
    kept: bool = False
    """Whether what was learnt of one picture drafts the next ones, as in the released code, or
    every picture begins with the counted table. The pictures are the same."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.step <= self.cap:
            raise InputError(f"NgramConfig.step: {self.step}, expected 0 to the cap, {self.cap}")
        if self.window < 3:
            raise InputError(f"NgramConfig.window: {self.window}, expected at least 3 codes")


class AdaptedTrigrams:
    """A table with what it gained since; the table itself does not change."""

    def __init__(self, table: Trigrams, config: NgramConfig):
        self.table, self.config = table, config
        self._rows: dict[tuple[int, int], dict[int, float]] = {}
        self._gained: set[tuple[int, int]] = set()

    def row(self, first: int, second: int) -> Mapping[int, float]:
        """The successors of a pair with their chances."""
        found = self._rows.get((first, second))
        if found is None:
            found = self._rows[first, second] = self.table.row(first, second)
        return found

    def adapt(self, codes: Sequence[int]) -> None:
        """Every tri-gram among the last codes gains `step`, up to `cap`."""
        config = self.config
        if config.step == 0.0:
            return
        last = codes[-config.window :]
        changed = set()
        for a, b, c in zip(last, last[1:], last[2:], strict=False):
            row = dict(self.row(a, b)) if (a, b) not in self._gained else self._rows[a, b]
            row[c] = min(config.cap, row.get(c, 0.0) + config.step)
            self._rows[a, b] = row
            self._gained.add((a, b))
            changed.add((a, b))
        if config.renormalised:
            for pair in changed:
                total = sum(self._rows[pair].values())
                self._rows[pair] = {code: x / total for code, x in self._rows[pair].items()}


class NgramDrafter:
    """Guesses what tri-grams say."""

    draws: ClassVar[bool] = False

    def __init__(self, table: Trigrams | None = None, config: NgramConfig | None = None):
        self.table = table or Trigrams.empty()
        self.config = config or NgramConfig()
        self._shared = AdaptedTrigrams(self.table, self.config)

    def begin(self, pictures: Sequence[Picture], config: SamplingConfig) -> None:
        for picture in pictures:
            own = self._shared if self.config.kept else AdaptedTrigrams(self.table, self.config)
            picture.state = own

    def propose(self, pictures: Sequence[Picture], budgets: Sequence[Budget]) -> list[Draft]:
        drafts = []
        for picture, budget in zip(pictures, budgets, strict=True):
            picture.state.adapt(picture.codes)
            drafts.append(self._draft(picture.codes, picture.state, budget))
        return drafts

    def _draft(self, codes: Sequence[int], table: AdaptedTrigrams, budget: Budget) -> Draft:
        if len(codes) < 2:
            return NO_DRAFT
        first, second = codes[-2:]
        if not table.row(first, second):
            return NO_DRAFT
        if self.config.method == "chain":
            return trie([likeliest(first, second, table, min(budget.nodes, budget.depth))], budget)
        root = search(first, second, table.row, self.config.search)
        return trie(sequences(root, table.row, self.config.search.kept), budget)


def likeliest(first: int, second: int, table: AdaptedTrigrams, length: int) -> list[int]:
    """Up to `length` codes after a pair, each the likeliest after the two before it."""
    found: list[int] = []
    while len(found) < length and (row := table.row(first, second)):
        first, second = second, best(row)
        found.append(second)
    return found


def trie(found: Sequence[Sequence[int]], budget: Budget) -> Draft:
    """The tree of sequences that begin at its root, the first ones first, up to the budget."""
    tokens: list[int] = []
    parents: list[int] = []
    nodes: dict[tuple[int, int], int] = {}
    for sequence in found:
        parent = -1
        for code in sequence[: budget.depth]:
            if (parent, code) not in nodes:
                if len(tokens) == budget.nodes:
                    break
                nodes[parent, code] = len(tokens)
                tokens.append(code)
                parents.append(parent)
            parent = nodes[parent, code]
    return Draft(tokens, parents)
