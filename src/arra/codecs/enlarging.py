"""A codec of small pictures made into one of larger pictures, with the same codes.

A language model that draws has learnt what codes mean. To move it to larger pictures, its codec
must go on to mean the same by them: only how a code is painted may change.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from arra.codecs.quantized import QuantizedCodec
from arra.errors import InputError

_FIRST, _LAST = "encoder.layers.1", "decoder.layers.{}"


def enlarged(codec: QuantizedCodec, factor: int) -> QuantizedCodec:
    """A codec for pictures `factor` times as large, on the same grid with the same codes.

    It encodes a picture as `codec` does the picture shrunk by averaging, and paints what `codec`
    paints with every pixel repeated, up to rounding; training its decoder then adds detail. Raises
    `InputError` for a codec without the "patch" stem, whose first and last layer are all that
    knows of pixels.
    """
    config = codec.config
    if config.autoencoder.stem != "patch" or not hasattr(codec.decoder, "layers"):
        raise InputError("enlarged: expected a codec with the 'patch' stem, and not a binary one")
    if factor < 1:
        raise InputError(f"enlarged: factor {factor}, expected 1 or more")
    autoencoder = replace(config.autoencoder, downsample=codec.downsample * factor)
    larger = type(codec).seeded(replace(config, autoencoder=autoencoder), 0)
    last = _LAST.format(len(codec.decoder.layers) - 2)
    weights = dict(codec.state_dict())
    # a mean over factor x factor pixels, then the old map
    first = f"{_FIRST}.weight"
    weights[first] = _spread(weights[first].movedim(1, 0), codec, factor).movedim(0, 1) / factor**2
    for name in (f"{last}.weight", f"{last}.bias"):
        weights[name] = _spread(weights[name], codec, factor)
    larger.load_state_dict(weights)
    return larger.to(codec.device).eval()


def _spread(rows: Tensor, codec: QuantizedCodec, factor: int) -> Tensor:
    """Rows for the pixels (C, r, r) of a patch, each repeated for the pixels that replace it."""
    side = codec.downsample
    patch = rows.reshape(codec.channels, side, side, *rows.shape[1:])
    return patch.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten(0, 2)


def freeze_codes(codec: QuantizedCodec) -> None:
    """Let training change only how codes are painted: encoder and quantiser stay as they are.

    The quantiser must not move unused codes on its own: `VQConfig.dead_below` is 0 then.
    """
    if getattr(codec.config, "dead_below", 0):
        raise InputError("freeze_codes: VQConfig.dead_below moves codes, set it to 0")
    codec.requires_grad_(False)
    codec.decoder.requires_grad_(True)
