"""Texts some of whose tokens were taken back, as one sequence that a causal model reads at once.

An action is a token that is written, or a backspace. After a backspace stands a copy of the last
token that is left, at that token's position; what was taken back and what was copied are seen no
more. So every position sees the text as it then was, and its hidden state is that of a plain pass
over this text (SequenceMatch, arXiv 2306.05426, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from arra.errors import InputError
from arra.orders.builders import erasing
from arra.orders.layout import FOREVER, Layout


@dataclass(frozen=True)
class Written:
    """What is read after each of T actions; three columns of T."""

    tokens: list[int]
    """The action's token, or of a backspace a copy of the last one that is left."""
    position: list[int]
    """Where this token stands in the text."""
    dies: list[int]
    """The action from which on it is no longer seen; `FOREVER` where it stays."""
    live: list[int]
    """The text that is left at the end."""

    def layout(self) -> Layout:
        """Who sees whom."""
        return erasing(torch.tensor(self.dies, dtype=torch.int64))


def written(actions: Sequence[int], backspace: int, fixed: int = 1) -> Written:
    """The sequence of `actions`, of which the first `fixed` (a prompt) cannot be taken back.

    Raises `InputError` for an empty prompt and where a backspace finds nothing to take back.
    """
    if fixed < 1 or len(actions) < fixed:
        raise InputError(
            f"written: {len(actions)} actions, {fixed} of them fixed; expected 1 or more"
        )
    tokens: list[int] = []
    position: list[int] = []
    dies = [FOREVER] * len(actions)
    stack: list[int] = []  # which of the actions stand, in the order of the text
    for moment, action in enumerate(actions):
        if action == backspace:
            if len(stack) <= fixed:
                raise InputError(f"written: action {moment} takes back what cannot be taken back")
            dies[stack.pop()] = moment
            copied = stack.pop()
            dies[copied] = moment
            action = tokens[copied]
        tokens.append(action)
        position.append(len(stack))
        stack.append(moment)
    return Written(tokens, position, dies, [tokens[moment] for moment in stack])
