"""One vocabulary for text and pictures: which ids are text, control tokens and picture codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from arra.codecs.streams import ByteStream
from arra.errors import InputError

BEGIN_IMAGE, END_IMAGE = "<|boi|>", "<|eoi|>"


def image_token(code: int) -> str:
    """How a picture code is written as a token."""
    return f"<|image:{code}|>"


@dataclass(frozen=True)
class ImageVocabulary:
    """Where picture codes and control tokens stand in the vocabulary of a language model.

    A sequence is [start] before caption after begin x_1 ... x_n end: see `prompt` and `picture`.
    """

    begin: int
    """Id of the token that begins a picture."""
    end: int
    """Id of the token that ends a picture."""
    offset: int
    """Id of picture code 0; code k is `offset` + k."""
    codes: int
    """Number of picture codes."""
    start: int | None
    """Id of the token with which every text begins, or None."""
    pad: int
    """Id that fills unused positions."""
    before: tuple[int, ...] = ()
    """Ids before the caption: the beginning of a user's turn, where the chat template is used."""
    after: tuple[int, ...] = ()
    """Ids after the caption: the end of that turn, and what a model says of a picture's size."""
    row_end: int | None = None
    """Id of the token that follows every row of codes, or None."""
    columns: int = 0
    """Codes in a row, where rows are ended."""

    @property
    def size(self) -> int:
        """Smallest vocabulary that holds every id."""
        return max(self.offset + self.codes - 1, self.pad, *self.control, *self.before) + 1

    @property
    def control(self) -> tuple[int, ...]:
        """Ids that stand around and within pictures, codes excepted."""
        rows = () if self.row_end is None else (self.row_end,)
        return (self.begin, self.end, *self.after, *rows)

    def prompt(self, text: Sequence[int]) -> list[int]:
        """Ids up to and with `begin`, after which x_1 comes; no text is the empty caption."""
        start = () if self.start is None else (self.start,)
        return [*start, *self.before, *text, *self.after, self.begin]

    def picture(self, codes: Sequence[int]) -> list[int]:
        """Ids of the codes of a picture in raster order, its rows ended."""
        ids = [self.offset + code for code in codes]
        if self.row_end is None:
            return ids
        rows = (ids[i : i + self.columns] for i in range(0, len(ids), self.columns))
        return [i for row in rows for i in (*row, self.row_end)]

    def is_code(self, token: int) -> bool:
        """Whether an id is a picture code."""
        return self.offset <= token < self.offset + self.codes


def add_image_tokens(tokenizer: PreTrainedTokenizerBase, codes: int) -> ImageVocabulary:
    """Extend a text tokenizer in place by control tokens and one token per picture code.

    Tokens that are already there are kept, so that extending twice changes nothing. Raises
    `InputError` when another number of picture codes was added before.
    """
    if codes < 1:
        raise InputError(f"codes: {codes}, expected at least 1")
    control = [AddedToken(t, special=True, normalized=False) for t in (BEGIN_IMAGE, END_IMAGE)]
    tokenizer.add_tokens(control, special_tokens=True)
    names = [image_token(code) for code in range(codes)]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True
    )
    known = tokenizer.get_vocab()
    ids = [known[name] for name in names]
    if ids != list(range(ids[0], ids[0] + codes)) or image_token(codes) in known:
        raise InputError(f"tokenizer: its picture tokens are not the {codes} of this codec")
    end = known[END_IMAGE]
    return ImageVocabulary(
        begin=known[BEGIN_IMAGE],
        end=end,
        offset=ids[0],
        codes=codes,
        start=tokenizer.bos_token_id,
        pad=padding(tokenizer, end),
    )


def ending(vocabulary: ImageVocabulary, stream: ByteStream | None) -> ImageVocabulary:
    """The vocabulary whose pictures are ended by a code of theirs, where they are a stream of
    bytes: what a language model writes last, and so stops at."""
    return vocabulary if stream is None else replace(vocabulary, end=vocabulary.offset + stream.end)


def padding(tokenizer: PreTrainedTokenizerBase, otherwise: int) -> int:
    """The id that fills unused positions, also for tokenizers that have none for it."""
    for pad in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if pad is not None:
            return pad
    return otherwise


_CAPTION = "a caption which stands here alone"


def as_chat(vocabulary: ImageVocabulary, tokenizer: PreTrainedTokenizerBase) -> ImageVocabulary:
    """The vocabulary whose captions are a user's turn, after which the model answers by drawing.

    What the tokenizer's chat template writes around a caption becomes part of the vocabulary, so
    that training and drawing cannot differ in it. `InputError` without a template, or for one that
    changes what the user says.
    """
    if not tokenizer.chat_template:
        raise InputError("chat: the tokenizer has no chat template; train without --chat")
    turn = [{"role": "user", "content": _CAPTION}]
    try:
        text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs; they raise what they like
        raise InputError(f"chat: the chat template cannot be used: {error}") from error
    opening, found, rest = text.partition(_CAPTION)
    if not found or _CAPTION in rest:
        raise InputError("chat: the chat template does not give back the user's words once")
    before, after = (
        tuple(tokenizer.encode(part, add_special_tokens=False)) if part else ()
        for part in (opening, rest)
    )
    # a template that writes the token with which texts begin must not get it twice
    start = None if vocabulary.start in before else vocabulary.start
    return replace(vocabulary, start=start, before=before, after=(*after, *vocabulary.after))
