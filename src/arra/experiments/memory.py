"""What a training step needs of a device's memory, computed before anything is bought.

Weights, gradients and optimiser states are counted. What the forward pass keeps for the backward
pass is measured: the real model, one and two blocks deep, runs with tensors that have shapes and no
memory (torch's FakeTensorMode), and every further block is as large as the second.

    python -m arra.experiments.memory --help
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import tyro

from arra.errors import InputError
from arra.files import atomic_file

GB = 1e9
CODES = 16_384  # of LlamaGen's codec
TEXT = 4_096  # tokens of a small text vocabulary
SIZES = {  # LlamaGen (arXiv 2406.06525, table 2): width, depth, heads; and Llama 2 7B
    "111M": (768, 12, 12, 2048, TEXT + CODES),
    "343M": (1024, 24, 16, 2816, TEXT + CODES),
    "775M": (1280, 36, 20, 3584, TEXT + CODES),
    "1.4B": (1536, 48, 24, 4096, TEXT + CODES),
    "3.1B": (3200, 24, 32, 8704, TEXT + CODES),
    "7B": (4096, 32, 32, 11008, 32_000 + CODES),
}


@dataclass(frozen=True)
class Plan:
    """A Llama and how it is trained."""

    width: int = 768
    """Hidden size."""
    depth: int = 12
    """Decoder blocks."""
    heads: int = 12
    """Attention heads."""
    feed_forward: int = 2048
    """Width of the SwiGLU layer."""
    vocabulary: int = TEXT + CODES
    """Text tokens and picture codes; the tables are not tied."""
    rows: int = 8
    """Sequences in a micro-batch of one process."""
    length: int = 640
    """Positions of a sequence: 24 x 24 codes and a caption."""
    accumulation: int = 1
    """Micro-batches of a step."""
    bf16: bool = True
    """Arithmetic in bf16 (weights that are trained stay in float32)."""
    activation_checkpointing: bool = False
    """Keep only the inputs of blocks."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank on all linear maps of blocks, and the rows of picture
    codes; the model itself is frozen, in bf16. 0 trains everything."""
    ema: bool = False
    """Keep an average of the weights."""
    processes: int = 1
    """Processes over which weights are sharded (FSDP2)."""

    def __post_init__(self) -> None:
        least = min(self.width, self.depth, self.heads, self.rows, self.length, self.processes)
        if least < 1 or self.width % self.heads or self.lora_rank < 0:
            raise InputError(f"{self}: expected positive numbers, heads that divide the width")


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    parameters: int
    """Number of parameters, adapters included."""
    trained: int
    """Those that are trained."""
    weights: float
    gradients: float
    optimizer: float
    """Both moments of AdamW, and the average if there is one."""
    activations: float
    """What the forward pass keeps for the backward pass, copies of weights in bf16 included."""
    block: float
    """The same, of a single block."""
    output: float
    """Logits and their logarithm in float32, and the gradients of both."""
    gathered: float = 0.0
    """Sharded only: the tables, two blocks whole, and a block's gradient."""
    waiting: bool = False
    """Whether gradients wait from the beginning of the step (for more micro-batches)."""

    @property
    def peak(self) -> float:
        """The larger of two moments: the loss, when everything is kept, and the end of the backward
        pass, when all gradients are there and the last block is computed."""
        at_loss = self.activations + self.output + (self.gradients if self.waiting else 0.0)
        at_end = self.gradients + self.block
        return self.weights + self.optimizer + self.gathered + max(at_loss, at_end)


def estimate(plan: Plan) -> Memory:
    """What one step of AdamW on `plan` needs."""
    # What the trace does not depend on is set alike, so that it is made once.
    alike = replace(plan, activation_checkpointing=False, ema=False, accumulation=1)
    alike = replace(alike, processes=min(plan.processes, 2))
    one, two = _traced(replace(alike, depth=1)), _traced(replace(alike, depth=2))
    block = {name: two[name] - one[name] for name in one}
    whole = {name: one[name] + (plan.depth - 1) * block[name] for name in one}
    new_rows = 2 * min(CODES, plan.vocabulary) * plan.width if plan.lora_rank else 0
    trained, tokens = whole["trained"] + new_rows, plan.rows * plan.length
    state = 3.0 if plan.ema else 2.0
    kept = whole["kept"]
    if plan.activation_checkpointing:
        # The stream between blocks; what stands behind them; autocast's copies, for the forward.
        stream = 4 if plan.bf16 and not plan.lora_rank and plan.processes == 1 else _size(plan)
        kept = one["kept"] - block["kept"] + plan.depth * tokens * plan.width * stream
        if plan.bf16 and plan.processes == 1:
            kept += plan.depth * block["trained"] * 2
    gathered = 0.0
    if plan.processes > 1:
        rest = one["parameters"] - block["parameters"]  # tables, head, norm
        gathered = (2 * rest + 3 * block["parameters"]) * _size(plan)
    return Memory(
        parameters=whole["parameters"] + new_rows,
        trained=trained,
        weights=(whole["frozen"] * 2 + trained * 4) / plan.processes,
        gradients=trained * 4 / plan.processes,
        optimizer=trained * 4 * state / plan.processes,
        activations=kept,
        block=block["kept"],
        output=4.0 * tokens * plan.vocabulary * 4,
        gathered=gathered,
        waiting=plan.accumulation > 1,
    )


def _size(plan: Plan) -> int:
    return 2 if plan.bf16 else 4


@cache
def _traced(plan: Plan) -> dict[str, int]:
    """Parameters, and bytes kept for the backward pass, of a model of `plan.depth` blocks."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM, LlamaConfig

    from arra.precision import autocast

    config = LlamaConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.width,
        intermediate_size=plan.feed_forward,
        num_hidden_layers=plan.depth,
        num_attention_heads=plan.heads,
        max_position_embeddings=plan.length,
    )
    kept: dict[int, tuple[Any, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage, storage.nbytes())  # held, so that no other takes its name
        return tensor

    with FakeTensorMode():
        half = plan.lora_rank or (plan.bf16 and plan.processes > 1)  # frozen, or gathered so
        dtype = torch.bfloat16 if half else torch.float32
        lm = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if plan.lora_rank:
            lm.requires_grad_(False)
            for block in lm.model.layers:
                _adapt(block, plan.lora_rank)
        parameters = list(lm.parameters())
        own = {p.untyped_storage()._cdata for p in parameters}
        tokens = torch.zeros(plan.rows, plan.length, dtype=torch.int64)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, autocast(torch.device("cpu"), plan.bf16):
            final = lm.model(input_ids=tokens, use_cache=False).last_hidden_state
            lm.lm_head(final)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return {
            "parameters": sum(p.numel() for p in parameters),
            "trained": trained,
            "frozen": sum(p.numel() for p in parameters) - trained,
            "kept": sum(size for name, (_, size) in kept.items() if name not in own),
        }


def _adapt(block: Any, rank: int) -> None:
    """Give every linear map of a block a low-rank adapter (LoRA, arXiv 2106.09685), in float32."""
    from torch import nn

    class Adapted(nn.Module):
        def __init__(self, linear: nn.Linear):
            super().__init__()
            self.linear = linear
            self.down = nn.Linear(linear.in_features, rank, bias=False)
            self.up = nn.Linear(rank, linear.out_features, bias=False)

        def forward(self, x: Any) -> Any:
            return self.linear(x) + self.up(self.down(x))

    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Linear):
            block.set_submodule(name, Adapted(module))


_PAGE = """# What fits where

This page is computed by `python -m arra.experiments.memory --page-to docs/memory.md`;
do not edit it. For a model and a batch of your own: `python -m arra.experiments.memory --help`.

GB (10⁹ bytes) of one device for a step of AdamW in bf16 arithmetic, weights that are trained in
float32, 8 sequences of 640 positions (24 × 24 codes and a caption) in a micro-batch, one
micro-batch a step. *activations* are what the forward pass keeps, with the logits and their
gradients. *peak* is the larger of two moments, the loss and the end of the backward pass;
*checkpointed* is the peak with `--activation-checkpointing`, and *over 8* with weights, gradients
and optimiser sharded over 8 devices (FSDP2), each with its own 8 sequences. Projectors, the
encoder's features and the allocator's fragmentation are not in it: leave a tenth free. Sizes up to
3.1B are LlamaGen's, with 4,096 text tokens and 16,384 picture codes in tables that are not tied; 7B
is Llama 2 with 32,000 text tokens.

Computed, not measured on a GPU. On a small model the peak is within 5 % of what torch counts in a
real step on a CPU (`tests/test_memory.py`: float32 and bf16, with and without checkpointing).

"""


def page() -> str:
    """The page of the documentation."""
    return _PAGE + table()


def table(rows: int = 8, length: int = 640) -> str:
    """Markdown: every size with AdamW in bf16, whole and sharded over 8, without and with
    activation checkpointing; and 7B with LoRA."""
    head = ("model", "trained", "weights", "gradients", "optimiser", "activations", "peak",
            "checkpointed", "checkpointed, over 8")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for name, (width, depth, heads, feed_forward, vocabulary) in SIZES.items():
        plan = Plan(width, depth, heads, feed_forward, vocabulary, rows, length)
        lines.append(_line(name, plan))
    lines.append(_line("7B, LoRA of rank 16", replace(plan, lora_rank=16)))
    lines.append(_line("7B, LoRA, one row", replace(plan, lora_rank=16, rows=1)))
    return "\n".join(lines) + "\n"


def _line(name: str, plan: Plan) -> str:
    memory = estimate(plan)
    less = replace(plan, activation_checkpointing=True)
    kept = memory.activations + memory.output
    totals = [memory, estimate(less), estimate(replace(less, processes=8))]
    parts = [memory.weights, memory.gradients, memory.optimizer, kept, *(m.peak for m in totals)]
    numbers = [f"{memory.trained / 1e6:,.0f} M", *(f"{part / GB:.1f}" for part in parts)]
    return f"| {name} | " + " | ".join(numbers) + " |"


def main(plan: Plan = Plan(), page_to: Path | None = None) -> None:
    """Print what a plan needs of one device, in GB.

    Args:
        plan: The model and its training.
        page_to: Write the page with the table of all sizes to this Markdown file instead.
    """
    if page_to is not None:
        with atomic_file(page_to) as temporary:
            temporary.write_text(page(), encoding="utf-8")
        return
    memory = estimate(plan)
    print(f"parameters {memory.parameters:,}, trained {memory.trained:,}")
    for name in ("weights", "gradients", "optimizer", "activations", "output", "gathered", "peak"):
        print(f"{name:<12}{getattr(memory, name) / GB:8.2f} GB")


if __name__ == "__main__":
    tyro.cli(main)
