"""What a Hugging Face causal language model must tell: its blocks, head and hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from arra.errors import InputError
from arra.settings import LlamaSize

IMAGE_NATIVE = frozenset({"chameleon", "emu3", "janus"})
"""Model types of transformers that draw by themselves: codec, picture tokens and language model in
one. Their class with all of it stands under `AutoModelForImageTextToText`."""


def auto_class(config: PreTrainedConfig) -> Any:
    """The class of transformers that makes and loads the language model of a configuration."""
    native = config.model_type in IMAGE_NATIVE
    return AutoModelForImageTextToText if native else AutoModelForCausalLM


def causal_lm_of(settings: dict[str, Any]) -> PreTrainedModel:
    """A language model with random weights of a configuration as its `to_dict` gives it."""
    settings = dict(settings)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    return auto_class(config).from_config(config)


def llama_config(size: LlamaSize, rows: int, **tokens: Any) -> LlamaConfig:
    """A Llama of `size` with `rows` token ids; `tokens` name its control tokens."""
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.positions,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        tie_word_embeddings=size.tied,
        **tokens,
    )


def load_causal_lm(name: str | Path, **options: Any) -> PreTrainedModel:
    """`AutoModelForCausalLM.from_pretrained` (of an image-native model: the class that has all of
    it), with weights where arithmetic expects them.

    transformers maps the file into memory, so that weights begin at addresses that depend on the
    length of its header; some CPU kernels then add in another order. Copies begin at aligned
    addresses, as those of a model made from scratch do: the same weights give the same bits.
    """
    lm = auto_class(AutoConfig.from_pretrained(name)).from_pretrained(name, **options)
    for parameter in lm.parameters():
        parameter.data = parameter.data.clone()
    return lm


def decoder_blocks(lm: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of a causal language model, in order.

    They are found as the one `ModuleList` that has `num_hidden_layers` entries in the text decoder.
    """
    config = lm.config.get_text_config()
    depth = config.num_hidden_layers
    decoder = lm.get_decoder() if hasattr(lm, "get_decoder") else lm.base_model
    found = [
        module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not found:
        raise InputError(f"{type(lm).__name__}: no list of its {depth} decoder blocks was found")
    return found[0]


def embedding_table(lm: PreTrainedModel) -> nn.Parameter:
    """(rows, D) the input embedding; it has room for as many token ids as rows."""
    table = lm.get_input_embeddings().weight
    assert isinstance(table, nn.Parameter)
    return table


_NOTES = frozenset({"transformers_version", "_name_or_path", "architectures", "dtype"})


def model_settings(lm: PreTrainedModel) -> dict[str, Any]:
    """The configuration that, beside the weights, says what the model computes (dropout, too).

    Without what transformers notes in it: versions, file names and types of the last saving; and
    without what has its default value, so that a release with a new field makes no other model.
    """

    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {str(name): kept(item) for name, item in value.items() if name not in _NOTES}

    return kept(lm.config.to_diff_dict())


def check_layers(layers: Sequence[int], depth: int) -> None:
    """`InputError` unless all of `layers` are of 1 to `depth`."""
    for layer in layers:
        if not 1 <= layer <= depth:
            raise InputError(f"layer {layer}: expected 1 to {depth}, the number of blocks")


@contextmanager
def hidden_states(lm: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Within the block, forward passes fill the yielded dictionary: layer -> (B, T, D).

    Layer 1 is the output of the first decoder block (the embeddings would be layer 0); the last
    layer is given before the final norm. Only what is asked for is kept.
    """
    blocks = decoder_blocks(lm)
    check_layers(layers, len(blocks))
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple, Tensor | tuple], None]:
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[layer - 1].register_forward_hook(keep(layer)) for layer in set(layers)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


class _Reached(Exception):
    """Ends a forward pass from within: the last block that somebody asked for has run."""


def early_states(lm: PreTrainedModel, layers: Sequence[int], **inputs: Any) -> dict[int, Tensor]:
    """The hidden states after blocks `layers` of a forward pass over `inputs` that ends there.

    The same states and gradients as of a whole pass (`hidden_states`), without the cost of the
    blocks beyond the last of `layers` and of the head.
    """

    def stop(module: nn.Module, arguments: tuple, output: Tensor | tuple) -> None:
        raise _Reached

    with hidden_states(lm, layers) as states:
        # hooks run in the order in which they were registered: the state is kept by then
        handle = decoder_blocks(lm)[max(layers) - 1].register_forward_hook(stop)
        try:
            lm.get_decoder()(**inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
    return states


def compile_blocks(lm: PreTrainedModel) -> None:
    """Compile the training pass of every decoder block; equal blocks share the compiled code.

    The forward is replaced, not the module: hooks stay outside of the compiled region, and the
    names of the weights do not change. In evaluation mode the plain forward runs, because decoding
    with a growing cache would compile every length anew.
    """
    for block in decoder_blocks(lm):
        block.forward = _compiled_in_training(block)


def _compiled_in_training(block: nn.Module) -> Callable[..., Any]:
    plain = block.forward
    compiled = torch.compile(plain)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return compiled(*args, **kwargs) if block.training else plain(*args, **kwargs)

    forward.compiled = True  # type: ignore[attr-defined]
    return forward


def compiled_in_training(block: nn.Module) -> bool:
    """Whether `compile_blocks` was here, and nothing else replaced the forward since."""
    return getattr(vars(block).get("forward"), "compiled", False)


@contextmanager
def checkpointed_activations(lm: PreTrainedModel) -> Iterator[None]:
    """Within this context, training keeps only the input of each decoder block (Chen et al., 2016,
    arXiv 1604.06174) and computes the block again in the backward pass, with the same random
    numbers.

    As in `compile_blocks` only the forward is replaced, so that hooks run once, outside: hidden
    states are read as ever, and have their gradients.
    """
    blocks = decoder_blocks(lm)
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = _checkpointed_in_training(block)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _checkpointed_in_training(block: nn.Module) -> Callable[..., Any]:
    plain = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if block.training and torch.is_grad_enabled():
            return checkpoint(plain, *args, use_reentrant=False, **kwargs)
        return plain(*args, **kwargs)

    return forward


def head_logits(lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(M, V) logits of (M, D) final, normalised hidden states, with the model's own scaling."""
    head = lm.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(lm).__name__} has no output embeddings: not a language model?")
    logits = head(hidden)
    config = lm.config.get_text_config()
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / scaling
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def unbranching(lm: PreTrainedModel, longest: int) -> str:
    """Why the cache of sequences of up to `longest` positions cannot hold trees, of which one path
    is kept; empty where it can."""
    text = lm.config.get_text_config()
    if set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
        return "its blocks keep a state that cannot be taken back"
    window = getattr(text, "sliding_window", None)
    if window is not None and window < longest:
        return f"its attention may forget what lies more than {window} positions back"
    return ""


def mask_for(lm: PreTrainedModel, sees: Tensor | None) -> Tensor | None:
    """(R, L), or (R, 1, T, L) bool as the model takes it: eager attention adds the latter to its
    logits. None stays None."""
    if (
        sees is None
        or sees.ndim == 2
        or lm.config.get_text_config()._attn_implementation != "eager"
    ):
        return sees
    return torch.where(sees, 0.0, torch.finfo(lm.dtype).min).to(lm.dtype)
