"""A generator that was saved as an adapter: what it stands on, and how the two meet again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from arra.adapters.lora import adapter_state, frozen_fingerprint, load_adapter_state
from arra.errors import ProvenanceError
from arra.generators.native import is_native
from arra.generators.vocabulary import ImageVocabulary
from arra.networks.language_model import load_causal_lm
from arra.networks.rows import extend_vocabulary
from arra.settings import AdapterConfig, RowInit

ADAPTER_FILE = "adapter.safetensors"


@dataclass(frozen=True)
class Adapted:
    """An adapter on a pretrained language model, and what it stands on."""

    config: AdapterConfig
    base: str
    """Folder or hub name of the pretrained language model."""
    rows: RowInit
    """How the new vocabulary rows were made."""
    seed: int
    """Seed of these rows and of the adapter."""
    frozen: str = ""
    """Digest of the weights that are not trained."""


def write_adapter(lm: PreTrainedModel, folder: Path) -> None:
    """Write what is trained, and nothing of what it stands on."""
    state = {name: tensor.cpu().contiguous() for name, tensor in adapter_state(lm).items()}
    save_file(state, str(folder / ADAPTER_FILE))


def load_base(
    adapted: Adapted,
    vocabulary: ImageVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    options: dict[str, Any],
) -> PreTrainedModel:
    """The pretrained model, its vocabulary extended for `tokenizer` as it was for training."""
    lm = load_causal_lm(adapted.base, **{"dtype": torch.float32, **options})
    if not is_native(lm):
        known = len(AutoTokenizer.from_pretrained(adapted.base))
        size, new = max(vocabulary.size, len(tokenizer)), range(known, len(tokenizer))
        extend_vocabulary(lm, size, new, adapted.rows, adapted.seed)
    return lm


def read_adapter(lm: PreTrainedModel, adapted: Adapted, folder: Path) -> None:
    """Put the trained weights of `folder` in place.

    Raises `ProvenanceError` when the pretrained model has other weights than in training.
    """
    if frozen_fingerprint(lm) != adapted.frozen:
        raise ProvenanceError(
            f"{folder}: its adapter was trained on other weights than {adapted.base} now has; put "
            "the pretrained model back, or train again"
        )
    load_adapter_state(lm, load_file(str(folder / ADAPTER_FILE)), str(folder))
