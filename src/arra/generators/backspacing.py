"""A language model that takes tokens back: its backspace, what it may do when, and its steps.

Actions are numbered 0 to n + 1: to write one of n tokens, to end, to take the last token back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from tokenizers import AddedToken
from torch import Tensor

from arra.errors import InputError
from arra.generators.base import DATA
from arra.generators.batches import IGNORE, Sample
from arra.generators.raster import RasterGenerator
from arra.networks.cache import KVCache
from arra.networks.rows import extend_vocabulary
from arra.networks.tables import SeparateTables, token_tables
from arra.orders.backspaces import written

BACKSPACE = "<|backspace|>"


def with_backspace(generator: RasterGenerator, seed: int = 0) -> RasterGenerator:
    """The generator, in place, with a token that takes the last one back, yet to be learnt.

    Its row begins near the mean of the others. Whoever never asks for backspaces draws as before.
    Raises `InputError` for models that cannot have one.
    """
    config, tokenizer = generator.config, generator.tokenizer
    if config.backspace is not None:
        return generator
    if tokenizer is None:
        raise InputError("backspace: this generator has no tokenizer; load it from a saved folder")
    for wrong, why in (
        (config.adapted is not None, "merge its adapter first"),
        (isinstance(generator.tables, SeparateTables), "its pictures have tables of their own"),
        (config.vocabulary.row_end is not None, "its rows of codes end with a token"),
        (config.stream is not None, "its pictures have no fixed number of codes"),
    ):
        if wrong:
            raise InputError(f"backspace: this generator cannot have one: {why}")
    known = len(tokenizer)
    tokenizer.add_tokens([AddedToken(BACKSPACE, special=True, normalized=False)])
    size = max(config.vocabulary.size, len(tokenizer))
    extend_vocabulary(generator.lm, size, range(known, len(tokenizer)), "mean", seed)
    generator.tables = token_tables(generator.lm)
    backspace = tokenizer.get_vocab()[BACKSPACE]
    settings = generator.lm.config.to_dict()
    generator.config = replace(config, backspace=backspace, language_model=settings)
    return generator


@dataclass(frozen=True)
class Writing:
    """What may be written after a prompt and taken back again."""

    before: tuple[int, ...]
    """Ids before the text of a prompt."""
    after: tuple[int, ...]
    """Ids behind it."""
    ids: tuple[int, ...]
    """Ids that may be written: action k writes number k of them."""
    end: int
    """Id that ends."""
    backspace: int
    """Id that takes the last one back."""
    least: int
    """Tokens that stand before the end may come."""
    most: int
    """Tokens that may stand."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise InputError(f"Writing: {self.least} to {self.most} tokens, expected 1 or more")

    @classmethod
    def of_pictures(cls, generator: object) -> Self:
        """Of the codes of pictures, all of which must stand before a picture can end; `InputError`
        where the model has no backspace."""
        raster = _checked(generator)
        v, n = raster.config.vocabulary, raster.units
        before = () if v.start is None else (v.start,)
        codes = range(v.offset, v.offset + v.codes)
        return cls(
            (*before, *v.before), (*v.after, v.begin), tuple(codes), v.end, _id_of(raster), n, n
        )

    @classmethod
    def of_text(cls, generator: object, most: int, words: Sequence[str] = ()) -> Self:
        """Of up to `most` tokens of text, which the end of text ends: these `words`, or any but the
        control tokens."""
        raster = _checked(generator)
        tokenizer, v = raster.tokenizer, raster.config.vocabulary
        assert tokenizer is not None
        known = tokenizer.get_vocab()
        if tokenizer.eos_token_id is None:
            raise InputError("backspace: the tokenizer has no token that ends a text")
        if unknown := [word for word in words if word not in known]:
            raise InputError(f"words: {unknown[0]!r} is no token of this tokenizer")
        other = {*v.control, *range(v.offset, v.offset + v.codes), _id_of(raster)}
        other |= {*tokenizer.all_special_ids}
        ids = [known[w] for w in words] or sorted(i for i in known.values() if i not in other)
        before = () if raster.text_start is None else (raster.text_start,)
        return cls(before, (), tuple(ids), tokenizer.eos_token_id, _id_of(raster), 0, most)

    def prompt(self, text: Sequence[int]) -> list[int]:
        """Ids that are read first."""
        return [*self.before, *text, *self.after]

    @property
    def actions(self) -> tuple[int, ...]:
        """The ids of all actions by their numbers."""
        return (*self.ids, self.end, self.backspace)

    def sample(self, text: Sequence[int], actions: Sequence[int], source: Sequence[int]) -> Sample:
        """A prompt and the actions after it, by number, the last of which ends; `source` says who
        chose each. What ends is not an input."""
        prompt, of = self.prompt(text), self.actions
        if not actions or of[actions[-1]] != self.end:
            raise InputError("Writing.sample: the last action does not end the text")
        ids = [of[action] for action in actions]
        found = written([*prompt, *ids[:-1]], self.backspace, fixed=len(prompt))
        before = len(prompt) - 1
        # After k codes of a picture code k is written next. Other actions have no place, and what
        # the data did not choose is no content.
        content = [
            self.least > 0 and action < len(self.ids) and who == DATA
            for action, who in zip(actions, source, strict=True)
        ]
        place = [
            found.position[before + n] - before if inside else -1
            for n, inside in enumerate(content)
        ]
        return Sample(
            tokens=found.tokens,
            target=[IGNORE] * before + ids,
            place=[-1] * before + place,
            read=[-1] * len(found.tokens),
            position=found.position,
            dies=found.dies,
            source=[DATA] * before + list(source),
        )


def _checked(generator: object) -> RasterGenerator:
    if not isinstance(generator, RasterGenerator) or generator.config.backspace is None:
        name = getattr(generator, "registered_name", type(generator).__name__)
        raise InputError(
            f"backtracking: this {name} generator has no backspace token; a raster generator gets "
            "one with arra.generators.backspacing.with_backspace and then has to learn it"
        )
    return generator


def _id_of(generator: RasterGenerator) -> int:
    assert generator.config.backspace is not None
    return generator.config.backspace


@dataclass
class Draft:
    """The cache of B texts that are being written."""

    cache: KVCache
    stacks: list[list[int]] = field(default_factory=list)
    """Ids of each row: the last of its prompt, then those that stand."""


class BackspaceStepper:
    """Steps of a language model that writes and takes back.

    A token that is taken back leaves the cache, with the one before it, which is read again: what
    comes next is what would have come had the token never been there.
    """

    def __init__(self, generator: RasterGenerator, writing: Writing):
        self.generator, self.writing = generator, writing
        self._ids = torch.tensor(writing.actions, device=generator.device)

    @classmethod
    def of_pictures(cls, generator: object) -> Self:
        """Of a model that draws pictures; `InputError` where it has no backspace."""
        return cls(_checked(generator), Writing.of_pictures(generator))

    @property
    def units(self) -> int:
        """Tokens that may stand."""
        return self.writing.most

    @property
    def least(self) -> int:
        """Tokens that must stand before the end."""
        return self.writing.least

    @property
    def tokens(self) -> int:
        """n, the number of tokens that may be written; action n ends, n + 1 takes back."""
        return len(self.writing.ids)

    def prompt_ids(self, caption: str | None) -> list[int]:
        """Ids that are read before the first action; of None those of no text."""
        text = [] if caption is None else self.generator.caption_ids(caption)
        return self.writing.prompt(text)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Draft]:
        """Read prompts of any lengths: logits (B, n + 2) of the first action, and the draft."""
        _, cache = self.generator.prefill(prompts)
        draft = Draft(cache, [[prompt[-1]] for prompt in prompts])
        return self._read_again(torch.ones(len(prompts), dtype=torch.int64), draft), draft

    def step(self, actions: Tensor, draft: Draft) -> Tensor:
        """Logits (B, n + 2) after `actions` (B,), -1 in rows that have ended; changes the draft."""
        gone = torch.zeros(len(actions), dtype=torch.int64)
        for row, action in enumerate(actions.tolist()):
            stack = draft.stacks[row]
            if action == self.tokens + 1:
                stack.pop()
                gone[row] = 2
            elif 0 <= action < self.tokens:
                stack.append(self.writing.ids[action])
        return self._read_again(gone, draft, actions < 0)

    def _read_again(self, gone: Tensor, draft: Draft, over: Tensor | None = None) -> Tensor:
        """Forget the last `gone` positions of every row, then read the last token that stands;
        nothing in rows that are `over`."""
        generator, cache = self.generator, draft.cache
        device = generator.device
        if bool(gone.any()):
            cache.take_back(gone.to(device))
        tokens = torch.tensor([[stack[-1]] for stack in draft.stacks], device=device)
        real = torch.ones_like(tokens, dtype=torch.bool)
        if over is not None:
            real = real & ~over.to(device)[:, None]
        visible, position = cache.extend(real)
        final = generator.lm.get_decoder()(
            **generator.tables.inputs(tokens),
            attention_mask=visible,
            position_ids=position,
            past_key_values=cache.past,
            use_cache=True,
        ).last_hidden_state[:, -1]
        image = torch.full((len(final),), self.least > 0, device=device)
        return generator.tables.logits(final, image)[:, self._ids]
