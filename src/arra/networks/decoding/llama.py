"""What a decoder of our own needs of a Llama-like causal language model, or why it cannot serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma"})
"""Model types of transformers that are one decoder: RMS norms before attention and a gated layer,
rotary positions, grouped heads; with biases (Qwen2), norms of queries and keys (Qwen3), or scaled
embeddings (Gemma)."""
FIXED_ROTATION = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles do not depend on how long the sequence has become."""


class Unsupported(Exception):
    """A decoder of our own does not compute this model; the message says why."""


@dataclass(frozen=True)
class Weights:
    """One linear layer: (N, K), and (N,) or None."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """One decoder block, projections of the same input fused."""

    queries: int
    """Outputs of `qkv` that are queries; as many keys as values follow."""
    qkv: Weights
    out: Weights
    gate: Weights
    up: Weights
    down: Weights
    norm: Tensor
    norm_mlp: Tensor
    norm_q: Tensor | None
    norm_k: Tensor | None


@dataclass(frozen=True)
class Llama:
    """A Llama-like decoder as plain tensors in float32."""

    blocks: tuple[Block, ...]
    embedding: Tensor
    """(rows, D)"""
    embedding_scale: float
    norm: Tensor
    head: Weights
    """(codes, D): only the rows of picture codes."""
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    gelu: bool
    """The gate is GELU in its tanh form, otherwise SiLU."""
    rotary: Any
    """transformers' own module of rotary embeddings."""

    @property
    def width(self) -> int:
        return self.embedding.shape[1]

    @property
    def feed_forward(self) -> int:
        return self.blocks[0].gate.weight.shape[0]

    def rotation(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (positions, head_size / 2) float32."""
        at = torch.arange(positions, device=self.embedding.device)[None]
        cosine, sine = self.rotary(self.embedding[:1], at)
        half = self.head_size // 2
        return cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous()


def unsupported(lm: PreTrainedModel, length: int) -> str | None:
    """Why the decoders here do not compute this model over sequences of `length` tokens; None where
    they do."""
    config: Any = lm.config
    kind = config.model_type
    if kind not in FAMILIES:
        return f"{kind} models are decoded by their own forward"
    kinds = getattr(config, "layer_types", None) or ()
    slides = kind == "mistral" or "sliding_attention" in kinds
    window = getattr(config, "sliding_window", None) if slides else None
    if window is not None and window < length:
        return f"its attention sees {window} positions back, of {length}"
    if (rotation := _rotation(config)) not in FIXED_ROTATION:
        return f"its rotary embedding is of type {rotation}"
    if _activation(config) not in ("silu", "gelu_pytorch_tanh"):
        return f"its gate is {_activation(config)}"
    if (attention := config._attn_implementation) not in ("sdpa", "eager", None):
        return f"its attention is {attention}"
    blocks: Any = lm.base_model.layers
    plain = (
        type(getattr(part, name)) is nn.Linear
        for block in blocks
        for part, names in ((block.self_attn, "q k v o"), (block.mlp, "gate up down"))
        for name in (f"{short}_proj" for short in names.split())
    )
    if not all(plain):
        return "its linear layers are wrapped or quantised (merge an adapter to decode faster)"
    return None


def _rotation(config: Any) -> str:
    return (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")


def _activation(config: Any) -> str:
    return getattr(config, "hidden_activation", None) or config.hidden_act


def llama_of(lm: PreTrainedModel, offset: int, codes: int) -> Llama:
    """The decoder of a model that is not `unsupported`, with the head's rows of token ids `offset`
    to `offset + codes`.

    Fused projections are copies; the rest shares memory with the model where it is float32.
    """
    config: Any = lm.config
    base: Any = lm.base_model
    plus = 1.0 if config.model_type == "gemma" else 0.0
    output: Any = lm.get_output_embeddings()
    rows = slice(offset, offset + codes)
    head = Weights(
        output.weight.detach()[rows].float(),
        None if output.bias is None else output.bias.detach()[rows].float(),
    )
    embedding: Any = base.embed_tokens
    return Llama(
        blocks=tuple(_block(block, plus) for block in base.layers),
        embedding=embedding.weight.detach().float(),
        embedding_scale=float(getattr(embedding, "scalar_embed_scale", 1.0)),
        norm=_norm(base.norm, plus),
        head=head,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=base.layers[0].self_attn.head_dim,
        epsilon=config.rms_norm_eps,
        gelu=_activation(config) != "silu",
        rotary=base.rotary_emb,
    )


def _block(block: Any, plus: float) -> Block:
    attention, mlp = block.self_attn, block.mlp
    q, k, v = (_weights(getattr(attention, f"{name}_proj")) for name in "qkv")
    bias = None if q.bias is None or k.bias is None or v.bias is None else (q.bias, k.bias, v.bias)
    norm_q, norm_k = (getattr(attention, f"{name}_norm", None) for name in "qk")
    return Block(
        queries=len(q.weight),
        qkv=Weights(
            torch.cat((q.weight, k.weight, v.weight)), None if bias is None else torch.cat(bias)
        ),
        out=_weights(attention.o_proj),
        gate=_weights(mlp.gate_proj),
        up=_weights(mlp.up_proj),
        down=_weights(mlp.down_proj),
        norm=_norm(block.input_layernorm, plus),
        norm_mlp=_norm(block.post_attention_layernorm, plus),
        norm_q=None if norm_q is None else _norm(norm_q, plus),
        norm_k=None if norm_k is None else _norm(norm_k, plus),
    )


def _weights(linear: nn.Linear) -> Weights:
    bias = None if linear.bias is None else linear.bias.detach().float()
    return Weights(linear.weight.detach().float(), bias)


def _norm(norm: Any, plus: float) -> Tensor:
    return norm.weight.detach().float() + plus if plus else norm.weight.detach().float()


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) as int8, symmetric, and the scale (N,) float32 of each row: weight ~ int8 * scale."""
    scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127.0
    return (weight / scale[:, None]).round().to(torch.int8), scale
