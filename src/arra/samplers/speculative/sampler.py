"""The sampler: guesses are drafted, one pass of the target judges them, and the rule decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.guidance import guide_pairs
from arra.orders.trees import Trees
from arra.registry import samplers
from arra.samplers.ancestral import Stepper, check_request, prompts_of
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.speculative.drafts import (
    Budget,
    Draft,
    Drafter,
    Picture,
    ReadsFeatures,
)
from arra.samplers.speculative.ngrams import NgramDrafter
from arra.samplers.speculative.rules import Rule, rule_for
from arra.samplers.speculative.tapes import PictureTape, Tape
from arra.samplers.speculative.verifier import Verifier


class TreeStepper(Stepper, Protocol):
    """A stepper that reads trees; its cache has `rows`, `device`, `gather`, `keep`, `take_back`."""

    def step_tree(self, codes: Tensor, trees: Trees, cache: Any) -> tuple[Tensor, Tensor]: ...


@dataclass
class Statistics:
    """What drawing took, summed over pictures."""

    pictures: int = 0
    passes: int = 0
    """Passes of the target that a picture took part in; each gives at least one unit."""
    drawn: int = 0
    """Units that they gave."""
    drafted: int = 0
    """Nodes that were drafted."""
    accepted: int = 0
    """Of these, those that stayed."""
    batches: int = 0
    """Passes of the target, of all pictures of a batch at once."""

    @property
    def units_per_pass(self) -> float:
        """1 where nothing is drafted."""
        return self.drawn / max(self.passes, 1)


TapeMaker = Callable[[int, int, int, torch.device], Tape]
"""Makes the tape of a seed, a number of units, V and a device."""


@samplers.register("speculative")
class SpeculativeSampler:
    """Draws several units a pass where a cheap drafter guesses them."""

    drawn: ClassVar[str] = "codes"
    """What a pass gives several of."""

    def __init__(
        self,
        config: SamplingConfig | None = None,
        drafter: Drafter | None = None,
        rule: Rule | None = None,
        budget: Budget | None = None,
        tape: TapeMaker = PictureTape,
    ):
        """Unless given, the drafter knows tri-grams of the picture itself alone, and the rule is
        the lossless one for the drafter."""
        self.config = config or SamplingConfig()
        self.drafter: Drafter = NgramDrafter() if drafter is None else drafter
        self.rule = rule or rule_for(self.drafter)
        self.budget = budget or Budget()
        self.tape = tape
        self.statistics = Statistics()
        """Of all calls so far."""

    @torch.inference_mode()
    def __call__(
        self,
        stepper: TreeStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        prefix: Tensor | None = None,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, units) int64, one picture per caption and seed.

        Picture i depends on caption i, seed i and the settings only, as in ancestral sampling, of
        which this is a faster way where the rule is `Match`. `prefix` (B, p) holds first codes that
        are given; -1 ends them. `on_unit` is called with the number of pictures for each unit that
        all of them have.
        """
        check_request(captions, seeds, batch)
        if prefix is not None and prefix.shape[1] > stepper.units:
            raise InputError(f"prefix: {prefix.shape[1]} units, expected at most {stepper.units}")
        drawn = []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            none: list[list[int]] = [[] for _ in captions[here]]
            given = none if prefix is None else _given(prefix[here])
            drawn.append(self._batch(stepper, captions[here], seeds[here], given, on_unit))
        return torch.cat(drawn) if drawn else torch.empty(0, stepper.units, dtype=torch.int64)

    def _batch(
        self,
        stepper: TreeStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        given: Sequence[list[int]],
        on_unit: Callable[[int], None] | None,
    ) -> Tensor:
        guided, units = self.config.guided, stepper.units
        prompts = prompts_of(stepper, captions, guided)
        logits, cache = stepper.prefill(prompts)
        device = logits.device
        pictures = [
            Picture(prompt, caption, self.tape(seed, units, logits.shape[-1], device), list(codes))
            for prompt, caption, seed, codes in zip(prompts, captions, seeds, given, strict=False)
        ]
        if guided:
            logits = guide_pairs(logits, self.config.scale(0, units))
        first = law(logits, self.config)
        self.statistics.pictures += len(pictures)
        self.statistics.batches += 1
        for picture, chances in zip(pictures, first, strict=True):
            if not picture.codes:
                picture.codes.append(picture.tape.choose(chances, 0))
                self.statistics.passes += 1
                self.statistics.drawn += 1
            picture.pending = list(picture.codes)
        self.drafter.begin(pictures, self.config)
        if isinstance(self.drafter, ReadsFeatures):
            self.drafter.told(pictures, _after_prompts(cache, len(pictures)))
        self._rounds(stepper, pictures, cache, on_unit)
        return torch.tensor([picture.codes for picture in pictures], device=device)

    def _rounds(
        self,
        stepper: TreeStepper,
        pictures: Sequence[Picture],
        cache: Any,
        on_unit: Callable[[int], None] | None,
    ) -> None:
        """Draw until every picture has all of its units."""
        end: int | None = getattr(stepper, "end", None)
        verifier, reported = Verifier(stepper, self.rule.judged(self.config), cache), 0
        rows = list(pictures)
        while True:
            for picture in rows:
                if end is not None and picture.codes[-1] == end:
                    picture.codes += [end] * (stepper.units - len(picture.codes))
            if on_unit is not None:
                finished = min(len(picture.codes) for picture in pictures)
                for _ in range(reported, finished):
                    on_unit(len(pictures))
                reported = finished
            going = [n for n, picture in enumerate(rows) if len(picture.codes) < stepper.units]
            if not going:
                return
            if len(going) < len(rows):
                verifier.gather(going)
                rows = [rows[n] for n in going]
            budgets = [self.budget.within(stepper.units - len(p.codes)) for p in rows]
            drafts = self.drafter.propose(rows, budgets)
            for draft, budget in zip(drafts, budgets, strict=True):
                draft.check(budget)
            laws = verifier.laws(rows, drafts)
            paths = [
                self._walk(picture, draft, found, end)
                for picture, draft, found in zip(rows, drafts, laws, strict=True)
            ]
            if isinstance(self.drafter, ReadsFeatures):
                self.drafter.told(rows, verifier.kept(paths))
            verifier.keep(paths)
            self._count(drafts, paths)

    def _walk(self, picture: Picture, draft: Draft, laws: Tensor, end: int | None) -> list[int]:
        """The nodes that stay, from the first to the last; the picture gets its new units.

        `laws` (n + 1, V): row i + 1 is the target's law after node i, row 0 before the draft.
        """
        path: list[int] = []
        new: list[int] = []
        node = -1
        while True:
            children = draft.children(node)
            q = None if draft.laws is None else draft.laws[node + 1]
            guesses = [draft.tokens[child] for child in children]
            unit = len(picture.codes) + len(new)
            found, code = self.rule.decide(laws[node + 1], q, guesses, picture.tape, unit)
            new.append(code)
            if found < 0 or code == end:
                break
            node = children[found]
            path.append(node)
        picture.codes += new
        picture.pending = new[-1:]
        return path

    def _count(self, drafts: Sequence[Draft], paths: Sequence[Sequence[int]]) -> None:
        accepted = sum(map(len, paths))
        self.statistics.batches += 1
        self.statistics.passes += len(paths)
        self.statistics.drawn += len(paths) + accepted
        self.statistics.accepted += accepted
        self.statistics.drafted += sum(map(len, drafts))


def _after_prompts(cache: Any, pictures: int) -> list[Tensor]:
    """Of each picture (1 or 2, 1, D) what the head read after its prompt."""
    if (state := getattr(cache, "state", None)) is None:
        raise InputError("this drafter reads features, which the stepper's cache does not tell")
    return list(state.unflatten(0, (-1, pictures))[:, :, None].unbind(1))


def _given(prefix: Tensor) -> list[list[int]]:
    """The given first codes of every row; `InputError` where one is given behind a gap."""
    rows = []
    for number, row in enumerate(prefix.tolist()):
        count = next((n for n, code in enumerate(row) if code < 0), len(row))
        if any(code >= 0 for code in row[count:]):
            raise InputError(f"prefix: row {number} goes on behind a gap, expected -1 to the end")
        rows.append(row[:count])
    return rows
