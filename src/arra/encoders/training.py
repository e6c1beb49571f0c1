"""Training a small encoder on the training pictures only, with or without their captions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from arra.encoders.augment import AugmentConfig, random_view
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.small import SmallConfig, SmallEncoder
from arra.encoders.text import SmallTextConfig, SmallTextEncoder, vocabulary_of
from arra.errors import InputError, TrainingDiverged
from arra.progress import track
from arra.randomness import seeded


@dataclass(frozen=True)
class EncoderTraining:
    """How an encoder is trained. Training ends at `steps` or `seconds`, whichever comes first."""

    objective: str = "masked"
    """"contrastive": pictures with their captions (CLIP, 2103.00020). "instance": two views of one
    picture (SimCLR, 2002.05709). "masked": hidden patches from the rest, and the whole picture from
    CLS alone. Names joined by "+" are trained as a sum: captions teach what to tell apart, the
    others what captions leave open."""
    steps: int | None = 300
    """Optimiser steps; None: as many as `seconds` allow."""
    seconds: float | None = None
    """Wall-clock time; None: no limit. Only `steps` give the same encoder twice."""
    batch: int = 128
    """Pictures a step."""
    learning_rate: float = 1e-3
    """Peak of AdamW's rate, after a warm-up over 5 % and before a cosine to zero."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Views for "instance" (all of it) and "contrastive" (shifts halved, no blanked squares)."""
    temperature: float = 0.1
    """Of "instance"; that of "contrastive" is learned and starts at 0.07."""
    masked: tuple[float, float] = (0.1, 0.7)
    """"masked": the share of hidden patches is uniform between these, picture by picture."""
    seed: int = 0
    """Of initial weights, order, views and masks."""

    def __post_init__(self) -> None:
        if not set(self.names) <= set(_OBJECTIVES) or len(set(self.names)) < len(self.names):
            raise InputError(
                f"EncoderTraining.objective: {self.objective!r}, expected "
                f"{', '.join(_OBJECTIVES)}, or several of them joined by '+'"
            )
        if self.steps is None and self.seconds is None:
            raise InputError("EncoderTraining: expected steps or seconds, both are None")
        if (self.steps is not None and self.steps < 1) or (self.seconds or 1) <= 0:
            raise InputError("EncoderTraining: expected steps of 1 or more, and seconds above 0")
        if self.batch < 2:
            raise InputError(f"EncoderTraining.batch: {self.batch}, expected 2 or more")
        if not 0 <= self.masked[0] <= self.masked[1] < 1:
            raise InputError(
                f"EncoderTraining.masked: {self.masked}, expected 0 <= low <= high < 1"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives one by one."""
        return tuple(self.objective.split("+"))


@dataclass(frozen=True)
class EncoderReport:
    """What a training run did."""

    objective: str
    losses: tuple[float, ...]
    """The loss of every step."""
    steps: int
    seconds: float
    pictures: int
    """Pictures in the training set."""
    parameters: int
    """Of the encoder that is kept."""
    training: dict[str, Any]
    """The settings."""


@dataclass(frozen=True)
class TrainedEncoder:
    """The frozen encoder, the caption tower (after "contrastive", else None), and the report."""

    encoder: SmallEncoder
    text: SmallTextEncoder | None
    report: EncoderReport


def symmetric_infonce(
    a: Tensor, b: Tensor, scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of picking the partner of a (B, D) among b (B, D), and the reverse.

    `scale` is the inverse temperature (CLIP, 2103.00020, figure 3). `same` (B, B) bool says which
    pairs are partners (default: equal rows); several partners share the target evenly.
    """
    logits = scale * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    same = torch.eye(len(a), dtype=torch.bool, device=a.device) if same is None else same
    target = same.float() / same.sum(dim=1, keepdim=True)
    back = same.T.float() / same.T.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, back)) / 2


class _Contrastive(nn.Module):
    """CLIP: pictures and captions pick each other; those of equal captions are all partners."""

    def __init__(self, encoder: SmallEncoder, training: EncoderTraining, captions: Sequence[str]):
        super().__init__()
        config = SmallTextConfig(vocabulary=vocabulary_of(captions), dim=encoder.config.dim)
        self.text, self.captions = SmallTextEncoder(config), captions
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        whole = asdict(training.augment)
        # Captions speak of places: half the shift, and nothing that they name is blanked.
        self.augment = AugmentConfig(**{**whole, "shift": whole["shift"] / 2, "cutout": 0.0})

    def forward(
        self, encoder: SmallEncoder, pixels: Tensor, rows: Tensor, generator: torch.Generator
    ) -> Tensor:
        captions = [self.captions[i] for i in rows.tolist()]
        cls, _ = encoder.network(random_view(pixels, self.augment, generator))
        kinds: dict[str, int] = {}
        kind = torch.tensor(
            [kinds.setdefault(c, len(kinds)) for c in captions], device=pixels.device
        )
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        return symmetric_infonce(cls, self.text(captions), scale, kind[:, None] == kind[None, :])


class _Instance(nn.Module):
    """SimCLR: two views of a picture pick each other, through a head that is thrown away."""

    def __init__(self, encoder: SmallEncoder, training: EncoderTraining, captions: object):
        super().__init__()
        dim = encoder.config.dim
        self.head = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.scale, self.augment = 1 / training.temperature, training.augment

    def forward(
        self, encoder: SmallEncoder, pixels: Tensor, rows: Tensor, generator: torch.Generator
    ) -> Tensor:
        views = [random_view(pixels, self.augment, generator) for _ in range(2)]
        cls, _ = encoder.network(torch.cat(views))
        a, b = self.head(cls).chunk(2)
        return symmetric_infonce(a, b, self.scale)


class _Masked(nn.Module):
    """Pixels of hidden patches from the patch features, and of all patches from CLS alone.

    The first loss is SimMIM's (2111.09886: a linear head, hidden patches only). It leaves CLS
    untrained, so a second decoder sees nothing but CLS and a place, as in RetroMAE (2205.12035,
    section 3.2) for sentences: whatever it needs to redraw the picture must go through CLS.
    """

    def __init__(self, encoder: SmallEncoder, training: EncoderTraining, captions: object):
        super().__init__()
        config = encoder.config
        self.side, self.low, self.high = config.downsample, *training.masked
        self.grid, pixels = config.grid, 3 * config.downsample**2
        self.blank = nn.Parameter(torch.zeros(1, 3, self.side, self.side))
        self.from_patch = nn.Linear(config.width, pixels)
        self.place = nn.Parameter(torch.randn(1, self.grid**2, 256) * 0.1)
        self.from_cls = nn.Linear(config.dim, 256)
        self.redraw = nn.Sequential(
            nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, pixels)
        )

    def forward(
        self, encoder: SmallEncoder, pixels: Tensor, rows: Tensor, generator: torch.Generator
    ) -> Tensor:
        hidden = self._hidden(len(pixels), generator).to(pixels.device)
        grid = hidden.view(-1, 1, self.grid, self.grid)
        mask = grid.repeat_interleave(self.side, 2).repeat_interleave(self.side, 3)
        blank = self.blank.repeat(1, 1, self.grid, self.grid)
        cls, patches = encoder.network(torch.where(mask, blank, pixels))
        # (B, 3 * side * side, places) to (B, places, 3 * side * side)
        truth = F.unfold(pixels, self.side, stride=self.side).transpose(1, 2)
        error = (self.from_patch(patches) - truth).square().mean(dim=-1)
        local = (error * hidden).sum() / hidden.sum().clamp_min(1)
        drawn = self.redraw(self.from_cls(cls)[:, None] + self.place)
        return local + F.mse_loss(drawn, truth)

    def _hidden(self, batch: int, generator: torch.Generator) -> Tensor:
        """(B, places) bool, a random number of places of each picture."""
        where = generator.device
        rank = (
            torch.rand(batch, self.grid**2, generator=generator, device=where).argsort(1).argsort(1)
        )
        share = torch.rand(batch, 1, generator=generator, device=where)
        return rank < (self.low + (self.high - self.low) * share) * self.grid**2


_OBJECTIVES: dict[str, Callable[..., nn.Module]] = {
    "contrastive": _Contrastive,
    "instance": _Instance,
    "masked": _Masked,
}


def train_encoder(
    config: SmallConfig,
    pictures: Tensor,
    training: EncoderTraining | None = None,
    captions: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> TrainedEncoder:
    """A small encoder trained on pictures (N, H, W, 3) uint8, and captions where it uses them.

    Pictures of another size than the encoder's are resized once by its preprocessing. The same
    arguments with `seconds=None` give the same weights. Raises `InputError` for pictures or
    captions that do not fit, `TrainingDiverged` when the loss stops being finite.
    """
    training = training or EncoderTraining()
    _check(pictures, captions, training)
    pictures = _resized(pictures, config.preprocessing)
    with seeded(training.seed):
        encoder = SmallEncoder(config)
        objectives = nn.ModuleDict(
            {name: _OBJECTIVES[name](encoder, training, captions) for name in training.names}
        ).to(device)
    encoder.to(device).network.requires_grad_(True).train()
    start = time.monotonic()
    losses = _run(encoder, objectives, pictures, training, torch.device(device), quiet)
    encoder.freeze()
    text = None
    if "contrastive" in objectives:
        text = cast(SmallTextEncoder, objectives["contrastive"].text).eval().requires_grad_(False)
    report = EncoderReport(
        objective=training.objective,
        losses=tuple(losses),
        steps=len(losses),
        seconds=time.monotonic() - start,
        pictures=len(pictures),
        parameters=sum(p.numel() for p in encoder.parameters()),
        training=asdict(training),
    )
    return TrainedEncoder(encoder, text, report)


def _run(
    encoder: SmallEncoder,
    objectives: nn.ModuleDict,
    pictures: Tensor,
    training: EncoderTraining,
    device: torch.device,
    quiet: bool,
) -> list[float]:
    """The loss of every step."""
    generator = torch.Generator().manual_seed(training.seed)
    weights = [*encoder.network.parameters(), *objectives.parameters()]
    # Norms, biases and other vectors are not decayed: decay would only pull them to zero.
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, 0.98))
    order = _batches(len(pictures), min(training.batch, len(pictures)), generator)
    losses: list[float] = []
    start = time.monotonic()
    total = training.steps or math.ceil(training.seconds or 0)
    with track(f"encoder ({training.objective})", total, quiet) as task:
        while (done := _progress(training, len(losses), time.monotonic() - start)) < 1:
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate * _schedule(done)
            rows = next(order)
            pixels = encoder.config.preprocessing.normalise(pictures[rows].to(device))
            terms = [one(encoder, pixels, rows, generator) for one in objectives.values()]
            loss = torch.stack(terms).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, training.clip)
            optimiser.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise TrainingDiverged(
                    f"encoder ({training.objective}): loss {losses[-1]} at step {len(losses)}; "
                    "lower EncoderTraining.learning_rate"
                )
            now = len(losses) if training.steps else int(time.monotonic() - start)
            task.advance(min(now, total) - task.done, note=f"loss {losses[-1]:.3f}")
    return losses


def _batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of row numbers, each pass in a new order without its incomplete end."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[i : i + batch] for i in range(0, count - batch + 1, batch))


def _progress(training: EncoderTraining, steps: int, seconds: float) -> float:
    """How much of the budget is used, 0 to 1."""
    by_steps = steps / training.steps if training.steps else 0.0
    by_time = seconds / training.seconds if training.seconds else 0.0
    return max(by_steps, by_time)


def _schedule(done: float) -> float:
    """Warm-up over the first 5 %, then a cosine to zero."""
    return min((done + 0.005) / 0.05, 0.5 * (1 + math.cos(math.pi * done)))


def _check(pictures: Tensor, captions: Sequence[str] | None, training: EncoderTraining) -> None:
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise InputError(
            f"pictures: {tuple(pictures.shape)} {pictures.dtype}, expected (N, H, W, 3) uint8"
        )
    if len(pictures) < 2:
        raise InputError(f"pictures: {len(pictures)}, expected two or more")
    if "contrastive" in training.names and (captions is None or len(captions) != len(pictures)):
        found = "none" if captions is None else len(captions)
        raise InputError(f"captions: {found}, expected one per picture ({len(pictures)})")


def _resized(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    size = preprocessing.size
    if tuple(pictures.shape[1:3]) == (size, size) and preprocessing.edge in (0, size):
        return pictures
    rows = (preprocessing.resize(Image.fromarray(p.cpu().numpy())) for p in pictures)
    return torch.stack([torch.from_numpy(row) for row in rows])
