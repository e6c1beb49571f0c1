"""Speculative decoding of vectors (Continuous Speculative Decoding, arXiv 2411.11925): a small
generator drafts units, one pass of the target judges them, both with the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from arra.denoising import DenoisingPath, Spans
from arra.errors import InputError
from arra.randomness import Noise
from arra.samplers.ancestral import check_request, prompts_of
from arra.samplers.logits import SamplingConfig
from arra.samplers.noise import PictureNoise
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.path_noise import NoiseTape, derived
from arra.samplers.speculative.paths import PathRule
from arra.samplers.speculative.sampler import Statistics
from arra.samplers.vectors import for_vectors


class PathStepper(Protocol):
    """What the sampler needs of target and draft: generators whose heads record paths.

    Vectors (B, n, C) stand in the order in which they are drawn. Those of a unit are independent of
    each other given the units before.
    """

    @property
    def unit_sizes(self) -> Sequence[int]:
        """Vectors of each unit."""

    @property
    def path_draws(self) -> tuple[int, int, int]:
        """Normal numbers that a vector takes, those beyond them of its path, and C."""

    def prompt_ids(self, caption: str | None) -> list[int]: ...

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> Any:
        """Read prompts, B or, with guidance, 2 B: the pair of row i, without caption, is B + i."""

    def paths(
        self,
        cache: Any,
        vectors: Tensor,
        spans: Spans,
        noise: Tensor,
        scale: Tensor,
        temperature: float,
        last: float | None,
    ) -> DenoisingPath:
        """Draw the M vectors of some spans with noise (draws, M, C), in one pass, each given the
        `vectors` before its span; guidance is (M, 1). See `heads.base.Head.path` for the rest."""

    def keep(self, cache: Any, vectors: Tensor, counts: Tensor) -> None:
        """The first `counts` (B,) of the vectors stay as `paths` read them; what it read of others
        is forgotten. A span that is asked for later begins behind them."""

    def drawn(self, cache: Any) -> Tensor:
        """(B, n, C) the vectors that were kept last, in the order of the codec."""


@dataclass(frozen=True)
class Judged:
    """What the rule saw of the tokens that one pass judged, (M,) each, float64 but for the last."""

    log_ratio: Tensor
    """log R, of which the test takes `tempered`."""
    tempered: Tensor
    """The same with the exponents divided by the squared inner temperature."""
    log_scale: Tensor
    """log S."""
    target: Tensor
    """|(x - mu_p) / s_p|^2 of the last step."""
    draft: Tensor
    """|(x - mu_q) / s_q|^2."""
    gap: Tensor
    """Distance of the draft from the token that the target draws with its noise."""
    accepted: Tensor
    """bool."""


@dataclass
class VectorStatistics(Statistics):
    """Units are those of the generator; drafted and accepted are counted in vectors."""

    tested: int = 0
    """Drafted vectors that the rule looked at: those up to the unit of the first rejection."""
    draft_batches: int = 0
    """Passes of the small model, of all pictures of a batch at once."""
    replaced: int = 0
    """Rejected vectors."""
    tries: int = 0
    """Proposals that were made for them."""
    fallbacks: int = 0
    """Of the rejected ones, those for which no proposal was accepted."""
    judged: list[Judged] = field(default_factory=list)
    """Of every pass, where the sampler keeps it."""

    @property
    def acceptance(self) -> float:
        """Share of tested vectors that stayed."""
        return self.accepted / max(self.tested, 1)


@dataclass(frozen=True)
class PathConfig:
    """How much is drafted, and how drafts are judged."""

    budget: Budget = field(default_factory=lambda: Budget(8, 8))
    """Units drafted for one pass."""
    prefill: float = 0.05
    """Share of the units, rounded up, that the target draws first, alone."""
    last: float | None = 0.05
    """Deviation of the noise of the last step, in the head's numbers; None: the schedule's. It is
    part of what is drawn, and the wider it is, the more of a draft stays."""
    rule: PathRule = field(default_factory=PathRule)
    shared: bool = True
    """Whether both models see the same noise. Without it the rule is as valid, but little stays."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.prefill <= 1.0:
            raise InputError(f"PathConfig.prefill: {self.prefill}, expected 0 to 1")
        if self.last is not None and not 0.0 < self.last < float("inf"):
            raise InputError(f"PathConfig.last: {self.last}, expected more than 0")


@dataclass
class _Run:
    """A batch of pictures that is being drawn."""

    target: Any
    draft: Any
    vectors: Tensor
    """(B, n, C) in the order of drawing."""
    done: Tensor
    """(B,) units that every picture has."""
    noise: tuple[NoiseTape, NoiseTape]
    """Of target and draft."""
    tests: Tensor
    """(B, n) float64 uniform numbers; each vector is tested at most once."""
    residuals: list[torch.Generator]


class SpeculativeVectorSampler:
    """Draws several units of vectors a pass where a smaller generator drafts them."""

    drawn: ClassVar[str] = "units"
    """What a pass gives several of."""

    def __init__(
        self,
        config: SamplingConfig | None,
        drafter: PathStepper,
        how: PathConfig | None = None,
        traced: bool = False,
    ):
        """`drafter` has the target's units, grid and codec; `traced` keeps what every pass judged,
        as `statistics.judged`."""
        self.config = for_vectors(config or SamplingConfig())
        if self.config.temperature == 0.0:
            raise InputError(
                "SamplingConfig.temperature: 0, with which vectors have no density to compare"
            )
        self.drafter, self.how, self.traced = drafter, how or PathConfig(), traced
        self.budget = self.how.budget
        self.statistics = VectorStatistics()
        """Of all calls so far."""

    @torch.inference_mode()
    def __call__(
        self,
        stepper: PathStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Vectors (B, n C) float32, one picture per caption and seed.

        Picture i depends on caption i, seed i and the settings only, up to the rounding of matrix
        products. `on_unit` is called with the number of pictures for each unit that all have.
        """
        check_request(captions, seeds, batch)
        if list(stepper.unit_sizes) != list(self.drafter.unit_sizes) or (
            stepper.path_draws != self.drafter.path_draws
        ):
            raise InputError(
                f"the draft draws units of {list(self.drafter.unit_sizes)} vectors by "
                f"{self.drafter.path_draws} normal numbers, the target {list(stepper.unit_sizes)} "
                f"by {stepper.path_draws}: expected the same rounds and steps of both"
            )
        drawn = []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            drawn.append(self._batch(stepper, captions[here], seeds[here], on_unit))
        return torch.cat(drawn) if drawn else torch.empty(0, 0)

    def _batch(
        self,
        stepper: PathStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        on_unit: Callable[[int], None] | None,
    ) -> Tensor:
        run, sizes = self._begin(stepper, captions, seeds), stepper.unit_sizes
        self.statistics.pictures += len(captions)
        finished = 0
        while finished < len(sizes):
            self._pass(stepper, run)
            now = int(run.done.min())
            if on_unit is not None:
                for _ in range(finished, now):
                    on_unit(len(captions))
            finished = now
        return stepper.drawn(run.target).float().flatten(1).cpu()

    def _begin(
        self, stepper: PathStepper, captions: Sequence[str | None], seeds: Sequence[int]
    ) -> _Run:
        sizes, (*draws, channels) = stepper.unit_sizes, stepper.path_draws
        count, own = sum(sizes), PictureNoise(seeds)
        # what a picture begins with, the order of its cells, is the same in both
        target, draft = (
            model.begin(prompts_of(model, captions, self.config.guided), noise)
            for model, noise in (
                (stepper, own.normal),
                (self.drafter, PictureNoise(seeds).normal),
            )
        )
        tape = NoiseTape(own, seeds, sizes, (draws[0], draws[1]), channels)
        if self.how.shared:
            other = tape
        else:
            alone = derived(seeds, "draft")
            other = NoiseTape(PictureNoise(alone), alone, sizes, (draws[0], draws[1]), channels)
        tests = [torch.Generator().manual_seed(seed) for seed in derived(seeds, "tests")]
        uniform = [torch.rand(count, generator=one, dtype=torch.float64) for one in tests]
        return _Run(
            target,
            draft,
            torch.zeros(len(seeds), count, channels),
            torch.zeros(len(seeds), dtype=torch.int64),
            (tape, other),
            torch.stack(uniform),
            [torch.Generator().manual_seed(seed) for seed in derived(seeds, "residual")],
        )

    def _pass(self, stepper: PathStepper, run: _Run) -> None:
        """Draft, one pass of the target, and the cut: every picture gains a unit at least."""
        ends = _ends(stepper)
        drafted = self._budgets(run.done, len(ends) - 1)
        q = self._draft(run, drafted, ends)
        window = _Window.of(run.done, drafted, ends)
        p = self._paths(stepper, run.target, run, window.spans, run.noise[0])
        going, counts = run.done < len(ends) - 1, self.statistics
        counts.batches += 1
        counts.passes += int(going.sum())

        drawn = window.drafted  # of the rest, the unit behind the draft, the target says what it is
        stays = torch.ones(len(p), dtype=torch.bool)
        if q is not None:
            chance = self.how.rule.acceptance(p[drawn], q)
            stays[drawn] = run.tests[window.picture, window.rank][drawn] < chance
        accepted = window.leading(stays, drafted)
        tested = drawn & (window.number <= accepted[window.picture])
        if q is not None:
            self._count(p[drawn], q, stays[drawn], tested[drawn])
            self._replace(run, window, p, q, tested & ~stays)
        behind = ~drawn & (accepted == drafted)[window.picture]
        run.vectors[window.picture[behind], window.rank[behind]] = p.tokens[behind]

        for model, cache in ((stepper, run.target), (self.drafter, run.draft)):
            model.keep(cache, run.vectors, ends[run.done + accepted])
        run.done = run.done + torch.where(going, accepted + 1, 0)
        counts.drawn += int((accepted + 1)[going].sum())

    def _budgets(self, done: Tensor, units: int) -> Tensor:
        """(B,) units that are drafted of each picture: the target draws one more."""
        depth = min(self.budget.nodes, self.budget.depth)
        drafted = (units - 1 - done).clamp(min=0, max=depth)
        return torch.where(done < math.ceil(self.how.prefill * units), 0, drafted)

    def _draft(self, run: _Run, drafted: Tensor, ends: Tensor) -> DenoisingPath | None:
        """Draw so many units (B,) of each picture with the small model, into the run's vectors:
        their paths, picture by picture; None where nothing is drafted."""
        paths, order = [], []
        for number in range(int(drafted.max())):
            pictures = (drafted > number).nonzero().flatten()
            unit = run.done[pictures] + number
            spans = Spans(pictures, ends[unit], ends[unit + 1])
            paths.append(self._paths(self.drafter, run.draft, run, spans, run.noise[1]))
            _, picture, rank = spans.places(int(ends[-1]))
            run.vectors[picture, rank] = paths[-1].tokens
            order.append(picture * ends[-1] + rank)
            self.statistics.draft_batches += 1
        if not paths:
            return None
        self.statistics.drafted += sum(map(len, paths))
        return DenoisingPath.cat(paths)[torch.cat(order).argsort()]

    def _paths(
        self, model: PathStepper, cache: Any, run: _Run, spans: Spans, tape: NoiseTape
    ) -> DenoisingPath:
        ends = _ends(model)
        units = torch.bucketize(spans.first, ends[1:], right=True)
        scales = [self.config.scale(unit, len(ends) - 1) for unit in range(len(ends) - 1)]
        place, _, _ = spans.places(int(ends[-1]))
        scale = torch.tensor(scales)[units[place]][:, None]
        how = (tape.of(spans), scale, self.config.temperature, self.how.last)
        return model.paths(cache, run.vectors, spans, *how).to("cpu")

    def _replace(
        self, run: _Run, window: _Window, p: DenoisingPath, q: DenoisingPath, rejected: Tensor
    ) -> None:
        """Draw the rejected (M,) vectors of the window anew; `q` has those that were drafted."""
        drafts = window.drafted.cumsum(0) - 1
        for place in rejected.nonzero().flatten().tolist():
            one, other = (slice(n, n + 1) for n in (place, int(drafts[place])))
            picture, rank = int(window.picture[place]), int(window.rank[place])
            found = self.how.rule.residual(p[one], q[other], run.residuals[picture])
            run.vectors[picture, rank] = found.token
            self.statistics.replaced += 1
            self.statistics.tries += found.tries
            self.statistics.fallbacks += not found.found

    def _count(self, p: DenoisingPath, q: DenoisingPath, stays: Tensor, tested: Tensor) -> None:
        """Take down what was judged, of the drafted vectors that were tested."""
        self.statistics.tested += int(tested.sum())
        self.statistics.accepted += int((tested & stays).sum())
        if not self.traced:
            return
        p, q, x, rule = p[tested], q[tested], q.tokens[tested], self.how.rule
        self.statistics.judged.append(
            Judged(
                rule.log_ratio(p, q, x),
                rule.log_ratio(p, q, x, rule.temperature),
                rule.log_scale(p, q),
                p.mahalanobis(x),
                q.mahalanobis(x),
                (p.tokens - x).double().norm(dim=1),
                stays[tested],
            )
        )


@dataclass(frozen=True)
class _Window:
    """What one pass draws: of every unfinished picture the drafted units and the one behind."""

    spans: Spans
    picture: Tensor
    """(M,) of every vector of the spans."""
    rank: Tensor
    """(M,) its number among those of the picture, in the order of drawing."""
    number: Tensor
    """(M,) that of its unit, from the first drafted one."""
    drafted: Tensor
    """(M,) bool: whether it was drafted, and does not stand behind the draft."""

    @classmethod
    def of(cls, done: Tensor, drafted: Tensor, ends: Tensor) -> _Window:
        """Of pictures with so many units (B,), and so many drafted ones."""
        going = (done < len(ends) - 1).nonzero().flatten()
        counts = drafted[going] + 1
        pictures = going.repeat_interleave(counts)
        before = counts.cumsum(0) - counts
        number = torch.arange(len(pictures)) - before.repeat_interleave(counts)
        unit = done[pictures] + number
        spans = Spans(pictures, ends[unit], ends[unit + 1])
        place, picture, rank = spans.places(int(ends[-1]))
        inside = number[place] < drafted[picture]
        return cls(spans, picture, rank, number[place], inside)

    def leading(self, stays: Tensor, drafted: Tensor) -> Tensor:
        """(B,) how many units stay whole, from the first on, of so many drafted ones (B,)."""
        width = int(drafted.max()) + 1
        whole = torch.ones(len(drafted), width, dtype=torch.int64)
        key = self.picture * width + self.number
        whole.view(-1).scatter_reduce_(0, key, stays.long(), "amin")
        whole[torch.arange(width) >= drafted[:, None]] = 0
        return whole.cumprod(dim=1).sum(dim=1)


def _ends(model: PathStepper) -> Tensor:
    """(units + 1,) how many vectors a picture has after each number of units."""
    return torch.tensor([0, *model.unit_sizes]).cumsum(0)
