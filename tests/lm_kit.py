"""Tiny random language models of many architectures, and a tokenizer that arra has never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ChameleonConfig,
    Emu3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    JanusConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from arra.codecs.native import DECODER_FILE, ChameleonCodec
from arra.networks.language_model import auto_class

WORDS = (  # of captions and of plain text
    *("a", "red", "green", "blue", "bar", "square", "left", "of"),
    *("the", "cat", "sat", "on", "mat", "and", "said", "hello", "user", "model"),
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}user {{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}model {% endif %}"
)
CAPTIONS = ["a red bar", "a green square", "a blue bar left of a red square"]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 96,
}


def word_tokenizer(extra: Sequence[str] = (), bos: bool = True) -> PreTrainedTokenizerFast:
    """One id a word; no padding token; `bos` False: none that begins texts, either."""
    names = ["<unk>", "</s>", *(["<s>"] if bos else []), *WORDS, ".", *extra]
    backend = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="</s>",
        chat_template=TEMPLATE,
        extra_special_tokens=list(extra),
        **({"bos_token": "<s>"} if bos else {}),
    )


TEXT_SIZE = len(word_tokenizer())
PADDED = 64
"""Embedding rows of the models that have more than tokens: enough for 16 codes and two controls."""

# tied and untied heads, padded and exact vocabularies, scaled embeddings, learned positions
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE, vocab_size=PADDED, num_key_value_heads=1),
    "qwen3": lambda: Qwen3Config(
        **SHAPE, vocab_size=TEXT_SIZE, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True
    ),
    "gemma2": lambda: Gemma2Config(
        **SHAPE, vocab_size=PADDED, num_key_value_heads=1, head_dim=16, sliding_window=128
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE, vocab_size=TEXT_SIZE, num_key_value_heads=1, head_dim=16, sliding_window=128
    ),
    "mistral": lambda: MistralConfig(**SHAPE, vocab_size=TEXT_SIZE, num_key_value_heads=1),
    "gpt2": lambda: GPT2Config(
        vocab_size=TEXT_SIZE, n_embd=32, n_layer=2, n_head=2, n_positions=96
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**SHAPE, vocab_size=PADDED),
}


def save_language_model(folder: Path, config: Any, tokenizer: Any) -> Path:
    """A folder with a random model of `config` and the tokenizer, as the hub's are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = auto_class(config).from_config(config)
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---- image-native models ---------------------------------------------------------------------

CODES = 16
_VQ = {"embed_dim": 4, "latent_channels": 4, "num_res_blocks": 1, "base_channels": 32}
_TEXT = {**SHAPE, "num_key_value_heads": 1}


def _letters(code: int) -> str:
    return "".join(chr(ord("A") + int(digit)) for digit in str(code))


NATIVE_TOKENS = {
    "chameleon": [
        *(f"IMGIMG{_letters(code)}Z" for code in range(CODES)),
        *("<eoss>", "<racm3:break>", "<image>"),
    ],
    "emu3": [
        *(f"<|visual token {code:06d}|>" for code in range(CODES)),
        *("<|image start|>", "<|image token|>", "<|image end|>", "<|extra_200|>", "<|extra_201|>"),
        *("4*4", "<image>"),
    ],
    "janus": ["<begin_of_image>", "<end_of_image>", "<image_placeholder>"],
}


def native_config(family: str) -> Any:
    """The smallest model of a family."""
    tokenizer = word_tokenizer(NATIVE_TOKENS[family])
    size, named = len(tokenizer), tokenizer.get_vocab()
    if family == "chameleon":
        vq = {**_VQ, "num_embeddings": CODES, "channel_multiplier": [1, 1]}
        return ChameleonConfig(**_TEXT, vocab_size=size, vocabulary_map=named, vq_config=vq)
    if family == "emu3":
        vq = {**_VQ, "codebook_size": CODES, "channel_multiplier": [1, 1], "hidden_size": 32}
        vq |= {"attn_resolutions": [1], "temporal_downsample_factor": 2}
        text = {**_TEXT, "vocab_size": size, "pad_token_id": 1, "attention_dropout": 0.0}
        return Emu3Config(text_config=text, vocabulary_map=named, vq_config=vq)
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 2, "projection_dim": 32}
    vq = {**_VQ, "num_embeddings": CODES, "channel_multiplier": [1, 1], "projection_dim": 32}
    return JanusConfig(
        text_config={**_TEXT, "model_type": "llama", "vocab_size": size},
        vision_config=vision,
        vq_config={**vq, "image_token_embed_dim": 32},
        image_token_id=named["<image_placeholder>"],
    )


def save_native(folder: Path, family: str) -> Path:
    """A folder with a model that draws; a Chameleon with the decoder that its class lacks."""
    config = native_config(family)
    save_language_model(folder, config, word_tokenizer(NATIVE_TOKENS[family]))
    if family == "chameleon":
        vq = config.vq_config.to_diff_dict()
        decoder = ChameleonCodec.seeded(ChameleonCodec.Config(vq), 1).decoder
        weights = {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
        save_file(weights, str(folder / DECODER_FILE))
    return folder


def pictures(count: int = 12, side: int = 8) -> np.ndarray:
    """(count, side, side, 3) uint8 of noise."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
