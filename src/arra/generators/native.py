"""Language models that draw by themselves: which of their token ids are picture codes.

Chameleon (arXiv 2405.09818) and Emu3 (arXiv 2409.18869) name picture codes in their vocabulary,
Janus (arXiv 2410.13848) has a table of its own for them, which is counted on from the last text
token. Nothing is added to such a model, and none of its rows is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arra.errors import InputError
from arra.generators.vocabulary import ImageVocabulary, padding
from arra.networks.language_model import embedding_table
from arra.networks.tables import token_tables


def own_vocabulary(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, grid: tuple[int, int]
) -> ImageVocabulary | None:
    """Where an image-native model has its picture codes; None for other language models.

    `InputError` when its control tokens are not in its vocabulary.
    """
    make = _FAMILIES.get(lm.config.model_type)
    return None if make is None else make(lm, tokenizer, grid)


def _chameleon(lm: Any, tokenizer: Any, grid: tuple[int, int]) -> ImageVocabulary:
    mapping = lm.model.vocabulary_mapping
    named, code_ids = mapping.vocab_map, mapping.img2bpe
    begin = _id(named, getattr(tokenizer, "boi_token", None) or "<racm3:break>")
    end = _id(named, getattr(tokenizer, "eoi_token", None) or "<eoss>")
    return _vocabulary(code_ids, begin, end, tokenizer)


def _emu3(lm: Any, tokenizer: Any, grid: tuple[int, int]) -> ImageVocabulary:
    """<|image start|> height*width <|image token|>, rows that end with a token, and an end."""
    mapping = lm.vocabulary_mapping
    named, code_ids = mapping.vocab_map, mapping.img2bpe
    begin = _id(named, getattr(tokenizer, "image_wrapper_token", None) or "<|image token|>")
    opening = _id(named, getattr(tokenizer, "boi_token", None) or "<|image start|>")
    end = _id(named, getattr(tokenizer, "eof_token", None) or "<|extra_201|>")
    size = tokenizer.encode(f"{grid[0]}*{grid[1]}", add_special_tokens=False)
    return _vocabulary(
        code_ids,
        begin,
        end,
        tokenizer,
        after=(opening, *size),
        row_end=mapping.eol_token_id,
        columns=grid[1],
    )


def _janus(lm: Any, tokenizer: Any, grid: tuple[int, int]) -> ImageVocabulary:
    named, first = tokenizer.get_vocab(), len(embedding_table(lm))
    begin = _id(named, getattr(tokenizer, "boi_token", None) or "<begin_of_image>")
    end = _id(named, getattr(tokenizer, "eoi_token", None) or "<end_of_image>")
    code_ids = {code: first + code for code in range(token_tables(lm).rows - first)}
    return _vocabulary(code_ids, begin, end, tokenizer)


_FAMILIES: dict[str, Callable[[Any, Any, tuple[int, int]], ImageVocabulary]] = {
    "chameleon": _chameleon,
    "emu3": _emu3,
    "janus": _janus,
}


def is_native(lm: PreTrainedModel) -> bool:
    """Whether a language model draws with picture codes of its own."""
    return lm.config.model_type in _FAMILIES


def _id(named: Mapping[str, int], token: str) -> int:
    if token not in named:
        raise InputError(
            f"language model: its vocabulary has no token {token!r}, which stands around pictures"
        )
    return named[token]


def _vocabulary(
    code_ids: Mapping[int, int], begin: int, end: int, tokenizer: Any, **more: Any
) -> ImageVocabulary:
    codes, first = len(code_ids), code_ids.get(0, -1)
    if not codes or any(code_ids.get(code) != first + code for code in range(codes)):
        raise InputError(
            "language model: the tokens of its picture codes are not one range in order of code"
        )
    start, pad = tokenizer.bos_token_id, padding(tokenizer, end)
    return ImageVocabulary(begin, end, first, codes, start, pad, **more)
