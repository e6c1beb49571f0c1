"""The decoder on a CPU: one call of our own kernels for each token (native.cpp)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arra.networks.decoding.building import library
from arra.networks.decoding.llama import Llama, Unsupported, Weights, quantised
from arra.orders.trees import Trees
from arra.settings import Precision, SamplingConfig

LANES, PANEL = 16, 32
_PRECISIONS: dict[Precision, int] = {"fp32": 0, "bf16": 1, "int8": 2}
_NOTHING = torch.empty(0, dtype=torch.int64)
_CHUNK = 256  # tokens of prompts that are read at once: bounds the room for what is between


class _Linear(Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int32),
        ("panels", c_int32),
    ]


class _Layer(Structure):
    _fields_ = [
        *((name, _Linear) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_void_p) for name in ("norm", "norm_mlp", "norm_q", "norm_k")),
    ]


class _Model(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        ("head", _Linear),
        *((name, c_void_p) for name in ("embedding", "norm", "cosine", "sine")),
        *((name, c_int32) for name in ("depth", "width", "heads", "kv_heads", "head_size")),
        *((name, c_int32) for name in ("feed_forward", "precision", "gelu")),
        *((name, c_float) for name in ("epsilon", "embedding_scale")),
    ]


class _Cache(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("keys", "values")),
        *((name, c_int32) for name in ("slots", "capacity")),
    ]


class _Tree(Structure):
    _fields_ = [*((name, c_void_p) for name in ("starts", "places", "sees")), ("nodes", c_int32)]


class _Choice(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("conditional", "unconditional", "top_k")),
        *((name, c_float) for name in ("scale", "temperature", "top_p")),
    ]


@dataclass(frozen=True)
class _Tokens:
    """Tokens that are read in one pass."""

    ids: list[int]
    slots: list[int]
    places: list[int]
    """The position of each in its slot."""
    ends: list[int]
    """Which of them logits are wanted after."""
    rows: list[int]
    """Where these go."""

    @classmethod
    def of(cls, prompts: Mapping[tuple[int, ...], int]) -> _Tokens:
        """Whole prompts, each in a slot."""
        return cls(
            [token for prompt in prompts for token in prompt],
            [slot for prompt, slot in prompts.items() for _ in prompt],
            [place for prompt in prompts for place in range(len(prompt))],
            [end - 1 for end in accumulate(map(len, prompts))],
            list(range(len(prompts))),
        )

    def split(self, count: int) -> tuple[_Tokens, _Tokens]:
        """The first `count` of them, and the others."""
        done = sum(end < count for end in self.ends)
        now, later = slice(None, count), slice(count, None)
        left = [end - count for end in self.ends[done:]]
        return (
            _Tokens(
                self.ids[now], self.slots[now], self.places[now], self.ends[:done], self.rows[:done]
            ),
            _Tokens(self.ids[later], self.slots[later], self.places[later], left, self.rows[done:]),
        )


class NativeCache:
    """Keys and values of some slots, and where each goes on."""

    def __init__(self, llama: Llama, slots: int, capacity: int, dtype: torch.dtype):
        blocks, shape = -(-capacity // LANES), (len(llama.blocks), slots, llama.kv_heads)
        self.keys = torch.zeros(*shape, blocks, llama.head_size, LANES, dtype=dtype)
        self.values = torch.zeros(*shape, blocks * LANES, llama.head_size, dtype=dtype)
        self.position = torch.zeros(slots, dtype=torch.int32)
        """(slots,) int32: how many positions of each slot are filled."""
        self.state: Tensor | None = None
        """(slots, D) what the head read after the prompts, of rows as they were then."""
        self._placed()

    def _placed(self) -> None:
        """Tell the kernels where keys and values lie now."""
        slots, capacity = len(self.position), self.values.shape[3]
        self.slot = torch.arange(slots, dtype=torch.int32)
        self.plain = _Cache(self.keys.data_ptr(), self.values.data_ptr(), slots, capacity)

    # ---- trees: a cache of all rows, each in the slot of its number ------------------------------

    @property
    def rows(self) -> int:
        """How many slots there are."""
        return len(self.position)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.position.device

    def reserve(self, positions: int) -> None:
        """Have room for so many positions in each slot."""
        if (missing := positions - self.values.shape[3]) <= 0:
            return
        blocks = -(-missing // LANES) + 4  # some more, so that it does not grow in every pass
        self.keys = F.pad(self.keys, (0, 0, 0, 0, 0, blocks))
        self.values = F.pad(self.values, (0, 0, 0, blocks * LANES))
        self._placed()

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.position = self.position[rows]
        self._placed()

    def keep(self, kept: Tensor) -> None:
        """Of the tree that was read last keep the `kept` (B, T) bool, each row's in their order,
        and forget the others."""
        row, node = kept.nonzero(as_tuple=True)
        rank = kept.cumsum(dim=1)[row, node] - 1
        moved = node != rank
        row, start = row[moved], self.position[row[moved]]
        source, target = start + node[moved], start + rank[moved]
        self.values[:, row, :, target] = self.values[:, row, :, source]
        block, lane = target // LANES, target % LANES
        self.keys[:, row, :, block, :, lane] = self.keys[
            :, row, :, source // LANES, :, source % LANES
        ]
        self.position += kept.sum(dim=1, dtype=torch.int32)

    def take_back(self, counts: Tensor) -> None:
        """Forget the last `counts` (B,) of each row's positions."""
        self.position -= counts.to(torch.int32)

    # ---- slots, one by one -----------------------------------------------------------------------

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Slot `targets[i]` becomes what slot `sources[i]` is; no source is a target of another."""
        pairs = [(s, t) for s, t in zip(sources, targets, strict=True) if s != t]
        if not pairs:
            return
        source, target = torch.tensor(pairs).T
        longest = int(self.position[source].max())
        blocks = -(-longest // LANES)
        self.position[target] = self.position[source]
        self.keys[:, target, :, :blocks] = self.keys[:, source, :, :blocks]
        self.values[:, target, :, :longest] = self.values[:, source, :, :longest]

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first `length` positions of a slot."""
        self.position[slot] = length


class NativeDecoder:
    """A Llama-like decoder whose weights lie as the kernels read them.

    A row's logits do not depend, to the last bit, on the rows beside it, on how its prompt was
    split, or on the number of threads.
    """

    scattered = True
    """Any slots can go on together, in any order."""

    def __init__(self, llama: Llama, precision: Precision, positions: int):
        """`positions` is the longest sequence; `Unsupported` for shapes that kernels do not take,
        or where they cannot be built."""
        if llama.head_size % LANES or llama.width % 2 or llama.feed_forward % 2:
            raise Unsupported(f"heads of {llama.head_size}, expected a multiple of {LANES}")
        self._library = library()
        self.llama, self.precision, self.codes = llama, precision, len(llama.head.weight)
        self._kept: list[Any] = []
        cosine, sine = llama.rotation(positions)
        layers = (_Layer * len(llama.blocks))(*(self._layer(block) for block in llama.blocks))
        self._model = _Model(
            layers,
            self._linear(llama.head),
            *(self._keep(x) for x in (llama.embedding, llama.norm, cosine, sine)),
            *(len(llama.blocks), llama.width, llama.heads, llama.kv_heads, llama.head_size),
            *(llama.feed_forward, _PRECISIONS[precision], int(llama.gelu)),
            *(llama.epsilon, llama.embedding_scale),
        )
        self._kept.append(layers)

    # ---- weights ---------------------------------------------------------------------------------

    def _layer(self, block: Any) -> _Layer:
        gate, up = (_panels(x.weight) for x in (block.gate, block.up))
        both = torch.stack((gate, up), dim=1).flatten(0, 1)
        bias = None
        if block.gate.bias is not None:
            sides = [_panels(x.bias[:, None])[..., 0] for x in (block.gate, block.up)]
            bias = torch.stack(sides, dim=1).flatten()
        return _Layer(
            self._linear(block.qkv),
            self._linear(block.out),
            self._packed(both, bias),
            self._linear(block.down),
            *(None if x is None else self._keep(x) for x in _norms(block)),
        )

    def _linear(self, linear: Weights) -> _Linear:
        bias = None if linear.bias is None else _panels(linear.bias[:, None]).flatten()
        return self._packed(_panels(linear.weight), bias)

    def _packed(self, panels: Tensor, bias: Tensor | None) -> _Linear:
        """Panels (P, PANEL, K) in the order in which they are read."""
        count, _, inputs = panels.shape
        scale = None
        if self.precision == "fp32":
            weight = panels.transpose(1, 2)
        else:
            if self.precision == "int8":
                flat, scale = quantised(panels.flatten(0, 1))
                panels = flat.view_as(panels)
            else:
                panels = panels.bfloat16()
            weight = panels.view(count, PANEL, inputs // 2, 2).transpose(1, 2)
        scales = None if scale is None else self._keep(scale)
        biases = None if bias is None else self._keep(bias)
        return _Linear(self._keep(weight), scales, biases, inputs, count)

    def _keep(self, tensor: Tensor) -> int:
        """The address of a contiguous tensor that lives as long as the decoder."""
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    # ---- decoding --------------------------------------------------------------------------------

    def prefill(self, prompts: Sequence[Sequence[int]], length: int) -> tuple[Tensor, NativeCache]:
        """Logits (B, codes) after the prompts, and a cache with room for `length` positions.

        Every different prompt is read once, whatever the number of rows that begin with it.
        """
        cache = self.room(len(prompts), length)
        logits, cache.state = self._advance(_NOTHING, cache, (), prompts, range(len(prompts)))
        return logits, cache

    def room(self, slots: int, length: int) -> NativeCache:
        """A cache of so many empty slots, of `length` positions each."""
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        return NativeCache(self.llama, slots, length, dtype)

    def read(
        self, prompts: Sequence[Sequence[int]], cache: NativeCache, slots: Sequence[int]
    ) -> Tensor:
        """Logits (n, codes) after these prompts, each from the beginning of one of the slots.

        Every different prompt is read once.
        """
        return self.advance(_NOTHING, cache, (), prompts, slots)

    def step(self, tokens: Tensor, cache: NativeCache) -> Tensor:
        """Logits (B, codes) after one more token (B,) int64 of each row."""
        logits = torch.empty(len(tokens), self.codes)
        self._forward(cache, tokens, cache.slot, cache.position, cache.slot, logits)
        cache.position += 1
        return logits

    def step_tree(self, tokens: Tensor, trees: Trees, cache: NativeCache) -> tuple[Tensor, Tensor]:
        """Logits (B, T, codes) after every node of a tree in each row, of tokens (B, T), and what
        the head read (B, T, D); of padding they are 0. `cache.keep` says which nodes stay."""
        row, node = (x.to(torch.int32) for x in trees.real.nonzero(as_tuple=True))
        starts = cache.position[row]
        cache.reserve(int(cache.position.max()) + trees.real.shape[1])
        places, positions = starts + node, starts + trees.depth[trees.real].to(torch.int32)
        sees = trees.sees[trees.real].to(torch.uint8).contiguous()
        tree = _Tree(*(x.data_ptr() for x in (starts, places, sees)), sees.shape[1])
        logits = torch.empty(len(row), self.codes)
        states = torch.empty(len(row), self.llama.width)
        wanted = torch.arange(len(row), dtype=torch.int32)
        self._forward(
            cache, tokens[trees.real], row, positions, wanted, logits, states=states, tree=tree
        )
        spread = logits.new_zeros(*tokens.shape, self.codes)
        spread[trees.real] = logits
        read = states.new_zeros(*tokens.shape, self.llama.width)
        read[trees.real] = states
        return spread, read

    def advance(
        self,
        tokens: Tensor,
        cache: NativeCache,
        slots: Sequence[int] | Tensor,
        prompts: Sequence[Sequence[int]],
        places: Sequence[int],
    ) -> Tensor:
        """Logits (n + m, codes) of one pass: after one more token (n,) of each of `slots`, and
        after m prompts, each read into one of `places`; equal prompts are read once.

        Prompts that are long together take further passes before.
        """
        return self._advance(tokens, cache, slots, prompts, places)[0]

    def _advance(
        self,
        tokens: Tensor,
        cache: NativeCache,
        slots: Sequence[int] | Tensor,
        prompts: Sequence[Sequence[int]],
        places: Sequence[int],
    ) -> tuple[Tensor, Tensor | None]:
        """`advance`, and, where prompts are read, what the head read for all (n + m, D)."""
        chosen = torch.as_tensor(slots, dtype=torch.int32)
        going, position = len(chosen), cache.position[chosen]
        if not prompts:
            logits = torch.empty(going, self.codes)
            self._forward(cache, tokens, chosen, position, cache.slot[:going], logits)
            cache.position[chosen] = position + 1
            return logits, None
        first: dict[tuple[int, ...], int] = {}
        source = [first.setdefault(tuple(p), s) for p, s in zip(prompts, places, strict=True)]
        new = _Tokens.of(first)
        found = torch.empty(going + len(first), self.codes)
        states = torch.empty(going + len(first), self.llama.width)
        while len(new.ids) > _CHUNK:
            part, new = new.split(_CHUNK)
            self._forward_tokens(cache, part, found[going:], states[going:])
        rest = _Tokens(
            tokens.tolist() + new.ids,
            chosen.tolist() + new.slots,
            position.tolist() + new.places,
            list(range(going)) + [going + row for row in new.ends],
            list(range(going)) + [going + row for row in new.rows],
        )
        self._forward_tokens(cache, rest, found, states)
        cache.position[chosen] = position + 1
        for prompt, slot in first.items():
            cache.position[slot] = len(prompt)
        cache.copy(source, places)
        row_of = {slot: going + row for row, slot in enumerate(first.values())}
        order = [*range(going), *(row_of[slot] for slot in source)]
        return found[order], states[order]

    def _forward_tokens(
        self, cache: NativeCache, tokens: _Tokens, found: Tensor, states: Tensor
    ) -> None:
        """Read tokens, and put the logits after those that end something into their rows, and what
        the head read for them."""
        slots, places, ends = (
            torch.tensor(x, dtype=torch.int32) for x in (tokens.slots, tokens.places, tokens.ends)
        )
        logits = torch.empty(len(tokens.ends), self.codes)
        read = torch.empty(len(tokens.ends), self.llama.width)
        self._forward(cache, torch.tensor(tokens.ids), slots, places, ends, logits, states=read)
        found[tokens.rows], states[tokens.rows] = logits, read

    def _forward(
        self,
        cache: NativeCache,
        tokens: Tensor,
        slots: Tensor,
        positions: Tensor,
        wanted: Tensor,
        logits: Tensor,
        *,
        states: Tensor | None = None,
        tree: _Tree | None = None,
    ) -> None:
        self._library.arra_forward(
            byref(self._model),
            byref(cache.plain),
            len(tokens),
            *(c_void_p(x.data_ptr()) for x in (tokens, slots, positions, wanted)),
            len(wanted),
            None if tree is None else byref(tree),
            c_void_p(logits.data_ptr()),
            self.codes,
            None if states is None else c_void_p(states.data_ptr()),
            torch.get_num_threads(),
        )

    def choose(self, logits: Tensor, scale: float, config: SamplingConfig, race: Tensor) -> Tensor:
        """(B,) int64: guidance of this scale, the law of `config`, and one draw from it by an
        exponential race (B, codes).

        `logits` are (2 B, codes) where guided, else (B, codes), contiguous float32.
        """
        return self._drawn(logits, _alike(len(race), scale, config), race)

    def choices(self, choices: Sequence[tuple[int, int, float, SamplingConfig]]) -> Any:
        """How pictures are drawn, each in its own way, for `choose_each`: the row of its logits,
        that of those without caption (-1: no guidance), the scale of guidance, and the rest."""
        return (_Choice * len(choices))(
            *(
                _Choice(conditional, unconditional, c.top_k, scale, c.temperature, c.top_p)
                for conditional, unconditional, scale, c in choices
            )
        )

    def choose_each(self, logits: Tensor, choices: Any, race: Tensor) -> Tensor:
        """As `choose`, each picture as `choices` says."""
        return self._drawn(logits, choices, race)

    def _drawn(self, logits: Tensor, choices: Any, race: Tensor) -> Tensor:
        drawn = torch.empty(len(race), dtype=torch.int64)
        self._library.arra_choose(
            c_void_p(logits.data_ptr()),
            len(race),
            self.codes,
            choices,
            c_void_p(race.data_ptr()),
            c_void_p(drawn.data_ptr()),
            torch.get_num_threads(),
        )
        return drawn


@lru_cache(maxsize=512)
def _alike(rows: int, scale: float, config: SamplingConfig) -> Any:
    """Choices of pictures that are drawn alike, the guided ones' second halves behind the first."""
    c, gap = config, rows if config.guided else -1
    pairs = [(row, row + gap if gap > 0 else -1) for row in range(rows)]
    return (_Choice * rows)(
        *(_Choice(*pair, c.top_k, scale, c.temperature, c.top_p) for pair in pairs)
    )


def _norms(block: Any) -> tuple[Tensor | None, ...]:
    return block.norm, block.norm_mlp, block.norm_q, block.norm_k


def _panels(weight: Tensor) -> Tensor:
    """(N, K) as (P, PANEL, K), outputs that are missing in the last panel zero."""
    missing = -len(weight) % PANEL
    return torch.nn.functional.pad(weight, (0, 0, 0, missing)).view(-1, PANEL, weight.shape[1])
