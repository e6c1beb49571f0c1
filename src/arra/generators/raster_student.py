"""A student of a language model that draws codes: causal, and unshifted.

The prompt is read as ever; behind <boi> a position that carries e_i or q_i predicts q_i itself. So
the language model's blocks, norms and head stay what they are, whatever its architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from arra.errors import InputError
from arra.generators.base import CodeGenerator
from arra.generators.raster import RasterConfig, RasterGenerator
from arra.generators.students import Student, StudentConfig, StudentOptions, linear_fit
from arra.generators.vectors import Prompts
from arra.networks.language_model import hidden_states, mask_for, model_settings
from arra.registry import generators
from arra.settings import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class RasterStudentConfig(StudentConfig):
    """What a student of a raster generator is."""

    teacher: RasterConfig


@generators.register("raster-student")
class RasterStudent(Student):
    """Draws the codes of a language model in one causal pass or a few."""

    Config = RasterStudentConfig
    config: RasterStudentConfig
    teacher = RasterGenerator
    body: RasterGenerator

    def _body(self) -> nn.Module:
        return RasterGenerator(self.config.teacher)

    @classmethod
    def tiny(cls) -> Self:
        vectors = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        options = StudentOptions(starts=(0, 4), steps=2)
        return cls.of_teacher(RasterGenerator.tiny(), vectors, SamplingConfig(), options, seed=0)

    @classmethod
    def _check_teacher(cls, teacher: CodeGenerator) -> None:
        assert isinstance(teacher, RasterGenerator)
        config = teacher.config
        if config.adapted is not None:
            raise InputError("a raster generator with an adapter: merge it first, then distil")
        if config.stream is not None or config.vocabulary.row_end is not None:
            raise InputError(
                "a raster generator of streams, or whose rows end with a token: there is no "
                "student of it"
            )

    @classmethod
    def _teacher_config(cls, teacher: RasterGenerator) -> RasterConfig:
        return replace(teacher.config, language_model=model_settings(teacher.lm))

    def _begin_as(self, teacher: RasterGenerator) -> None:
        """The best linear map of code vectors to the teacher's embeddings of the codes."""
        vocabulary = teacher.config.vocabulary
        codes = torch.arange(vocabulary.codes, device=teacher.device) + vocabulary.offset
        weight, bias = linear_fit(self.vectors, teacher.embedded(codes[None])[0].detach())
        self.project.weight.copy_(weight)
        self.project.bias.copy_(bias)

    @property
    def bounds(self) -> tuple[int, ...]:
        return tuple(range(self.body.units + 1))

    def prompt(self, text: Sequence[int]) -> list[int]:
        return self.config.teacher.vocabulary.prompt(text)

    def _predicted(
        self, prompts: Prompts, x: Tensor, known: Tensor, layers: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        texts, lm = prompts.ids.shape[1], self.body.lm
        words = self.body.embedded(prompts.ids)
        count = prompts.real.sum(dim=1, keepdim=True)
        condition = (words * prompts.real[..., None]).sum(dim=1) / count.clamp(min=1)
        real = torch.cat((prompts.real, torch.ones_like(known)), dim=1)
        with hidden_states(lm, layers) as hidden:
            final = lm.get_decoder()(
                inputs_embeds=torch.cat((words, self._inside(x, known).to(words.dtype)), dim=1),
                attention_mask=mask_for(lm, real.to(torch.int64)),
                position_ids=(real.cumsum(dim=1) - 1).clamp(min=0),
                use_cache=False,
            ).last_hidden_state[:, texts:]
        logits = self.body.code_logits(final.flatten(0, 1)).unflatten(0, tuple(known.shape))
        return logits, self.vector_out(final, condition), hidden
