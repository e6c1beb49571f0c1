"""The training pass of Llama-like decoders on real positions alone, with few and large kernels.

The weights are those of the Hugging Face model, read anew in every pass, and the numbers are its
numbers within rounding; what differs is how they are computed. Padding costs nothing (`unpadded`),
queries, keys and values are one product, gate and up another, and what stands between products can
be compiled: two functions for all blocks, the same for every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from arra.networks.language_model import check_layers, compiled_in_training, decoder_blocks
from arra.networks.unpadded import Heads, Places, attend

_BLOCKS = frozenset({LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer})


@dataclass(frozen=True)
class _Shape:
    """What the functions of a block are made for."""

    heads: int
    groups: int
    width: int
    """Channels of a head."""
    epsilon: float
    dtype: torch.dtype
    """Of products of matrices."""


@dataclass(frozen=True)
class Passed:
    """What a pass over N real positions gives."""

    places: Places
    last: Tensor
    """(N, D): the output of the last block, before the final norm."""
    states: dict[int, Tensor]
    """layer -> (N, D), for the layers that were asked for."""


class UnpaddedDecoder:
    """The decoder of a causal language model, where its blocks are Llama-like."""

    def __init__(self, decoder: Any, blocks: Sequence[Any]):
        self.decoder, self.blocks = decoder, blocks

    @classmethod
    def of(cls, lm: PreTrainedModel) -> Self | None:
        """None where a block is anything else than it seems: another architecture, dropout, a
        window, an adapter, sharded weights, a hook, or a forward that was replaced (checkpointed
        activations)."""
        blocks = list(decoder_blocks(lm))
        decoder: Any = lm.get_decoder() if hasattr(lm, "get_decoder") else None
        plain = all(map(_is_plain, blocks)) and hasattr(decoder, "rotary_emb")
        return cls(decoder, blocks) if plain else None

    def __call__(self, embedded: Tensor, places: Places, layers: Sequence[int]) -> Passed:
        """The pass over (N, D) embeddings of the real positions, in the precision of autocast."""
        check_layers(layers, len(self.blocks))
        device = embedded.device.type
        half = torch.is_autocast_enabled(device)
        attention = self.blocks[0].self_attn
        width = attention.head_dim
        shape = _Shape(
            heads=attention.q_proj.out_features // width,
            groups=attention.k_proj.out_features // width,
            width=width,
            epsilon=self.blocks[0].input_layernorm.variance_epsilon,
            dtype=torch.get_autocast_dtype(device) if half else embedded.dtype,
        )
        compiled = all(compiled_in_training(block) for block in self.blocks)
        enter, leave = _functions(shape, compiled)
        heads = Heads(places, shape.heads, shape.groups)
        cos, sin = self.decoder.rotary_emb(embedded, position_ids=places.position[None])
        cos, sin = (x[0, :, : width // 2].contiguous() for x in (cos, sin))
        states, x = {}, embedded
        with torch.autocast(device, enabled=False):
            for number, block in enumerate(self.blocks, start=1):
                x = leave(x, attend(enter(x, cos, sin, *_read(block)), heads), *_written(block))
                if number in layers:
                    states[number] = x
        return Passed(places, x, states)


def _is_plain(block: Any) -> bool:
    if type(block) not in _BLOCKS or block._forward_hooks or block._forward_pre_hooks:
        return False
    if "forward" in vars(block) and not compiled_in_training(block):
        return False
    attention, mlp = block.self_attn, block.mlp
    linear = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    linear += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if any(type(module) is not nn.Linear for module in linear):
        return False
    if any(isinstance(p, DTensor) or p.dtype != torch.float32 for p in block.parameters()):
        return False
    windowed = getattr(attention, "sliding_window", None) is not None
    windowed |= type(block) is MistralDecoderLayer and attention.config.sliding_window is not None
    silu = attention.config.hidden_act in ("silu", "swish")
    return silu and not windowed and attention.attention_dropout == 0


def _read(block: Any) -> tuple[Any, ...]:
    """The weights before attention."""
    attention = block.self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    return (
        block.input_layernorm.weight,
        tuple(part.weight for part in parts),
        tuple(part.bias for part in parts),
        tuple(norm.weight for norm in norms if norm is not None),
    )


def _written(block: Any) -> tuple[Any, ...]:
    """The weights behind attention."""
    out, mlp = block.self_attn.o_proj, block.mlp
    return (
        (out.weight, out.bias),
        block.post_attention_layernorm.weight,
        (mlp.gate_proj.weight, mlp.up_proj.weight),
        (mlp.gate_proj.bias, mlp.up_proj.bias),
        (mlp.down_proj.weight, mlp.down_proj.bias),
    )


@cache
def _functions(
    shape: _Shape, compiled: bool
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """What a block does before and behind attention. Sizes are constants of the functions, for all
    that is passed may vary."""
    heads, groups, width = shape.heads, shape.groups, shape.width

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + shape.epsilon))

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        half = None if bias is None else bias.to(shape.dtype)
        return F.linear(x.to(shape.dtype), weight.to(shape.dtype), half).to(x.dtype)

    def joined(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
        given = [bias for bias in biases if bias is not None]
        return linear(x, torch.cat(tuple(weights)), torch.cat(given) if given else None)

    def enter(
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        before: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        norms: Sequence[Tensor],
    ) -> Tensor:
        """(N, heads + 2 groups, d): queries and keys, rotated, and values."""
        qkv = joined(norm(x, before), weights, biases).unflatten(-1, (heads + 2 * groups, width))
        if norms:  # of each head (Qwen 3)
            query, key, value = qkv.split((heads, groups, groups), dim=1)
            qkv = torch.cat((norm(query, norms[0]), norm(key, norms[1]), value), dim=1)
        return _Rotated.apply(qkv, cos, sin, heads + groups)

    def leave(
        x: Tensor,
        drawn: Tensor,
        out: tuple[Tensor, Tensor | None],
        before: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        down: tuple[Tensor, Tensor | None],
    ) -> Tensor:
        """(N, D): the output of the block."""
        x = x + linear(drawn.to(x.dtype), *out)
        gate, up = joined(norm(x, before), weights, biases).chunk(2, dim=-1)
        return x + linear(F.silu(gate) * up, *down)

    if not compiled:
        return enter, leave
    return torch.compile(enter, dynamic=True), torch.compile(leave, dynamic=True)


class _Rotated(torch.autograd.Function):
    """Rotary embedding (Su et al., 2021) of the first `turned` heads of (N, heads, d), as in Llama:
    pairs are d / 2 apart. Written out, for the compiler makes slow code of the gradient of slices.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, cos: Tensor, sin: Tensor, turned: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.turned = turned  # type: ignore[attr-defined]
        return _rotate(qkv, cos, sin, turned)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradient, cos, -sin, ctx.turned), None, None, None


def _rotate(qkv: Tensor, cos: Tensor, sin: Tensor, turned: int) -> Tensor:
    one, other = qkv[:, :turned].chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    rotated = torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)
    return torch.cat((rotated, qkv[:, turned:]), dim=1)
