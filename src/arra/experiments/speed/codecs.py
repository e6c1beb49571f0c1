"""How fast pictures become codes and codes pictures, beside the autoencoder of diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from arra.experiments.speed.counted import operations
from arra.experiments.speed.measure import Case, Contender, Work

QUESTION = "How fast do codecs and encoders read and paint pictures?"
_SEED = 0


def cases(budget: str, folder: Path) -> Iterator[Callable[[], Case]]:
    """Encoding and decoding, one picture and many; the demo's painting; a small encoder."""
    tiny = budget == "tiny"
    side, width = (16, 8) if tiny else (64, 64)
    for batch in (1, 2) if tiny else (1, 32):
        for direction in ("encode", "decode"):
            yield partial(_codec, direction, side, width, batch, not tiny)
    yield partial(_painting, 16 if tiny else 256)
    yield partial(_encoder, 16 if tiny else 64, 2 if tiny else 32, not tiny)


def _codec(direction: str, side: int, width: int, batch: int, compiled: bool) -> Case:
    """A convolutional codec of three resolutions, ours and that of diffusers."""
    import torch

    from arra.codecs.autoencoder import AutoencoderConfig
    from arra.codecs.vq import VQCodec, VQConfig

    codec = VQCodec.seeded(VQConfig(AutoencoderConfig(4, width), vocabulary=4096), _SEED).eval()
    rng = torch.Generator().manual_seed(_SEED)
    pictures = torch.rand(batch, 3, side, side, generator=rng) * 2 - 1
    codes = torch.randint(4096, (batch, side // 4, side // 4), generator=rng)
    given = pictures if direction == "encode" else codes
    ours: Callable[[Any], Any] = codec.encode if direction == "encode" else codec.decode
    work = Work(operations=operations(lambda: ours(given)))
    network = codec.encoder if direction == "encode" else codec.decoder
    contenders = [
        Contender("arra", "float32, channels last", partial(_plain, ours, given), work=work),
        _bf16("arra, bf16", codec, direction, given, work),
    ]
    if compiled:
        contenders.append(_compiled("arra, compiled", network, ours, given, work))
    peers = _diffusers(direction, width, given, compiled)
    return Case(
        f"{direction} {batch} picture{'s' * (batch > 1)} of {side} x {side}",
        "picture",
        batch,
        (*contenders, *peers),
        peers=tuple(peer.name for peer in peers),
        note="Three resolutions of two residual blocks (three in the decoder), 4096 codes of 8 "
        "numbers. diffusers' VQModel is built of the same blocks, without its middle block, which "
        "ours lacks; its last convolution before the codes is 3 x 3 where ours is 1 x 1."
        if peers
        else "diffusers is not installed, so that there is no peer.",
    )


def _through() -> Any:
    """A module that gives back its first argument."""
    from torch import nn

    class Through(nn.Module):
        def forward(self, sample: Any, *_: Any) -> Any:
            return sample

    return Through()


def _plain(call: Callable[[Any], Any], given: Any) -> Any:
    import torch

    with torch.inference_mode():
        return call(given)


def _bf16(name: str, codec: Any, direction: str, given: Any, work: Work) -> Contender:
    """Networks in bf16, the choice of codes in float32."""
    from arra.precision import autocast

    def run(given: Any) -> Any:
        with autocast(codec.device, True):
            if direction == "decode":
                return codec.decode(given).float()
            latents = codec.encoder(given)
        return codec.nearest(latents.float())

    def facts() -> Mapping[str, float]:
        exact = _plain(codec.encode if direction == "encode" else codec.decode, given)
        found = _plain(run, given)
        if direction == "encode":
            return {"same codes (%)": 100 * (exact == found).double().mean().item()}
        levels = (127.5 * (exact - found)).abs().mean()
        return {"levels of 255 apart": levels.item()}

    return Contender(name, "autocast", partial(_plain, run, given), "bf16", work, facts)


def _compiled(
    name: str, network: Any, call: Callable[[Any], Any], given: Any, work: Work | None
) -> Contender:
    """The same call with its network compiled; the original is left as it is."""
    import torch

    compiled = torch.compile(network.forward, dynamic=False)

    def run() -> Any:
        before, network.forward = network.forward, compiled
        try:
            return _plain(call, given)
        finally:
            network.forward = before

    return Contender(name, "float32, torch.compile of the network", run, work=work)


def _diffusers(direction: str, width: int, given: Any, compiled: bool) -> list[Contender]:
    """VQModel in its default layout, channels last, and compiled; none where it is missing."""
    import torch

    try:
        import diffusers  # noqa: F401
    except ImportError:
        return []
    layouts = {"": torch.contiguous_format, ", channels last": torch.channels_last}
    made = []
    for more, layout in layouts.items():
        model = _vqmodel(width).to(memory_format=layout)
        call = partial(_vqmodel_encode if direction == "encode" else _vqmodel_decode, model)
        work = Work(operations=operations(partial(call, given)))
        run = partial(_plain, call, given)
        made.append(Contender(f"diffusers{more}", f"VQModel, float32{more}", run, work=work))
    if compiled:  # the last, whose layout is the faster one
        network = model.encoder if direction == "encode" else model.decoder
        made.append(_compiled("diffusers, compiled", network, call, given, work))
    return made


def _vqmodel(width: int) -> Any:
    from diffusers import VQModel

    from arra.randomness import seeded

    with seeded(_SEED):
        made: Any = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(width,) * 3,
            layers_per_block=2,
            latent_channels=8,
            num_vq_embeddings=4096,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
    model = made.eval()
    for half in (model.encoder, model.decoder):
        half.mid_block = _through()
    return model


def _vqmodel_encode(model: Any, pictures: Any) -> Any:
    return model.quantize(model.encode(pictures).latents)[2][2]


def _vqmodel_decode(model: Any, codes: Any) -> Any:
    latents = model.quantize.get_codebook_entry(codes.flatten(), (*codes.shape, 8))
    return model.decode(latents, force_not_quantize=True).sample


def _painting(count: int) -> Case:
    """What `arra generate` does at its end: codes to bytes that do not depend on company."""
    import torch

    from arra.codecs.recipes import scene_codec
    from arra.codecs.vq import VQCodec
    from arra.pixels import to_uint8
    from arra.text_to_image import paint

    codec = VQCodec.seeded(scene_codec(), _SEED).eval()
    codes = torch.randint(1024, (count, 6, 6), generator=torch.Generator().manual_seed(_SEED))

    contenders = (
        Contender(
            "one by one",
            "a call of the decoder for each",
            lambda: [to_uint8(_plain(codec.decode, grid[None])) for grid in codes],
        ),
        Contender(
            "all at once",
            "one call: fastest, but a picture's last bit depends on how many there are",
            lambda: to_uint8(_plain(codec.decode, codes)),
        ),
        Contender(
            "arra",
            "groups of one fixed size, filled up: the same bytes in any company",
            lambda: paint(codec, codes),
        ),
    )
    return Case(
        f"the demo's codec paints {count} pictures of 24 x 24",
        "picture",
        count,
        contenders,
        peers=("one by one", "all at once"),
    )


def _encoder(side: int, batch: int, compiled: bool) -> Case:
    """The small representation encoder."""
    import torch

    from arra.encoders.preprocessing import Preprocessing
    from arra.encoders.small import SmallConfig, SmallEncoder
    from arra.precision import autocast

    encoder = SmallEncoder.seeded(SmallConfig(preprocessing=Preprocessing(size=side)), _SEED)
    pixels = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(_SEED))
    work = Work(operations=operations(lambda: encoder.encode(pixels)))

    def bf16(pixels: Any) -> Any:
        with autocast(encoder.device, True):
            return encoder.encode(pixels)

    def facts() -> Mapping[str, float]:
        exact, found = _plain(encoder.encode, pixels), _plain(bf16, pixels)
        near = torch.cosine_similarity(exact.patches, found.patches.float(), dim=-1)
        return {"smallest cosine with float32": near.min().item()}

    plain = Contender("arra", "float32", partial(_plain, encoder.encode, pixels), work=work)
    rounded = Contender(
        "arra, bf16", "autocast", partial(_plain, bf16, pixels), "bf16", work, facts
    )
    contenders = [plain, rounded]
    if compiled:
        network: Any = encoder.network
        contenders.append(_compiled("arra, compiled", network, encoder.encode, pixels, work))
    return Case(
        f"the small encoder reads {batch} pictures of {side} x {side}",
        "picture",
        batch,
        tuple(contenders),
    )
