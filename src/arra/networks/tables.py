"""Token ids to vectors and states to logits, also where pictures have tables of their own.

Most language models have one embedding and one head, whatever a token means. Janus (arXiv
2410.13848) embeds picture codes and predicts them with modules of their own. Both look alike here:
one range of token ids, of which a part are picture codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from arra.networks.language_model import embedding_table, head_logits


class TokenTables:
    """One embedding and one head for every token."""

    def __init__(self, lm: PreTrainedModel):
        self.lm = lm
        self.text = len(embedding_table(lm))
        """How many token ids the embedding has."""

    @property
    def rows(self) -> int:
        """How many token ids there are."""
        return self.text

    def inputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """What the decoder is given for tokens (R, T): it embeds them itself, in its own way."""
        return {"input_ids": tokens}

    def logits(self, hidden: Tensor, picture: Tensor) -> Tensor:
        """(M, rows) logits of (M, D) final states; `picture` (M,) says which predict a code."""
        return head_logits(self.lm, hidden)

    def code_logits(self, hidden: Tensor, offset: int, codes: int) -> Tensor:
        """(M, codes) logits of the picture codes alone, which begin at id `offset`."""
        return head_logits(self.lm, hidden)[:, offset : offset + codes]

    def unused(self) -> list[nn.Module]:
        """Modules that drawing never runs: codecs and encoders of pictures that are read."""
        found = [getattr(self.lm.base_model, name, None) for name in _READING]
        return [module for module in found if isinstance(module, nn.Module)]

    def own(self) -> list[nn.Module]:
        """Modules that exist for picture codes only."""
        return []


_READING = ("vqmodel", "vision_model", "aligner", "vision_tower", "multi_modal_projector")


class SeparateTables(TokenTables):
    """Janus: codes stand behind the last text token and have embedding, aligner and head."""

    lm: Any

    @property
    def rows(self) -> int:
        return self.text + self.lm.model.vqmodel.config.num_embeddings

    def inputs(self, tokens: Tensor) -> dict[str, Tensor]:
        text = self.lm.get_input_embeddings()(tokens.clamp(max=self.text - 1))
        codes = (tokens - self.text).clamp(min=0)
        drawn = self.lm.prepare_embeddings_for_image_generation(codes)
        is_code = (tokens >= self.text)[..., None]
        return {"inputs_embeds": torch.where(is_code, drawn.to(text.dtype), text)}

    def logits(self, hidden: Tensor, picture: Tensor) -> Tensor:
        """(M, rows) as above; a state predicts text or a code, and the other has no share."""
        text, codes = head_logits(self.lm, hidden), self.lm.model.generation_head(hidden)
        never = torch.finfo(text.dtype).min
        text = text.masked_fill(picture[:, None], never)
        codes = codes.to(text.dtype).masked_fill(~picture[:, None], never)
        return torch.cat((text, codes), dim=-1)

    def code_logits(self, hidden: Tensor, offset: int, codes: int) -> Tensor:
        return self.lm.model.generation_head(hidden)

    def own(self) -> list[nn.Module]:
        model = self.lm.model
        return [model.generation_embeddings, model.generation_aligner, model.generation_head]


def token_tables(lm: PreTrainedModel) -> TokenTables:
    """The tables of a language model."""
    separate = hasattr(lm.base_model, "generation_head")
    return SeparateTables(lm) if separate else TokenTables(lm)
