"""A student of a Llama over a grid of codes: causal, and unshifted.

A code depends on the noise up to its own place, so attention stays the teacher's; the position that
carries e_i or q_i predicts q_i itself (released code of Distilled Decoding for LlamaGen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from arra.errors import InputError
from arra.generators.base import CodeGenerator
from arra.generators.grid import GridConfig, GridGenerator
from arra.generators.students import Student, StudentConfig, StudentOptions, linear_fit
from arra.generators.vectors import Prompts
from arra.orders.layout import visible
from arra.registry import generators
from arra.settings import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class GridStudentConfig(StudentConfig):
    """What a student of a grid generator is."""

    teacher: GridConfig


@generators.register("grid-student")
class GridStudent(Student):
    """Draws a grid of codes in one causal pass or a few."""

    Config = GridStudentConfig
    config: GridStudentConfig
    teacher = GridGenerator
    body: GridGenerator

    def _body(self) -> nn.Module:
        made = GridGenerator(self.config.teacher)
        del made.embed
        return made

    @classmethod
    def tiny(cls) -> Self:
        vectors = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        options = StudentOptions(starts=(0, 4), steps=2)
        teacher = GridGenerator.tiny()
        return cls.of_teacher(teacher, vectors, SamplingConfig(), options, seed=0)

    @classmethod
    def _check_teacher(cls, teacher: CodeGenerator) -> None:
        assert isinstance(teacher, GridGenerator)
        if teacher.config.split != 1:
            raise InputError(
                f"a grid generator of {teacher.config.split} codes a cell: a student needs one "
                "vector for each code"
            )
        if teacher.config.options.condition == "features":
            raise InputError("a grid generator with a text encoder: there is no student of it")

    def _begin_as(self, teacher: GridGenerator) -> None:
        """The best linear map of code vectors to the teacher's embeddings of the codes."""
        weight, bias = linear_fit(self.vectors, teacher.embed.tables.weight.detach())
        self.project.weight.copy_(weight)
        self.project.bias.copy_(bias)

    @property
    def bounds(self) -> tuple[int, ...]:
        return tuple(range(self.body.units + 1))

    def prompt(self, text: Sequence[int]) -> list[int]:
        return self.body.prompt(text)

    def _predicted(
        self, prompts: Prompts, x: Tensor, known: Tensor, layers: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        rows, texts = prompts.ids.shape
        position = (prompts.real.cumsum(dim=1) - 1).clamp(min=0)
        owner = torch.arange(rows, device=x.device)[:, None].expand_as(prompts.ids)
        words = self.body.conditions(prompts.ids, position, prompts.real, owner)
        count = prompts.real.sum(dim=1, keepdim=True)
        condition = (words * prompts.real[..., None]).sum(dim=1) / count.clamp(min=1)
        state = torch.cat((words + self.kinds.weight[1], self._inside(x, known)), dim=1)
        table = self.body.rotary
        rotary = torch.cat((table[:1].expand(texts, -1, -1), table[1:]))[None]
        mask = self._sight(prompts.real, x.shape[1])
        hidden: dict[int, Any] = {}
        for number, block in enumerate(self.body.blocks, start=1):
            state = block(state, rotary, mask)
            if number in layers:
                hidden[number] = state
        last = state[:, texts:]
        return self.body.logits_of(last)[..., 0, :], self.vector_out(last, condition), hidden

    def _sight(self, real: Tensor, length: int) -> Tensor | None:
        """Causal, without the padding before captions; None where there is none."""
        if bool(real.all()):
            return None
        whole = torch.nn.functional.pad(real, (0, length), value=True)
        order = torch.arange(whole.shape[1], device=real.device).expand_as(whole)
        return visible(whole.long() - 1, order)[:, None]
