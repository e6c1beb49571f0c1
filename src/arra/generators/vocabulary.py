"""One vocabulary for text and pictures: which ids are text, control tokens and picture codes."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from arra.errors import InputError

BEGIN_IMAGE, END_IMAGE = "<|boi|>", "<|eoi|>"


def image_token(code: int) -> str:
    """How a picture code is written as a token."""
    return f"<|image:{code}|>"


@dataclass(frozen=True)
class ImageVocabulary:
    """Where picture codes and control tokens stand in the vocabulary of a language model."""

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

    @property
    def size(self) -> int:
        """Smallest vocabulary that holds every id."""
        return max(self.offset + self.codes, self.begin + 1, self.end + 1, self.pad + 1)


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
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    end = known[END_IMAGE]
    return ImageVocabulary(
        begin=known[BEGIN_IMAGE],
        end=end,
        offset=ids[0],
        codes=codes,
        start=tokenizer.bos_token_id,
        pad=end if pad is None else pad,
    )
