"""A student of a next-scale generator.

A teacher draws the cells of a scale independently, given the coarser ones: so a cell depends on the
noise of these and on its own, and sees nothing else of its scale. The condition, which is what a
teacher's first scale reads, stands before the picture at a position of its own (released code of
Distilled Decoding for VAR).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from arra.codecs.multiscale import MultiScaleCodec
from arra.errors import InputError
from arra.generators.base import CodeGenerator
from arra.generators.scales import ScaleConfig, ScaleGenerator
from arra.generators.students import Student, StudentConfig, StudentOptions
from arra.generators.vectors import Prompts
from arra.networks.adaln import Sight
from arra.registry import generators
from arra.settings import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class ScaleStudentConfig(StudentConfig):
    """What a student of a next-scale generator is."""

    teacher: ScaleConfig


@generators.register("scales-student")
class ScaleStudent(Student):
    """Draws the codes of all scales in one pass or a few."""

    Config = ScaleStudentConfig
    config: ScaleStudentConfig
    teacher = ScaleGenerator
    default_codec = "multiscale"
    body: ScaleGenerator

    def __init__(self, config: ScaleStudentConfig, tokenizer: Any = None):
        super().__init__(config, tokenizer)
        self.before = nn.Parameter(torch.empty(self.width).normal_(std=0.02))

    def _body(self) -> nn.Module:
        made = ScaleGenerator(self.config.teacher)
        del made.read_in  # the projection is in its place
        return made

    @classmethod
    def tiny(cls) -> Self:
        teacher = ScaleGenerator.tiny()
        options = StudentOptions(starts=(0, 2), steps=2)
        vectors = MultiScaleCodec.tiny().code_vectors()
        return cls.of_teacher(teacher, vectors, SamplingConfig(), options, seed=0)

    @classmethod
    def _check_teacher(cls, teacher: CodeGenerator) -> None:
        assert isinstance(teacher, ScaleGenerator)
        if teacher.config.size.mixer != "attention":
            raise InputError(
                f"ScaleSize.mixer: {teacher.config.size.mixer!r}; there are students of attention "
                "alone"
            )

    def _begin_as(self, teacher: ScaleGenerator) -> None:
        """What the teacher reads pictures by reads vectors of the same space."""
        self.project.load_state_dict(teacher.read_in.state_dict())

    @property
    def bounds(self) -> tuple[int, ...]:
        return 0, *(part.stop for part in self.body.pyramid.slices)

    @property
    def codes_shape(self) -> tuple[int, ...]:
        return (self.body.pyramid.length,)

    def prompt(self, text: Sequence[int]) -> list[int]:
        """The caption, and the place of the condition."""
        return [*text, 0]

    def _predicted(
        self, prompts: Prompts, x: Tensor, known: Tensor, layers: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        body, rows, texts = self.body, len(x), prompts.ids.shape[1]
        text = prompts.real.clone()
        text[:, -1] = False  # the condition's own place
        words = body.text(prompts.ids.masked_fill(~text, 0))
        owner = torch.arange(rows, device=x.device)[:, None].expand_as(text)
        condition = body.conditions(words, text, owner, rows)
        seen = text
        if body.config.prefix:
            position = (prompts.real.cumsum(dim=1) - 1).clamp(min=0)
            words = words + body.text_where(position, text)
        else:
            seen = torch.zeros_like(text)
        own = condition[:, None] + self.before
        state = torch.cat((words[:, :-1], own), dim=1) + self.kinds.weight[1]
        state = torch.cat((state, self._inside(x, known) + body.where()), dim=1)
        sight = Sight(self._sight(seen))
        hidden: dict[int, Any] = {}
        for number, block in enumerate(body.blocks, start=1):
            state = block(state, condition, sight)
            if number in layers:
                hidden[number] = state
        last = state[:, texts:]
        return body.logits_of(last, condition), self.vector_out(last, condition), hidden

    def _sight(self, text: Tensor) -> Tensor:
        """(B, 1, T, T) bool: captions and condition see each other; a cell sees these, all coarser
        scales, and itself. Text that does not count sees itself, so that no row is empty."""
        level, device = self.body.level.to(text.device), text.device
        moment = torch.cat(
            (torch.zeros(text.shape[1], dtype=torch.int64, device=device), level + 1)
        )
        coarser = (moment[None, :] < moment[:, None]) | ((moment == 0) & (moment == 0)[:, None])
        real = torch.nn.functional.pad(text, (0, len(level)), value=True)
        real[:, text.shape[1] - 1] = True  # the condition
        itself = torch.eye(len(moment), dtype=torch.bool, device=device)
        return ((coarser & real[:, None]) | itself)[:, None]
