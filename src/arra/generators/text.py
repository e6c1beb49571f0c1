"""Tokens of any causal language model, drawn by the samplers of picture codes.

Every token is a code. So what is built for pictures (drafts that one pass judges, tri-grams that
adapt, filters, noise of each text's own) serves texts of a model that arra has never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arra.errors import InputError
from arra.networks.cache import KVCache, left_padded
from arra.networks.language_model import head_logits, mask_for, unbranching
from arra.orders.trees import Trees


class TextStepper:
    """What comes after prompts, up to so many new tokens."""

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, units: int):
        """`units`: new tokens at most. The tokenizer's end of text ends a text; what stands behind
        it is more of it. `InputError` for no token at all."""
        if units < 1:
            raise InputError(f"TextStepper.units: {units}, expected 1 or more")
        self.lm, self.tokenizer, self.units = lm.eval(), tokenizer, units
        self.codes = lm.get_output_embeddings().weight.shape[0]
        self.end: int | None = tokenizer.eos_token_id

    def prompt_ids(self, caption: str | None) -> list[int]:
        """Ids of a prompt as the tokenizer makes them; None is the beginning of a text alone."""
        ids = self.tokenizer(caption or "").input_ids
        if not ids:
            start = self.tokenizer.bos_token_id
            if start is None:
                raise InputError("prompt: empty, and the tokenizer has no token that begins a text")
            ids = [start]
        return list(ids)

    def undraftable(self, longest: int) -> str:
        """Why drafts of texts after prompts of up to `longest` positions cannot be judged."""
        return unbranching(self.lm, longest + self.units)

    def text(self, codes: Tensor) -> list[str]:
        """What drawn codes (B, units) say, up to their ends."""
        return self.tokenizer.batch_decode(codes, skip_special_tokens=True)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, KVCache]:
        """Read prompts of any lengths: logits (B, V) of the first new token, and the cache."""
        tokens, real = left_padded(prompts, self.tokenizer.pad_token_id or 0)
        device = self.lm.device
        cache = KVCache.empty(len(prompts), self.lm.config.get_text_config(), device)
        cache.prompt = tokens.shape[1]
        cache.state = self._read(tokens.to(device), *cache.extend(real.to(device)), cache)[:, -1]
        return head_logits(self.lm, cache.state), cache

    def step(self, codes: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V) of the next token after `codes` (B,) were drawn; extends the cache."""
        tokens = codes[:, None]
        real = torch.ones_like(tokens, dtype=torch.bool)
        return head_logits(self.lm, self._read(tokens, *cache.extend(real), cache)[:, -1])

    def step_tree(self, codes: Tensor, trees: Trees, cache: KVCache) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) of the token after every node of a draft tree in each row, of `codes`
        (B, T), and what the head read for them (B, T, D); `cache.keep` then says which stay."""
        states = self._read(codes, *cache.branch(trees), cache)
        return head_logits(self.lm, states), states

    def _read(self, tokens: Tensor, visible: Tensor, position: Tensor, cache: KVCache) -> Tensor:
        """(B, T, D) final states of new tokens; their keys and values join the cache."""
        decoder: Any = self.lm.get_decoder()
        return decoder(
            input_ids=tokens,
            attention_mask=mask_for(self.lm, visible),
            position_ids=position,
            past_key_values=cache.past,
            use_cache=True,
        ).last_hidden_state
