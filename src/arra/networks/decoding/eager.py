"""The decoder in torch, for accelerators and where the kernels of native.py cannot be built.

Shapes never change while a picture is drawn and nothing waits for the device, so that a whole step
compiles into one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arra.networks.decoding.llama import Block, Llama, Weights, quantised
from arra.orders.trees import Trees
from arra.settings import Precision


class EagerCache:
    """Keys and values (layers, rows, kv heads, length, head size), and where each row goes on."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor, filled: int):
        self.keys, self.values, self.position = keys, values, position
        self.filled = filled
        """How many positions any row has at most: known without asking the device."""
        self.lengths = [filled] * len(position)
        """The same of each row, where they are slots that are read one by one."""
        self.state: Tensor | None = None
        """(rows, D) what the head read after the prompts, of rows as they were then."""
        self.row = torch.arange(len(position), device=position.device)

    @classmethod
    def empty(cls, llama: Llama, rows: int, length: int, dtype: torch.dtype) -> EagerCache:
        shape = len(llama.blocks), rows, llama.kv_heads, length, llama.head_size
        device = llama.embedding.device
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return cls(keys, values, torch.zeros(rows, dtype=torch.int64, device=device), 0)

    # ---- trees: a cache of all rows ------------------------------------------------------------

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.position)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.position.device

    def reserve(self, positions: int) -> None:
        """Have room for so many positions in each row."""
        if (missing := positions - self.keys.shape[3]) > 0:
            missing += 64  # some more, so that it does not grow in every pass
            self.keys, self.values = (
                F.pad(x, (0, 0, 0, missing)) for x in (self.keys, self.values)
            )

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.position = self.position[rows]
        self.row = torch.arange(len(rows), device=rows.device)

    def keep(self, kept: Tensor) -> None:
        """Of the tree that was read last keep the `kept` (B, T) bool, each row's in their order,
        and forget the others."""
        row, node = kept.nonzero(as_tuple=True)
        start, rank = self.position[row], kept.cumsum(dim=1)[row, node] - 1
        for part in (self.keys, self.values):
            part[:, row, :, start + rank] = part[:, row, :, start + node]
        self.position = self.position + kept.sum(dim=1)
        self.filled = int(self.position.max())

    def take_back(self, counts: Tensor) -> None:
        """Forget the last `counts` (B,) of each row's positions."""
        self.position = self.position - counts

    # ---- slots, one by one ---------------------------------------------------------------------

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Slot `targets[i]` becomes what slot `sources[i]` is; no source is a target of another."""
        for source, target in zip(sources, targets, strict=True):
            self.lengths[target] = length = self.lengths[source]
            self.position[target] = self.position[source]
            for part in (self.keys, self.values):
                part[:, target, :, :length] = part[:, source, :, :length]

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` positions of a slot."""
        self.position[slot] = self.lengths[slot] = length


class _Linear:
    """A product with weights in one of the precisions; inputs and outputs in the arithmetic's."""

    def __init__(self, parts: Sequence[Weights], precision: Precision, dtype: torch.dtype):
        weight = torch.cat([part.weight for part in parts])
        biases = [part.bias for part in parts if part.bias is not None]
        self.bias = torch.cat(biases).to(dtype) if biases else None
        self.scale: Tensor | None = None
        if precision == "int8":
            self.weight, scale = quantised(weight)
            self.scale = scale.to(dtype)
        else:
            self.weight = weight.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        if self.scale is None:
            return F.linear(x, self.weight, self.bias)
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


class EagerDecoder:
    """A Llama-like decoder in torch, with a static cache and fused projections.

    In fp32 it computes what transformers' own forward does, in the same order of operations but
    for the fused projections.
    """

    scattered = False
    """Slots that go on together are a range: the cache is read where it lies."""

    def __init__(self, llama: Llama, precision: Precision, positions: int, compile: bool = False):
        """`positions` is the longest sequence. With `compile` a step is compiled as a whole (on
        CUDA as one graph)."""
        self.llama, self.codes = llama, len(llama.head.weight)
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16

        def linear(*parts: Weights) -> _Linear:
            return _Linear(parts, precision, self.dtype)

        self._blocks = [
            (b, linear(b.qkv), linear(b.out), linear(b.gate, b.up), linear(b.down))
            for b in llama.blocks
        ]
        self._head = linear(llama.head)
        self._cosine, self._sine = (
            torch.cat((x, x), dim=-1).to(self.dtype) for x in llama.rotation(positions)
        )
        self._activation: Callable[[Tensor], Tensor] = F.silu
        if llama.gelu:
            self._activation = lambda x: F.gelu(x, approximate="tanh")
        self._compiled = compile
        self._run: Callable[..., Tensor] = self._forward
        self._run_tree: Callable[..., tuple[Tensor, Tensor]] = self._forward_tree
        if compile:
            mode = "reduce-overhead" if llama.embedding.is_cuda else None
            options: Any = {"mode": mode, "fullgraph": True, "dynamic": False}
            self._run = torch.compile(self._forward, **options)
            self._run_tree = torch.compile(self._forward_tree, **options)

    def prefill(self, prompts: Sequence[Sequence[int]], length: int) -> tuple[Tensor, EagerCache]:
        """Logits (B, codes) after the prompts, and a cache with room for `length` positions.

        Every different prompt is read once, whatever the number of rows that begin with it.
        """
        unique = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
        device, longest = self.llama.embedding.device, max(map(len, unique))
        # padding on the right: what it leaves in the cache is overwritten before it is seen
        tokens = torch.tensor([[*p, *([0] * (longest - len(p)))] for p in unique], device=device)
        cache = EagerCache.empty(self.llama, len(unique), length, self.dtype)
        last = torch.tensor([len(p) - 1 for p in unique], device=device)
        state = self._layers(tokens, cache.keys, cache.values, cache.position, cache.row, longest)
        logits, state = self._logits(state[cache.row, last])
        cache.position, cache.filled = last + 1, longest
        index = {prompt: row for row, prompt in enumerate(unique)}
        rows = torch.tensor([index[tuple(prompt)] for prompt in prompts], device=device)
        cache.gather(rows)
        cache.lengths, cache.state = [longest] * len(rows), state[rows]
        return logits[rows], cache

    def room(self, slots: int, length: int) -> EagerCache:
        """A cache of so many empty slots, of `length` positions each."""
        return EagerCache.empty(self.llama, slots, length, self.dtype)

    def read(
        self, prompts: Sequence[Sequence[int]], cache: EagerCache, slots: Sequence[int]
    ) -> Tensor:
        """Logits (n, codes) after these prompts, each from the beginning of one of the slots."""
        logits, fresh = self.prefill(prompts, max(map(len, prompts)))
        where = torch.tensor(slots, device=cache.position.device)
        cache.keys[:, where, :, : fresh.filled] = fresh.keys
        cache.values[:, where, :, : fresh.filled] = fresh.values
        cache.position[where] = fresh.position
        for slot, prompt in zip(slots, prompts, strict=True):
            cache.lengths[slot] = len(prompt)
        return logits

    def advance(
        self,
        tokens: Tensor,
        cache: EagerCache,
        slots: Sequence[int],
        prompts: Sequence[Sequence[int]],
        places: Sequence[int],
    ) -> Tensor:
        """Logits (n + m, codes): after one more token (n,) of each of `slots`, a range without
        gaps, and after m prompts, each read into one of `places`."""
        parts = [self._go_on(tokens, cache, slots)] if len(slots) else []
        return torch.cat(parts + ([self.read(prompts, cache, places)] if places else []))

    def _go_on(self, tokens: Tensor, cache: EagerCache, slots: Sequence[int]) -> Tensor:
        here = slice(slots[0], slots[0] + len(slots))
        if list(slots) != list(range(here.start, here.stop)):
            raise ValueError(f"EagerDecoder.advance: slots {list(slots)}, expected a range")
        filled = max(cache.lengths[here])
        part = EagerCache(cache.keys[:, here], cache.values[:, here], cache.position[here], filled)
        logits = self.step(tokens, part)
        cache.position[here] = part.position
        for slot in slots:
            cache.lengths[slot] += 1
        return logits

    def step(self, tokens: Tensor, cache: EagerCache) -> Tensor:
        """Logits (B, codes) after one more token (B,) int64 of each row."""
        cache.filled += 1
        # compiled code is for one shape: it looks at the whole cache, most of it hidden
        seen = cache.keys.shape[3] if self._compiled else cache.filled
        logits = self._run(tokens, cache.keys, cache.values, cache.position, cache.row, seen)
        cache.position = cache.position + 1
        # what a CUDA graph returns is overwritten by the next step
        return logits.clone() if self._compiled and logits.is_cuda else logits

    def step_tree(self, tokens: Tensor, trees: Trees, cache: EagerCache) -> tuple[Tensor, Tensor]:
        """Logits (B, T, codes) after every node of a tree in each row, of tokens (B, T), and what
        the head read (B, T, D). `cache.keep` says which nodes stay."""
        nodes = width = tokens.shape[1]
        if self._compiled:  # one graph for all sizes up to the next power of two
            width = 1 << (nodes - 1).bit_length()
        more = width - nodes
        cache.reserve(cache.filled + width)
        seen = cache.keys.shape[3] if self._compiled else cache.filled + width
        logits, states = self._run_tree(
            F.pad(tokens, (0, more)),
            *(cache.keys, cache.values, cache.position, cache.row, seen),
            F.pad(trees.depth, (0, more)),
            # whoever sees nothing would come out as NaN
            F.pad(trees.sees, (0, more, 0, more)) | torch.eye(width, device=tokens.device).bool(),
        )
        if self._compiled and logits.is_cuda:
            logits, states = logits.clone(), states.clone()
        return logits[:, :nodes], states[:, :nodes]

    def _forward(self, tokens: Tensor, keys: Tensor, values: Tensor, *rest: Any) -> Tensor:
        return self._logits(self._layers(tokens[:, None], keys, values, *rest)[:, -1])[0]

    def _forward_tree(self, tokens: Tensor, keys: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return self._logits(self._layers(tokens, keys, *rest))

    def _logits(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the normed states that the head reads."""
        read = self._norm(state, self.llama.norm)
        return self._head(read).float(), read.float()

    def _layers(
        self,
        tokens: Tensor,
        keys: Tensor,
        values: Tensor,
        start: Tensor,
        row: Tensor,
        seen: int,
        depth: Tensor | None = None,
        sees: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) before the last norm, of T tokens that follow the first `start` (B,) positions;
        `seen` positions of the cache hold all that may be looked at. Tokens follow one another, or,
        with `depth` (B, T) and `sees` (B, T, T), stand in trees."""
        llama = self.llama
        count = tokens.shape[1]
        place = start[:, None] + torch.arange(count, device=tokens.device)
        position, here = place, torch.arange(seen, device=tokens.device)
        visible = here <= place[:, None, :, None]
        if depth is not None and sees is not None:
            position = start[:, None] + depth
            before = (here < start[:, None, None]).expand(-1, count, -1)
            visible = before.scatter(2, place[:, None].expand_as(sees), sees)[:, None]
        cosine, sine = self._cosine[position][:, :, None], self._sine[position][:, :, None]
        x = F.embedding(tokens, llama.embedding)
        if llama.embedding_scale != 1.0:
            x = x * llama.embedding_scale
        x = x.to(self.dtype)
        for index, (block, qkv, out, gate_up, down) in enumerate(self._blocks):
            q, k, v = self._projected(block, qkv, self._norm(x, block.norm), cosine, sine)
            keys[index, row[:, None], :, place] = k
            values[index, row[:, None], :, place] = v
            attended = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                keys[index, :, :, :seen],
                values[index, :, :, :seen],
                attn_mask=visible,
                enable_gqa=llama.heads != llama.kv_heads,
            )
            x = x + out(attended.transpose(1, 2).flatten(2))
            gate, up = gate_up(self._norm(x, block.norm_mlp)).chunk(2, dim=-1)
            x = x + down(self._activation(gate) * up)
        return x

    def _projected(
        self, block: Block, qkv: _Linear, x: Tensor, cosine: Tensor, sine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, T, heads, head size), the former two rotated."""
        llama = self.llama
        heads = qkv(x).unflatten(-1, (-1, llama.head_size))
        q, k, v = heads.split((llama.heads, llama.kv_heads, llama.kv_heads), dim=2)
        if block.norm_q is not None and block.norm_k is not None:
            q, k = self._norm(q, block.norm_q), self._norm(k, block.norm_k)
        half = llama.head_size // 2

        def rotated(y: Tensor) -> Tensor:
            turned = torch.cat((-y[..., half:], y[..., :half]), dim=-1)
            return y * cosine + turned * sine

        return rotated(q), rotated(k), v

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.llama.epsilon)
        return (wide * weight).to(x.dtype)
