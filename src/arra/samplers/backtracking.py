"""Sampling that takes tokens back: among the actions of a model is one that undoes the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.guidance import guide
from arra.registry import samplers
from arra.samplers.ancestral import check_request
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.noise import PictureNoise, draw


class Eraser(Protocol):
    """What the sampler needs of a model: n tokens to write (actions 0 to n - 1), an action n that
    ends and an action n + 1 that takes the last token back."""

    @property
    def units(self) -> int:
        """Tokens that may stand."""

    @property
    def least(self) -> int:
        """Tokens that must stand before the end."""

    @property
    def tokens(self) -> int:
        """n."""

    def prompt_ids(self, caption: str | None) -> list[int]: ...

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]: ...

    def step(self, actions: Tensor, draft: Any) -> Tensor:
        """Logits (B, n + 2) after `actions` (B,), -1 in rows that have ended."""


@dataclass(frozen=True)
class Limits:
    """How much may be taken back, so that drawing ends."""

    in_a_row: int = 4
    """Backspaces without a token between them."""
    each: float = 1.0
    """Backspaces in all, of each token that may stand; 0 takes nothing back."""

    def __post_init__(self) -> None:
        if self.in_a_row < 0 or not 0 <= self.each < float("inf"):
            raise InputError(f"Limits: {self.in_a_row} and {self.each}, expected at least 0")


@dataclass
class _Row:
    """What was done so far for one prompt."""

    actions: list[int]
    depth: int = 0
    """Tokens that stand."""
    deepest: int = 0
    running: int = 0
    """Backspaces since the last token."""
    taken: int = 0
    """Backspaces in all."""
    over: bool = False


@samplers.register("backtracking")
class BacktrackingSampler:
    """Draws action by action with a KV cache, rows of their own lengths, guidance in one batch."""

    def __init__(self, config: SamplingConfig | None = None, limits: Limits | None = None):
        self.config, self.limits = config or SamplingConfig(), limits or Limits()

    def __call__(
        self,
        stepper: Eraser,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """(B, units) int64: the tokens that are left at the end, and the number n where there are
        fewer than may stand.

        Row i depends on caption i, seed i and the settings only, not on the batch it is drawn in.
        `on_unit` is called with the number of rows whenever all of them have got one token more, so
        many times as tokens may stand.
        """
        rows = self.actions(
            stepper,
            [stepper.prompt_ids(caption) for caption in captions],
            seeds,
            batch=batch,
            on_unit=on_unit,
            unconditional=stepper.prompt_ids(None),
        )
        end = stepper.tokens
        texts = [standing(actions, end) for actions in rows]
        padded = [text + [end] * (stepper.units - len(text)) for text in texts]
        return torch.tensor(padded, dtype=torch.int64).view(len(rows), stepper.units)

    @torch.inference_mode()
    def actions(
        self,
        stepper: Eraser,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        given: Sequence[Sequence[int]] | None = None,
        unconditional: Sequence[int] = (),
        on_unit: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """All that was done after each prompt (ids), backspaces and the end included.

        `given` are first actions of each row that are not drawn; `unconditional` is the prompt of
        guidance's pairs.
        """
        check_request(prompts, seeds, batch)  # type: ignore[arg-type]
        found: list[list[int]] = []
        for start in range(0, len(prompts), batch):
            here = slice(start, start + batch)
            some = list(prompts[here])
            if self.config.guided:
                some += [unconditional] * len(some)
            first = [()] * len(prompts[here]) if given is None else given[here]
            found += self._batch(stepper, some, seeds[here], first, on_unit)
        return found

    def _batch(
        self,
        stepper: Eraser,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        given: Sequence[Sequence[int]],
        on_unit: Callable[[int], None] | None,
    ) -> list[list[int]]:
        rows = [_Row([]) for _ in seeds]
        noise, n = PictureNoise(seeds), stepper.tokens
        logits, draft = stepper.prefill(prompts)
        told = 0
        while True:
            race = noise.exponential(n + 2, logits.device)
            chosen = self._choose(stepper, logits, rows, race).tolist()
            for row, first, action in zip(rows, given, chosen, strict=True):
                if not row.over:
                    done = len(row.actions)
                    _act(row, first[done] if done < len(first) else action, n)
            least = min(stepper.units if row.over else row.deepest for row in rows)
            if on_unit is not None:
                for _ in range(least - told):
                    on_unit(len(rows))
            told = least
            if all(row.over for row in rows):
                return [row.actions for row in rows]
            last = torch.tensor([-1 if row.over else row.actions[-1] for row in rows])
            logits = stepper.step(torch.cat((last, last)) if self.config.guided else last, draft)

    def _choose(self, stepper: Eraser, logits: Tensor, rows: list[_Row], race: Tensor) -> Tensor:
        """(B,) int64 drawn from the law of what each row may do."""
        if self.config.guided:
            scales = [
                self.config.scale(min(r.depth, stepper.units - 1), stepper.units) for r in rows
            ]
            scale = torch.tensor(scales, device=logits.device)[:, None]
            conditional, without = logits.float().chunk(2)
            logits = torch.where(scale == 1.0, conditional, guide(conditional, without, scale))
        legal = torch.stack([self._legal(stepper, row) for row in rows]).to(logits.device)
        return draw(law(logits.float().masked_fill(~legal, float("-inf")), self.config), race)

    def _legal(self, stepper: Eraser, row: _Row) -> Tensor:
        """(n + 2,) bool: tokens while there is room, the end when enough stand, a backspace where
        something stands and `limits` allow it."""
        allowed = torch.empty(stepper.tokens + 2, dtype=torch.bool)
        allowed[:-2] = row.depth < stepper.units
        allowed[-2] = row.depth >= stepper.least
        limits = self.limits
        left = row.taken < limits.each * stepper.units and row.running < limits.in_a_row
        allowed[-1] = left and row.depth > 0
        return allowed


def _act(row: _Row, action: int, n: int) -> None:
    """Note what a row does."""
    row.actions.append(action)
    if action == n + 1:
        row.depth, row.running, row.taken = row.depth - 1, row.running + 1, row.taken + 1
    elif action == n:
        row.over = True
    else:
        row.depth, row.running = row.depth + 1, 0
        row.deepest = max(row.deepest, row.depth)


def standing(actions: Sequence[int], end: int) -> list[int]:
    """The tokens that are left of actions; `end` is the number of the one that ends, the next one
    takes back."""
    left: list[int] = []
    for action in actions:
        if action == end + 1:
            left.pop()
        elif action < end:
            left.append(action)
    return left
