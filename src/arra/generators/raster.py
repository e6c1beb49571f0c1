"""Raster generation over an unmodified Hugging Face causal language model.

The sequence is [start] text <boi> x_1 ... x_n <eoi>; the model *is* the language model with a
longer vocabulary (LlamaGen, arXiv 2406.06525, and ARRA, arXiv 2503.07334, with text as ordinary
tokens). Its folder loads with `AutoModelForCausalLM` and `AutoTokenizer`; one file beside them,
`arra.json`, says which ids are picture codes and how large the grid is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from arra.data.tokenizer import CaptionEncoder, one_line
from arra.errors import InputError
from arra.files import read_json, to_plain, write_json
from arra.generators.base import Batch, Generator, Output
from arra.generators.vocabulary import ImageVocabulary, add_image_tokens
from arra.networks.cache import KVCache
from arra.networks.language_model import (
    compile_blocks,
    decoder_blocks,
    embedding_table,
    head_logits,
    hidden_states,
    load_causal_lm,
    model_settings,
)
from arra.networks.part import config_from_plain
from arra.orders.layout import visible
from arra.progress import without_library_bars
from arra.randomness import seeded
from arra.registry import generators
from arra.settings import LlamaSize

SIDE_FILE = "arra.json"


@dataclass(frozen=True)
class RasterConfig:
    """What a raster generator is, beside the configuration of its language model."""

    vocabulary: ImageVocabulary
    """Where picture codes stand among the token ids."""
    grid: tuple[int, int]
    """Rows and columns of codes."""
    language_model: dict[str, Any] = field(default_factory=dict)
    """The Hugging Face configuration, as its `to_dict` gives it."""
    codec: str = ""
    """Fingerprint of the codec whose codes the model draws."""


@generators.register("raster")
class RasterGenerator(Generator):
    """A causal language model that draws codes in raster order."""

    Config = RasterConfig
    config: RasterConfig

    def __init__(
        self,
        config: RasterConfig,
        lm: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__(config)
        if lm is None:
            settings = dict(config.language_model)
            kind = settings.pop("model_type")
            lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
        rows = len(embedding_table(lm))
        if rows < config.vocabulary.size:
            raise InputError(
                f"language model: {rows} embedding rows, expected {config.vocabulary.size}; "
                "resize_token_embeddings was not called"
            )
        self.lm = lm
        self.tokenizer = tokenizer
        # made when first needed: copying a tokenizer of a large vocabulary takes a second
        self._captions: tuple[PreTrainedTokenizerBase, CaptionEncoder] | None = None
        text = lm.config.get_text_config()
        self.width, self.depth = text.hidden_size, len(decoder_blocks(lm))

    # ---- making one ----------------------------------------------------------------------------

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codes: int,
        grid: tuple[int, int],
        size: LlamaSize | None = None,
        *,
        seed: int,
        codec: str = "",
        appearance: Tensor | None = None,
    ) -> Self:
        """A small Llama with random weights (a function of `seed`) over text and `codes` codes.

        `appearance` (codes, d) says what the codes look like (`Codec.appearance`): their embeddings
        then begin as a random projection of it, so that codes which look alike are near each other.
        """
        size = size or LlamaSize()
        vocabulary = add_image_tokens(tokenizer, codes)
        config = LlamaConfig(
            vocab_size=max(vocabulary.size, len(tokenizer)),
            hidden_size=size.width,
            intermediate_size=size.feed_forward,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=size.positions,
            rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
            bos_token_id=vocabulary.start,
            eos_token_id=vocabulary.end,
            pad_token_id=vocabulary.pad,
            tie_word_embeddings=size.tied,
        )
        with seeded(seed):
            lm = AutoModelForCausalLM.from_config(config)
            if appearance is not None:
                _paint(lm, vocabulary, appearance)
        return cls(RasterConfig(vocabulary, grid, config.to_dict(), codec), lm, tokenizer)

    @classmethod
    def from_language_model(
        cls,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        codes: int,
        grid: tuple[int, int],
        *,
        seed: int = 0,
        codec: str = "",
    ) -> Self:
        """A pretrained language model, its vocabulary extended in place by `codes` picture codes.

        New rows are drawn around the mean of the old ones, as `resize_token_embeddings` does.
        """
        vocabulary = add_image_tokens(tokenizer, codes)
        rows = len(embedding_table(lm))
        if rows < max(vocabulary.size, len(tokenizer)):
            with seeded(seed):
                lm.resize_token_embeddings(max(vocabulary.size, len(tokenizer)))
        return cls(RasterConfig(vocabulary, grid, lm.config.to_dict(), codec), lm, tokenizer)

    @classmethod
    def tiny(cls) -> Self:
        from arra.data.tokenizer import train_text_tokenizer

        tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
        size = LlamaSize(width=32, depth=2, heads=2, feed_forward=48, positions=64)
        return cls.from_scratch(tokenizer, 16, (3, 3), size, seed=0)

    # ---- saving --------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "language_model": model_settings(self.lm)}

    def _save_pretrained(self, save_directory: Path) -> None:
        with without_library_bars():
            self.lm.save_pretrained(save_directory)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)
        plain = to_plain(self.config)
        del plain["language_model"]  # stands in the model's own config.json
        write_json(save_directory / SIDE_FILE, {"generator": self.registered_name, **plain})

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Self:  # type: ignore[override]
        """Load a folder that `save_pretrained` wrote."""
        folder = Path(source)
        side = read_json(folder / SIDE_FILE)
        if side.pop("generator", None) != cls.registered_name:
            raise InputError(f"{folder / SIDE_FILE}: does not describe a raster generator")
        with without_library_bars():
            lm = load_causal_lm(folder, **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        side["language_model"] = lm.config.to_dict()
        config = config_from_plain(RasterConfig, side, where=folder / SIDE_FILE)
        return cls(config, lm, tokenizer).eval()

    # ---- training ------------------------------------------------------------------------------

    def compile_blocks(self) -> None:
        """Compile the decoder blocks in place (`torch.compile`)."""
        compile_blocks(self.lm)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        mask, position = attention(batch)
        with hidden_states(self.lm, layers) as states:
            final = self.lm.get_decoder()(
                input_ids=batch.tokens,
                attention_mask=mask,
                position_ids=position,
                use_cache=False,
            ).last_hidden_state
        supervised = batch.target >= 0
        logits = head_logits(self.lm, final[supervised])
        return Output(logits, batch.target[supervised], states)

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Number of codes in a picture."""
        return self.config.grid[0] * self.config.grid[1]

    def prompt_ids(self, caption: str | None) -> list[int]:
        """Token ids up to and with begin-of-image; None is the empty prompt of guidance.

        Captions become ids exactly as preparation made them for training.
        """
        if self.tokenizer is None:
            raise InputError("this generator has no tokenizer: load it from a saved folder")
        if caption is None:
            return prompt_tokens([], self.config.vocabulary)
        if self._captions is None or self._captions[0] is not self.tokenizer:
            self._captions = self.tokenizer, CaptionEncoder.of(self.tokenizer)
        return prompt_tokens(self._captions[1]([one_line(caption)])[0], self.config.vocabulary)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, KVCache]:
        """Read prompts of any lengths: logits (B, codes) of the first unit, and the cache."""
        longest = max(len(p) for p in prompts)
        tokens = torch.full((len(prompts), longest), self.config.vocabulary.pad)
        real = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(list(prompt))
            real[row, longest - len(prompt) :] = True
        device = self.device
        cache = KVCache.empty(len(prompts), self.lm.config, device)
        return self._advance(tokens.to(device), real.to(device), cache), cache

    def step(self, codes: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, codes) of the next unit after `codes` (B,) were drawn; extends the cache."""
        tokens = codes[:, None] + self.config.vocabulary.offset
        return self._advance(tokens, torch.ones_like(tokens, dtype=torch.bool), cache)

    def _advance(self, tokens: Tensor, real: Tensor, cache: KVCache) -> Tensor:
        visible, position = cache.extend(real)
        final = self.lm.get_decoder()(
            input_ids=tokens,
            attention_mask=visible,
            position_ids=position,
            past_key_values=cache.past,
            use_cache=True,
        ).last_hidden_state
        # Only picture codes are legal inside a picture: the others are never looked at.
        vocabulary = self.config.vocabulary
        logits = head_logits(self.lm, final[:, -1])
        return logits[:, vocabulary.offset : vocabulary.offset + vocabulary.codes]


PAINT = 3.0
"""How much larger a code's appearance is than the random part of its row (1, 3 and 7.5 were tried
on digit scenes: 3 learnt fastest)."""


@torch.no_grad()
def _paint(lm: PreTrainedModel, vocabulary: ImageVocabulary, appearance: Tensor) -> None:
    """Add a random projection of each code's appearance, of the size of the rows, to its row."""
    if appearance.shape[0] != vocabulary.codes or appearance.ndim != 2:
        raise InputError(
            f"appearance: {tuple(appearance.shape)}, expected a row for each of {vocabulary.codes}"
        )
    table = embedding_table(lm)
    rows = table[vocabulary.offset : vocabulary.offset + vocabulary.codes]
    width = appearance.shape[1]
    projection = torch.randn(width, table.shape[1], device=table.device) / width**0.5
    rows += PAINT * rows.std() * (appearance.to(table.device, table.dtype) @ projection)


def prompt_tokens(text: Sequence[int], vocabulary: ImageVocabulary) -> list[int]:
    """[start] text <boi>."""
    start = [] if vocabulary.start is None else [vocabulary.start]
    return [*start, *text, vocabulary.begin]


def attention(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Attention mask and positions for a Hugging Face model.

    Rows of one sample each that start at the first column need neither: padding on the right is
    never seen by what stands before it. Otherwise (packed rows, padding on the left) the rule of
    the layout is written out: (R, 1, T, T) bool, and the positions (R, T).
    """
    segment = batch.segment
    real = segment >= 0
    alone = (segment == segment[:, :1]) | ~real
    if bool((alone.all(dim=1) & real[:, 0]).all()):
        return None, None
    # in a raster every position looks at the moment of its place in its own sample
    sees = visible(segment, batch.position)
    return sees[:, None], batch.position
