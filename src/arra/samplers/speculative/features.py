"""Drafts of a network that predicts the target's features (EAGLE, arXiv 2401.15077).

It reads, with a cache of its own, every code of a picture together with what the target's head read
before it, once the target has told; below that its own predictions stand for what is not known yet,
and are forgotten when the draft is made. The target's head turns predictions into laws, of guided
pairs as it does for the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from arra.networks.cache import KVCache
from arra.networks.feature_predictor import FeaturePredictor
from arra.samplers.logits import SamplingConfig, law, untempered
from arra.samplers.speculative.drafts import NO_DRAFT, Budget, Draft, Picture
from arra.samplers.speculative.guided import UnitGuidance


class Tables(Protocol):
    """The target's embedding of codes and its head."""

    units: int

    def embed(self, codes: Tensor) -> Tensor:
        """(..., D) of codes (...)."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """(..., V) of what the head reads, (..., D)."""
        ...


@dataclass
class _Known:
    """What the drafter knows of a picture."""

    row: int
    read: int = 0
    """Codes that its cache has read."""
    told: list[Tensor] = field(default_factory=list)
    """(1 or 2, n, D) features that it has not."""

    @property
    def fresh(self) -> int:
        """How many."""
        return sum(part.shape[1] for part in self.told)


class FeatureDrafter(ABC):
    """Reads what the target tells; how a tree grows is a subclass's matter."""

    draws: ClassVar[bool]

    def __init__(self, network: FeaturePredictor, tables: Tables):
        self.network, self.tables = network.eval(), tables
        self._config, self._guidance = SamplingConfig(), UnitGuidance(SamplingConfig(), 1)
        self._cache = KVCache(None, torch.zeros(0, 0, dtype=torch.bool))
        self._certain, self._rows = False, 0

    def begin(self, pictures: Sequence[Picture], config: SamplingConfig) -> None:
        # at temperature 0 the likeliest codes are guessed: of a certain law there is but one
        self._config = config if config.temperature > 0.0 else untempered(config)
        self._certain, self._rows = config.temperature == 0.0, len(pictures)
        self._guidance = UnitGuidance(config, self.tables.units)
        seen = torch.zeros(self._pairs * len(pictures), 0, dtype=torch.bool)
        self._cache = KVCache(DynamicCache(), seen.to(self.network.device))
        for row, picture in enumerate(pictures):
            picture.state = _Known(row)

    def told(self, pictures: Sequence[Picture], features: Sequence[Tensor]) -> None:
        for picture, new in zip(pictures, features, strict=True):
            picture.state.told.append(new)

    def propose(self, pictures: Sequence[Picture], budgets: Sequence[Budget]) -> list[Draft]:
        self._follow(pictures)
        branches = self._read(pictures)
        # the target tells of given codes when it has read them: until then nothing is guessed
        here = [
            budget if picture.state.read == len(picture.codes) else Budget(0, 0)
            for picture, budget in zip(pictures, budgets, strict=True)
        ]
        if not any(min(budget.nodes, budget.depth) for budget in here):
            return [NO_DRAFT for _ in pictures]
        context = self._cache.stored
        drafts = self._grow(pictures, here, branches)
        self._cache.truncate(context)
        return drafts

    @abstractmethod
    def _grow(
        self, pictures: Sequence[Picture], budgets: Sequence[Budget], branches: Branches
    ) -> list[Draft]:
        """The drafts within their budgets."""

    @property
    def _pairs(self) -> int:
        return 2 if self._guidance.guided else 1

    def _follow(self, pictures: Sequence[Picture]) -> None:
        """Let rows go whose pictures are finished."""
        rows = torch.tensor([picture.state.row for picture in pictures], device=self._cache.device)
        if len(rows) == self._rows:
            return
        self._cache.gather(torch.cat([rows + pair * self._rows for pair in range(self._pairs)]))
        self._rows = len(rows)
        for row, picture in enumerate(pictures):
            picture.state.row = row

    def _read(self, pictures: Sequence[Picture]) -> Branches:
        """Read the codes whose features were told since; trees grow from the last of them."""
        device, known = self._cache.device, [picture.state for picture in pictures]
        fresh = torch.tensor([one.fresh for one in known])
        place = torch.arange(int(fresh.max()))
        codes = torch.zeros(len(known), len(place), dtype=torch.int64)
        features = (
            known[0]
            .told[0]
            .new_zeros(self._pairs, len(known), len(place), self.network.config.width)
        )
        for row, (picture, one) in enumerate(zip(pictures, known, strict=True)):
            codes[row, : one.fresh] = torch.tensor(picture.codes[one.read :][: one.fresh])
            features[:, row, : one.fresh] = torch.cat(one.told, dim=1)
        position = torch.tensor([one.read for one in known])[:, None] + place
        real = (place < fresh[:, None]).to(device)
        causal = torch.ones(len(place), len(place), dtype=torch.bool, device=device).tril()
        # what is no code sees itself alone, and is seen by nobody
        itself = torch.eye(len(place), dtype=torch.bool, device=device)
        sees = (causal & real[:, None]) | itself
        found = self.step(codes.to(device), features.flatten(0, 1), position, sees, real)
        if not bool(real.all()):
            self._cache.keep(real.repeat(self._pairs, 1))
        for one in known:
            one.read, one.told = one.read + one.fresh, []
        last = (fresh - 1).clamp(min=0).repeat(self._pairs).to(device)
        tips = found[torch.arange(len(found), device=device), last]
        return Branches(self, tips[:, None], torch.tensor([one.read for one in known]))

    def step(
        self, codes: Tensor, features: Tensor, position: Tensor, sees: Tensor, real: Tensor
    ) -> Tensor:
        """(P B, t, D) features at codes (B, t), which join the cache; of guided pairs P is 2.

        `features` (P B, t, D) are those before them, `sees` (B, t, up to t and beyond) what each
        sees of the last positions, `real` (B, t) which are codes at all.
        """
        device, pairs = self._cache.device, self._pairs
        sees, real = sees.repeat(pairs, 1, 1), real.repeat(pairs, 1)
        context = self._cache.visible[:, : self._cache.stored + codes.shape[1] - sees.shape[2]]
        mask = torch.cat((context[:, None].expand(-1, codes.shape[1], -1), sees), dim=2)
        self._cache.visible = torch.cat((self._cache.visible, real), dim=1)
        position = position.clamp(max=self.network.config.units - 1).to(device)
        return self.network(
            self.tables.embed(codes).repeat(pairs, 1, 1).to(features.dtype),
            features,
            position.repeat(pairs, 1),
            mask[:, None],
            self._cache.past,
        )

    def laws(self, features: Tensor, unit: Tensor) -> Tensor:
        """(B, t, V) of what is drawn after features (P B, t, D), as units `unit` (B, t)."""
        return law(self._guidance(self.tables.logits(features), unit), self._config)


class Branches:
    """Nodes below what is known: read level by level, as many in every row."""

    def __init__(self, drafter: FeatureDrafter, tips: Tensor, units: Tensor):
        """`tips` (P B, 1, D): the features at each picture's last code, of which `units` (B,) were
        drawn."""
        self.drafter, self.units = drafter, units
        self.features = tips
        """(P B, 1 + N, D): at the last code, then at the N nodes that were read."""
        rows = len(units)
        self._sees = torch.zeros(rows, 1, 0, dtype=torch.bool, device=tips.device)
        self._depths = torch.zeros(rows, 1, dtype=torch.int64)

    def root(self) -> Tensor:
        """(B, 1, V): the law of the first guesses."""
        return self.drafter.laws(self.features, self.units[:, None])

    def read(self, codes: Tensor, parents: Tensor) -> Tensor:
        """(B, t, V): the laws after codes (B, t) that come after the nodes `parents` (B, t), which
        are numbered as they were read; -1 is the last code."""
        device, (rows, width) = self.features.device, codes.shape
        at = (parents + 1).to(device)
        depths = self._depths.gather(1, parents + 1) + 1
        ancestors = self._sees.take_along_dim(at[:, :, None], dim=1)
        itself = torch.eye(width, dtype=torch.bool, device=device).expand(rows, -1, -1)
        sees = torch.cat((ancestors, itself), dim=2)
        pairs = len(self.features) // rows
        before = self.features.take_along_dim(at.repeat(pairs, 1)[:, :, None], dim=1)
        real = torch.ones(rows, width, dtype=torch.bool, device=device)
        position = self.units[:, None] + depths - 1
        found = self.drafter.step(codes.to(device), before, position, sees, real)
        self.features = torch.cat((self.features, found), dim=1)
        blank = self._sees.new_zeros(rows, self._sees.shape[1], width)
        self._sees = torch.cat((torch.cat((self._sees, blank), dim=2), sees), dim=1)
        self._depths = torch.cat((self._depths, depths), dim=1)
        return self.drafter.laws(found, self.units[:, None] + depths)
