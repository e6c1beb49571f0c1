"""The work of the claim: one language model for both tasks, and the three ways to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arra.experiments import captioned_digits
from arra.experiments.digit_vectors import draw, learn
from arra.experiments.digits import Judge, digits, in_turn, judged
from arra.experiments.once import once
from arra.generators.base import Batch, Output
from arra.generators.interleaving import Mixed
from arra.generators.language_batches import MaskedLanguageBatches
from arra.generators.language_vectors import Reading
from arra.generators.masked_language import MaskedLanguageGenerator
from arra.heads.base import guided
from arra.heads.codes import CodeHead
from arra.heads.processes import Diffusion, normal
from arra.networks.denoiser import waves
from arra.networks.language_model import head_logits, hidden_states
from arra.networks.soft_codes import SoftLookup
from arra.objectives.laws import NextToken, NextVector
from arra.randomness import Noise, seeded
from arra.systems.mmar.recipe import CODES, NOISED, Recipe

Report = dict[str, Any]


class WholeBatches(MaskedLanguageBatches):
    """All cells of pictures that are drawn are predicted: they are noised, not hidden."""

    def _hidden(self, batch: Batch, least: float, rng: Any) -> Batch:
        return batch


@dataclass
class NoisedCache:
    """Pictures that are being drawn, all cells at once."""

    reading: Reading
    latents: Tensor


class NoisedGenerator(MaskedLanguageGenerator):
    """The language model itself is the denoiser (Transfusion): it reads noisy cells and their time,
    and a linear map of its states is v. Pictures to be read are clean, their time is 0."""

    Batches = WholeBatches

    def __init__(self, config: Any, tokenizer: Any = None, lm: Any = None):
        super().__init__(config, tokenizer, lm)
        self.process = Diffusion("v", steps=config.options.steps)
        self.time = nn.Sequential(
            nn.Linear(256, self.width), nn.SiLU(), nn.Linear(self.width, self.width)
        )
        self.outputs = nn.Linear(self.width, config.dimensions)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)
        self.head = nn.Identity()  # type: ignore[assignment]
        self.hidden.requires_grad_(False)

    def read(self, vectors: Tensor, place: Tensor) -> Tensor:
        return self._noised(vectors, place, vectors.new_zeros(len(vectors)))

    def _noised(self, vectors: Tensor, place: Tensor, time: Tensor) -> Tensor:
        return super().read(vectors, place) + self.time(waves(time))

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        assert batch.latents is not None
        here = batch.image
        sample, place = batch.segment[here], batch.place[here]
        data, random = batch.latents[sample, place], batch.stream()
        each = self.process.times(len(batch.latents), random, data.device)
        time, noise = each[sample], normal(data.shape, random, data.device)
        mask, position = self._mask(batch)
        clean = MaskedLanguageGenerator._embedded(self, batch)
        final = clean

        def predict(noisy: Tensor, at: Tensor) -> Tensor:
            nonlocal final
            x = clean.index_put((here,), self._noised(noisy, place, at))
            final = self._decode(x, mask, position)
            return self.outputs(self._conditions(final[here], place))

        with hidden_states(self.lm, layers) as found:
            losses = self.process.losses(predict, data, time, noise)
        text = batch.target >= 0
        logits = head_logits(self.lm, final[text])
        return Output(logits, batch.target[text], found, losses)

    @property
    def units(self) -> int:
        return 1

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> Any:
        reading, _ = self.prefill([Mixed(list(ids)) for ids in prompts])
        return NoisedCache(reading, torch.empty(0))

    def unit(self, cache: Any, noise: Noise, scale: float, temperature: float) -> None:
        fresh = noise(self.config.cells, self.dimensions)
        pictures, rows = len(fresh), len(cache.reading.next)
        place = torch.arange(self.config.cells).repeat(rows)

        def denoise(x: Tensor, time: Tensor, hidden: Tensor) -> Tensor:
            at = time.repeat_interleave(self.config.cells)
            embedded = self._noised(x.flatten(0, 1), place[: len(at)], at)
            real = torch.ones(len(x), self.config.cells, dtype=torch.bool)
            stored, next_position = cache.reading.cache.stored, cache.reading.next
            now = torch.zeros_like(real).long()
            states = self.advance(embedded.view(*x.shape[:2], -1), real, now, cache.reading)
            cache.reading.truncate(stored, next_position)
            said = self._conditions(states.flatten(0, 1), place[: len(at)])
            return self.outputs(said).view(x.shape)

        # rows stand in the cache, all of them: without guidance the second half is not there
        predict = guided(denoise, torch.empty(rows), pictures, scale, self.dimensions)
        cache.latents = self.process.sample(predict, fresh[None], temperature)

    def drawn(self, cache: Any) -> Tensor:
        return cache.latents


def make_generator(recipe: Recipe, arm: str, seed: int) -> MaskedLanguageGenerator:
    """The model of an arm with its first weights."""
    kind = NoisedGenerator if arm == NOISED else MaskedLanguageGenerator
    made = kind.from_scratch(
        captioned_digits.tokenizer(),
        captioned_digits.CHANNELS,
        captioned_digits.GRID,
        recipe.size,
        recipe.options,
        seed=seed,
    )
    if arm == CODES:
        table = captioned_digits.codebook()
        with seeded(seed):
            made.reader = CodeReader(table, made.width, recipe.temperature)
            made.head = CodeHead(made.width, table)
    return made


class CodeReader(nn.Module):
    """An embedding of the nearest code, which begins as a random projection of its vector."""

    def __init__(self, codebook: Tensor, width: int, temperature: float):
        super().__init__()
        self.lookup = SoftLookup(len(codebook), codebook.shape[1], temperature)
        self.lookup.codebook.data.copy_(codebook)
        self.lookup.requires_grad_(False)
        self.table = nn.Parameter(codebook @ torch.randn(codebook.shape[1], width) / 2)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.lookup(vectors, self.table)


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> Report:
    """Train one model for both tasks and measure both."""

    def make(target: Path) -> Report:
        known, held_out = digits()
        made = make_generator(recipe, arm, seed)
        assert made.tokenizer is not None

        def seen(pictures: Any) -> Tensor:
            found = captioned_digits.GREYS.of(pictures)
            if arm != CODES:
                return found
            return captioned_digits.codebook()[captioned_digits.codes_of(found)]

        store = captioned_digits.captioned(known, made.tokenizer, seen(known.pictures))
        both = (NextToken(), NextVector())
        report = learn(made, store, recipe.batch, recipe.train, seed, target / "training", both)
        said = made.describe(seen(held_out.pictures), most=4)
        drawn = draw(made, in_turn(recipe.drawn, captioned_digits.CAPTIONS), seed)
        return {
            **judged(judge, captioned_digits.GREYS.pictures(drawn)),
            "read right": captioned_digits.read_well(said, held_out),
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
        }

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)
