"""Vectors of pictures in raster order, in a causal language model (Orthus, arXiv 2412.00127).

Everything is causal: <boi> predicts the first vector, every vector the next one, and the last one,
in text again, <eoi>.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from arra.denoising import DenoisingPath, Spans
from arra.errors import InputError
from arra.generators.attention import attention
from arra.generators.base import Batch
from arra.generators.interleaving import Mixed, interleave
from arra.generators.language_vectors import (
    LanguageVectorConfig,
    LanguageVectorGenerator,
    Reading,
)
from arra.generators.raster import RasterGenerator
from arra.generators.vectors import drawn_noise
from arra.networks.soft_codes import SoftLookup
from arra.randomness import Noise, seeded
from arra.registry import generators
from arra.settings import LlamaSize, VectorOptions


@dataclass
class RasterVectorCache:
    """Pictures that are being drawn; rows are as many, or twice as many (guidance)."""

    reading: Reading
    state: Tensor
    """(R, D) of the last position of each row."""
    latents: list[Tensor]
    """(B, C) each, those that are drawn."""
    read: Tensor
    """(R,) int64: how many vectors each row has read, where paths are drawn."""


@generators.register("raster-vectors")
class RasterVectorGenerator(LanguageVectorGenerator):
    """Draws vector by vector; text and pictures can follow one another (`interleave`)."""

    @classmethod
    def from_codes(
        cls,
        host: RasterGenerator,
        codebook: Tensor,
        temperature: float,
        options: VectorOptions | None = None,
        *,
        seed: int,
        codec: str = "",
        scale: float = 1.0,
    ) -> Self:
        """A model of picture codes turned into one of vectors; the host stays as it is.

        A vector is read as a mixture of the embeddings of the host's codes, weighed by its distance
        from the rows of `codebook` (codes, C): for T -> 0 the model reads what the host does. Only
        the head is new, its weights a function of `seed`. `codec`: that of the vectors.
        """
        vocabulary = host.config.vocabulary
        if host.config.adapted or host.config.stream or vocabulary.row_end is not None:
            raise InputError(
                "from_codes: the host has an adapter, draws a stream or ends rows of codes; "
                "expected a plain raster generator"
            )
        if codebook.ndim != 2 or len(codebook) != vocabulary.codes:
            raise InputError(
                f"codebook: {tuple(codebook.shape)}, expected a row for each of the host's "
                f"{vocabulary.codes} codes"
            )
        config = LanguageVectorConfig(
            host.grids[0],
            codebook.shape[1],
            text=host.tables.rows,
            longest=host.positions - host.units - 4,
            size=LlamaSize(host.width, host.depth),
            options=options or VectorOptions(),
            codec=codec,
            vocabulary=vocabulary,
            language_model=host.lm.config.to_dict(),
            temperature=temperature,
            scale=scale,
        )
        with seeded(seed):
            made = cls(config, host.tokenizer, copy.deepcopy(host.lm))
        assert isinstance(made.reader, SoftLookup)
        with torch.no_grad():
            made.reader.codebook.copy_(codebook)
        return made

    def _mask(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        return attention(batch)

    def moments(self, cell: Tensor, real: Tensor) -> Tensor:
        return (real.cumsum(dim=1) - 1).clamp(min=0)

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Vectors of a picture."""
        return self.config.cells

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> RasterVectorCache:
        reading, state = self.prefill([Mixed(list(ids)) for ids in prompts])
        return RasterVectorCache(reading, state, [], torch.zeros_like(reading.next))

    def unit(
        self, cache: RasterVectorCache, noise: Noise, scale: float, temperature: float
    ) -> None:
        fresh = drawn_noise(noise, self.head.draws, 1, self.dimensions).to(self.device)
        pictures, rows = fresh.shape[1], len(cache.state)
        known = cache.state[:pictures] if scale == 1.0 else cache.state
        drawn = self.head.sample(known, fresh, scale, temperature) / self.config.scale
        cache.latents.append(drawn)
        if len(cache.latents) == self.units:
            return
        place = torch.full((pictures,), len(cache.latents) - 1, device=self.device)
        x = self.read(drawn, place).repeat(rows // pictures, 1)[:, None]
        real = torch.ones(rows, 1, dtype=torch.bool, device=self.device)
        cache.state = self.advance(x, real, torch.zeros_like(real).long(), cache.reading)[:, 0]

    def drawn(self, cache: RasterVectorCache) -> Tensor:
        return torch.stack(cache.latents, dim=1)

    # ---- drafting and judging ------------------------------------------------------------------

    def undraftable(self, longest: int) -> str:
        return self.head.pathless

    @property
    def unit_sizes(self) -> list[int]:
        return [1] * self.units

    @property
    def path_draws(self) -> tuple[int, int, int]:
        return self.head.draws, self.head.last_draws, self.dimensions

    def paths(
        self,
        cache: RasterVectorCache,
        vectors: Tensor,
        spans: Spans,
        noise: Tensor,
        scale: Tensor,
        temperature: float,
        last: float | None,
    ) -> DenoisingPath:
        """What is new of each picture is read as one chain; every state in it is that of a span."""
        spans, vectors = spans.to(self.device), vectors.to(self.device)
        pictures, rows = len(vectors), len(cache.state)
        wanted = torch.zeros(pictures, dtype=torch.int64, device=self.device)
        wanted = wanted.scatter_reduce(0, spans.pictures, spans.first, "amax")
        before = cache.read
        states = self._chain(cache, vectors, wanted.repeat(rows // pictures))
        chosen = torch.cat([spans.pictures + start for start in range(0, rows, pictures)])
        at = spans.first.repeat(rows // pictures) - before[chosen]
        fresh, scale = noise.to(self.device), scale.to(self.device)
        path = self.head.path(states[chosen, at], fresh, scale, temperature, last)
        tokens, mean, deviation = (
            x / self.config.scale for x in (path.tokens, path.mean, path.deviation)
        )
        return replace(path, tokens=tokens, mean=mean, deviation=deviation)

    def _chain(self, cache: RasterVectorCache, vectors: Tensor, wanted: Tensor) -> Tensor:
        """(R, 1 + t, D) the state where each row stands, and those after it has read on until it
        knows `wanted` (R,) of the vectors (B, n, C)."""
        states, new = cache.state[:, None], (wanted - cache.read).clamp(min=0)
        if not bool(new.any()):
            return states
        step = torch.arange(int(new.max()), device=self.device)
        place = (cache.read[:, None] + step).clamp(max=vectors.shape[1] - 1)
        given = vectors.repeat(len(new) // len(vectors), 1, 1)
        given = given.gather(1, place[..., None].expand(-1, -1, vectors.shape[2]))
        x = self.read(given.flatten(0, 1), place.flatten()).unflatten(0, place.shape)
        real = step < new[:, None]
        final = self.advance(x, real, step.expand_as(real), cache.reading)
        states = torch.cat((states, final), dim=1)
        cache.state = states[torch.arange(len(new), device=self.device), new]
        cache.read = cache.read + new
        return states

    def keep(self, cache: RasterVectorCache, vectors: Tensor, counts: Tensor) -> None:
        known = counts.to(self.device).repeat(len(cache.read) // len(counts))
        back = (cache.read - known).clamp(min=0)
        if bool(back.any()):
            cache.reading.take_back(back)
        cache.read = cache.read - back
        cache.latents = list(vectors.to(self.device).unbind(1))

    def interleave(
        self,
        prompts: Sequence[Sequence[str | Tensor]],
        noise: Noise,
        *,
        scales: Sequence[float] = (),
        temperature: float = 1.0,
        pictures: int = 1,
        most: int = 64,
        draw: bool = False,
    ) -> list[list[str | Tensor]]:
        """Text and pictures, codes (rows, columns, C): prompts of both, and what follows them; with
        `draw` a picture does. See `generators.interleaving.interleave`."""
        rows = [
            Mixed.of(
                [self.caption_ids(p) if isinstance(p, str) else p.flatten(0, -2) for p in prompt],
                self.vocabulary,
                draw=draw,
            )
            for prompt in prompts
        ]
        made = interleave(
            self,
            rows,
            noise,
            scales=scales,
            temperature=temperature,
            pictures=pictures,
            most=most,
        )
        return [self.parts(row) for row in made]
