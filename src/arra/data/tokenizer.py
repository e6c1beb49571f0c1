"""A small text tokenizer trained on captions, and captions to ids without surprises.

Two kinds. "bpe" is byte-level byte-pair encoding: every string has ids and comes back unchanged.
"word" gives one id to each whole word, for small closed languages such as digit scenes; words that
were not in the captions become `<|unk|>`. Both are saved as a folder that `AutoTokenizer` loads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from arra.errors import InputError
from arra.files import sha256_of_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TokenizerKind = Literal["word", "bpe"]

PAD, BOS, EOS, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"
BOI, EOI = "<|boi|>", "<|eoi|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK, BOI, EOI)
"""Padding, begin and end of text, unknown, begin and end of image; ids 0 to 5 in this order."""

_BYTES = 256


def train_text_tokenizer(
    captions: Iterable[str], vocabulary: int = 512, kind: TokenizerKind = "word"
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` entries, special tokens included.

    The same captions give the same tokenizer. Begin and end of image are its attributes
    `boi_token` and `eoi_token`. Words of kind "word" are runs of letters and digits or single
    signs, in lower case; the most frequent are kept, and of equally frequent ones the first in the
    alphabet. Raises `InputError` for an unknown kind, a vocabulary without room, or no captions.
    """
    least = {"word": len(SPECIAL_TOKENS) + 1, "bpe": len(SPECIAL_TOKENS) + _BYTES}
    if kind not in least:
        raise InputError(f"kind: {kind!r}, expected 'word' or 'bpe'")
    if vocabulary < least[kind]:
        raise InputError(f"vocabulary: {vocabulary}, {kind} needs {least[kind]} or more")
    if isinstance(captions, str):
        raise InputError("captions: a single string, expected several")
    backend = (
        _train_words(captions, vocabulary) if kind == "word" else _train_bpe(captions, vocabulary)
    )
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens={"boi_token": BOI, "eoi_token": EOI},
        clean_up_tokenization_spaces=False,
    )


def _train_words(captions: Iterable[str], vocabulary: int) -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Whitespace()
    counts: Counter[str] = Counter()
    for caption in captions:
        text = normalizer.normalize_str(_text(caption))
        counts.update(word for word, _ in splitter.pre_tokenize_str(text))
    if not counts:
        raise InputError("captions: no words in them")
    # Not the library's trainer: its choice among equally frequent words is not documented.
    words = sorted(counts, key=lambda word: (-counts[word], word))
    kept = (*SPECIAL_TOKENS, *words[: vocabulary - len(SPECIAL_TOKENS)])
    ids = {word: index for index, word in enumerate(kept)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def _train_bpe(captions: Iterable[str], vocabulary: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_text(caption) for caption in captions), trainer)
    return tokenizer


def _text(caption: Any) -> str:
    if not isinstance(caption, str):
        raise InputError(f"captions: {caption!r} is not a string")
    return caption


def load_text_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved in the folder `path`; `InputError` when there is none."""
    folder = Path(path)
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder}: no tokenizer here (expected tokenizer.json)")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library raises many kinds, also bare Exception from Rust
        raise InputError(f"{folder}: the tokenizer cannot be read: {error}") from error


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest of everything that decides which ids a text gets, and of the special tokens."""
    content = json.loads(_backend(tokenizer).to_str())
    # How a batch was last padded or cut is state that calls leave behind, not identity.
    content.pop("padding", None)
    content.pop("truncation", None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return sha256_of_json({"tokenizer": content, "special": special})


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise InputError(
            f"tokenizer: {type(tokenizer).__name__} has no tokenizer.json behind it; load one that "
            "has (AutoTokenizer gives it where it exists)"
        )
    return backend


def one_line(text: str) -> str:
    """`text` on one line, runs of white space made one space, without a byte order mark."""
    return " ".join(text.removeprefix("\ufeff").split())


class CaptionEncoder:
    """Captions to ids, without control tokens.

    The spelling of a control token inside a caption (`a <|eoi|> sign`) is read as ordinary text, so
    that no caption can end a picture. Nothing is padded or cut.
    """

    def __init__(self, backend: Tokenizer):
        from tokenizers import Tokenizer

        # A copy: these settings must not leak into the caller's tokenizer, nor his into ours.
        self._tokenizer = Tokenizer.from_str(backend.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> CaptionEncoder:
        """The encoder of captions of a tokenizer; `InputError` for one not made by `tokenizers`."""
        return cls(_backend(tokenizer))

    @classmethod
    def load(cls, folder: str | Path) -> CaptionEncoder:
        """From a saved tokenizer, without importing transformers."""
        from tokenizers import Tokenizer

        path = Path(folder) / "tokenizer.json"
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"{path}: the tokenizer cannot be read: {error}") from error

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """One list of ids a caption."""
        encoded = self._tokenizer.encode_batch_fast(list(captions), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]
