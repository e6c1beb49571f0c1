"""Codecs: the contract of every registered one, and facts about quantisers, losses and training."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.codecs import LFQCodec, LFQConfig, VQCodec, VQConfig
from arra.codecs.autoencoder import AutoencoderConfig, Decoder, Encoder
from arra.codecs.base import Codec
from arra.codecs.lfq import mean_law
from arra.codecs.losses import (
    Adversary,
    PatchDiscriminator,
    RandomFeatures,
    ReconstructionConfig,
    ReconstructionLoss,
    hinge_loss,
    perceptual_distance,
)
from arra.codecs.measuring import evaluate_codec
from arra.codecs.quantized import AutoencodedCodec, most_similar
from arra.codecs.recipes import scene_codec, scene_codec_lookup_free, scene_training
from arra.codecs.training import CodecTraining, bf16_is_faster, train_codec
from arra.errors import InputError, TrainingDiverged
from arra.pixels import to_unit
from arra.registry import codecs

# Those whose extra is installed.
NAMES = [name for name in list(codecs) if all(map(find_spec, codecs[name].needs))]
# Those of image-native language models come trained, and stay as they are.
OURS = [name for name in NAMES if issubclass(codecs[name], AutoencodedCodec)]
# A code for each square of pixels.
GRIDS = [name for name in NAMES if codecs[name].codes_axes == ("h", "w")]
# Those whose codes are indices, and not vectors.
INDICES = [name for name in NAMES if codecs[name].codes_axes[-1:] != ("c",)]
# Those with something to learn by gradients.
LEARNED = [name for name in NAMES if any(True for _ in codecs[name].tiny().parameters())]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(name: str, seed: int = 0) -> Any:
    return codecs[name].seeded(codecs[name].tiny().config, seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed)) * 2 - 1


def pictures_for(codec: Codec, count: int, seed: int = 0) -> Tensor:
    """Noise of the size that the codec is made for, 8 x 8 pixels if it takes any."""
    rows, columns = (8, 8) if codec.grid is None else (codec.downsample * n for n in codec.grid)
    return noise(count, codec.channels, rows, columns, seed=seed)


def simple_pictures(count: int = 48, side: int = 8) -> Tensor:
    """uint8 (count, side, side, 3): one of four colours on each half."""
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 240]])
    picks = torch.randint(4, (count, 2), generator=seeded(7))
    halves = colours[picks].to(torch.uint8)  # (count, 2, 3)
    return halves.repeat_interleave(side // 2, dim=1)[:, None].expand(-1, side, -1, -1).contiguous()


# --- the contract of every codec ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_ranges(name: str) -> None:
    codec = tiny(name).eval()
    pictures = pictures_for(codec, 3) if codec.grid else noise(3, 3, 8, 12)
    codes = codec.encode(pictures)
    if name in GRIDS:
        h, w = 8 // codec.downsample, 12 // codec.downsample
        assert codes.shape == (3, h, w)
    assert codes.ndim == 1 + len(codec.codes_axes)
    if codec.vocabulary:
        assert codes.dtype == torch.int64
        assert 0 <= int(codes.min()) <= int(codes.max()) < codec.vocabulary
    else:
        assert codes.dtype == torch.float32
        assert codes.shape[-1] == codec.dimensions > 0
    decoded = codec.decode(codes)
    assert decoded.shape == pictures.shape
    assert decoded.abs().max() <= 1
    output = codec(pictures)
    assert output.reconstruction.shape == pictures.shape
    assert torch.equal(output.codes, codes)
    torch.testing.assert_close(output.reconstruction.clamp(-1, 1), decoded)
    assert all(loss.ndim == 0 for loss in output.losses.values())


@pytest.mark.parametrize("name", GRIDS)
def test_every_code_survives_lookup_and_nearest(name: str) -> None:
    codec = tiny(name)
    codes = torch.arange(codec.vocabulary).reshape(1, 1, -1)
    assert torch.equal(codec.nearest(codec.lookup(codes)), codes)


@pytest.mark.parametrize("name", NAMES)
def test_saved_codec_gives_identical_codes(name: str, tmp_path: Path) -> None:
    codec = tiny(name)
    codec(pictures_for(codec, 2))  # leaves a trace in the usage statistics, which must be saved too
    codec.eval().save_pretrained(tmp_path / "codec")
    loaded = Codec.from_pretrained(tmp_path / "codec")
    pictures = pictures_for(codec, 4, seed=1)
    assert type(loaded) is type(codec)
    assert loaded.config == codec.config
    assert loaded.fingerprint() == codec.fingerprint()
    assert torch.equal(loaded.encode(pictures), codec.encode(pictures))
    assert torch.equal(loaded.decode(codec.encode(pictures)), codec.decode(codec.encode(pictures)))


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_and_independent_of_the_batch(name: str) -> None:
    codec = tiny(name).eval()
    pictures = pictures_for(codec, 4)
    codes = codec.encode(pictures)
    assert torch.equal(codes, codec.encode(pictures))
    alone = codec.encode(pictures[2:3])
    if codec.dimensions:  # convolutions round by the size of the batch, and no argmax takes it away
        torch.testing.assert_close(codes[2:3], alone, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(codes[2:3], alone)


@pytest.mark.parametrize("name", LEARNED)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    codec = tiny(name).train()
    output = codec(pictures_for(codec, 8))
    (output.reconstruction.square().mean() + sum(output.losses.values())).backward()
    for key, parameter in codec.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_encode_and_decode_give_no_gradient(name: str) -> None:
    codec = tiny(name)
    codes = codec.encode(pictures_for(codec, 1).requires_grad_())
    assert not codes.requires_grad
    assert not codec.decode(codes).requires_grad


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("bad", [-1, "vocabulary"])
def test_codes_out_of_range_are_refused(name: str, bad: int | str) -> None:
    codec = tiny(name)
    codes = torch.zeros_like(codec.encode(pictures_for(codec, 1)))
    codes.view(-1)[-1] = codec.vocabulary if bad == "vocabulary" else bad
    with pytest.raises(InputError, match="expected 0 to"):
        codec.decode(codes)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_are_refused(name: str) -> None:
    codec = tiny(name)
    with pytest.raises(InputError, match="multiples of"):
        codec.encode(noise(1, codec.channels, 8, 7))
    with pytest.raises(InputError, match="expected float"):
        codec.encode(torch.zeros(1, codec.channels, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="expected float"):
        codec(noise(1, codec.channels + 1, 8, 8))
    with pytest.raises(InputError, match="int64 of shape" if name in INDICES else "expected float"):
        codec.decode(torch.zeros(2, 2, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("name", [name for name in GRIDS if name in LEARNED])
def test_reconstruction_reaches_the_encoder_straight_through(name: str) -> None:
    """d reconstruction / d latents is the decoder's own gradient at the quantised latents."""
    codec = tiny(name).eval()
    latents = F.normalize(noise(1, codec.width, 2, 2), dim=1).requires_grad_()
    quantized, codes, _ = codec.quantize(latents)
    torch.testing.assert_close(quantized.detach(), codec.lookup(codes).detach())
    direction = noise(1, codec.width, 2, 2, seed=3)
    (quantized * direction).sum().backward()
    expected = direction
    if name == "binary":  # through the chance of a bit
        chance = torch.sigmoid(latents.detach())
        expected = direction * chance * (1.0 - chance)
    if name == "vq":  # the gradient passes through the normalisation of the latent
        unit = latents.detach()
        expected = direction - unit * (direction * unit).sum(dim=1, keepdim=True)
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, expected)


# --- autoencoder -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        AutoencoderConfig(8, width=4, multipliers=(1, 1, 2, 3), blocks=1, groups=2, attention=True),
        AutoencoderConfig(4, width=4, blocks=0, decoder_blocks=0, multipliers=(1, 2, 2), groups=1),
        AutoencoderConfig(6, width=4, stem="patch", kernels=(3, 1), groups=2, attention=True),
        AutoencoderConfig(1, width=4, groups=2),
    ],
)
def test_autoencoder_shapes_and_gradients(config: AutoencoderConfig) -> None:
    encoder, decoder = Encoder(config, 5), Decoder(config, 5)
    side = 24
    grid = encoder(noise(2, 3, side, side))
    assert grid.shape == (2, 5, side // config.downsample, side // config.downsample)
    pictures = decoder(grid)
    assert pictures.shape == (2, 3, side, side)
    pictures.square().mean().backward()
    for module in (encoder, decoder):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize(("downsample", "millions"), [(16, 72), (8, 70)])
def test_the_tokenizer_of_the_paper_has_its_size(downsample: int, millions: int) -> None:
    config = VQConfig(AutoencoderConfig.vqgan(downsample), vocabulary=16384, width=8)
    with torch.device("meta"):
        codec = VQCodec(config)
    count = sum(p.numel() for p in codec.parameters())
    assert round(count / 1e6) == millions


def test_the_shape_of_vqgan_attends_on_the_coarse_grid_only() -> None:
    config = AutoencoderConfig.vqgan(8, width=4)
    for network in (Encoder(config, 5), Decoder(config, 5)):
        kinds = [type(layer).__name__ for layer in network.layers]
        assert kinds.count("GridAttention") == 1 + (2 if isinstance(network, Encoder) else 3)
    x = noise(1, 3, 16, 8)
    grid = Encoder(config, 5)(x)
    assert grid.shape == (1, 5, 2, 1)
    assert Decoder(config, 5)(grid).shape == x.shape
    with pytest.raises(InputError, match="latent"):
        AutoencoderConfig(4, stem="patch", latent=8)


def test_patch_stem_is_the_strided_convolution() -> None:
    config = AutoencoderConfig(4, width=8, stem="patch")
    unshuffle, conv = Encoder(config, 3).layers[:2]
    assert isinstance(conv, nn.Conv2d)
    pictures = noise(2, 3, 8, 12)
    strided = conv.weight[:, :, 0, 0].reshape(8, 3, 4, 4)
    expected = F.conv2d(pictures, strided, conv.bias, stride=4)
    torch.testing.assert_close(conv(unshuffle(pictures)), expected)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"downsample": 6}, "downsample"),
        ({"downsample": 0, "stem": "patch"}, "downsample"),
        ({"multipliers": (1, 2)}, "multipliers"),
        ({"kernels": (2, 1)}, "kernels"),
        ({"width": 12}, "groups"),
        ({"stem": "linear"}, "stem"),
    ],
)
def test_autoencoder_config_names_the_wrong_field(settings: dict, field: str) -> None:
    with pytest.raises(InputError, match=f"AutoencoderConfig.{field}"):
        AutoencoderConfig(**settings)


# --- vector quantiser --------------------------------------------------------------------------


def test_largest_cosine_is_smallest_distance_of_unit_vectors() -> None:
    codec = tiny("vq")
    latents = 3 * noise(5, 4, 4, 4)
    unit = F.normalize(latents, dim=1).permute(0, 2, 3, 1).reshape(-1, 4)
    rows = F.normalize(codec.codebook.detach(), dim=1)
    naive = ((unit[:, None] - rows[None]) ** 2).sum(-1).argmin(dim=1)
    assert torch.equal(codec.nearest(latents).flatten(), naive)


@pytest.mark.parametrize("limit", [1, 64, 70, 10**6])
@pytest.mark.parametrize("biased", [False, True])
def test_search_in_blocks_finds_the_same_codes(monkeypatch, limit: int, biased: bool) -> None:
    """As one product and one search do; of equal rows the first wins."""
    monkeypatch.setattr("arra.codecs.quantized._SCORES", limit)
    vectors, table = noise(3, 5, 7, 4), noise(16, 4, seed=1)
    table[9] = table[2]
    bias = noise(16, seed=2) if biased else None
    if bias is not None:
        bias[9] = bias[2]
    scores = vectors @ table.T
    expected = (scores if bias is None else scores + bias).argmax(dim=-1)
    found = most_similar(vectors, table, bias)
    assert torch.equal(found, expected)
    assert found.dtype == torch.int64
    assert 9 not in found
    assert most_similar(vectors[:0], table, bias).shape == (0, 5, 7)
    rounded = most_similar(vectors.bfloat16(), table.bfloat16())
    assert torch.equal(rounded, (vectors.bfloat16() @ table.bfloat16().T).argmax(dim=-1))


def test_length_of_a_latent_does_not_matter() -> None:
    codec = tiny("vq").eval()
    latents = noise(2, 4, 3, 3).requires_grad_()
    quantized, codes, losses = codec.quantize(latents)
    scaled, same, _ = codec.quantize(latents.detach() * 7.5)
    assert torch.equal(codes, same)
    torch.testing.assert_close(quantized, scaled)
    ((quantized * noise(2, 4, 3, 3, seed=5)).sum() + sum(losses.values())).backward()
    assert latents.grad is not None
    radial = (latents.grad * latents.detach()).sum(dim=1)
    assert latents.grad.abs().max() > 0.01
    torch.testing.assert_close(radial, torch.zeros_like(radial), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("loss", "reaches"), [("codebook", "codebook"), ("commitment", "latents")])
def test_each_quantiser_loss_reaches_one_side_only(loss: str, reaches: str) -> None:
    codec = tiny("vq")
    latents = noise(2, 4, 3, 3).requires_grad_()
    codec.quantize(latents)[2][loss].backward()
    touched = {"codebook": codec.codebook.grad, "latents": latents.grad}
    for name, gradient in touched.items():
        moved = gradient is not None and bool(gradient.abs().sum() > 0)
        assert moved == (name == reaches)


def test_quantiser_losses_equal_their_definition() -> None:
    codec = tiny("vq").eval()
    latents = noise(2, 4, 3, 3)
    quantized, _, losses = codec.quantize(latents)
    error = (quantized - F.normalize(latents, dim=1)).square().mean()
    torch.testing.assert_close(losses["codebook"], error)
    torch.testing.assert_close(losses["commitment"], 0.25 * error)


def test_vq_entropy_equals_naive_softmax_over_distances() -> None:
    codec = VQCodec(dataclasses.replace(tiny("vq").config, entropy=0.5, temperature=0.3)).eval()
    latents = noise(2, 4, 3, 3)
    unit = F.normalize(latents, dim=1).permute(0, 2, 3, 1).reshape(-1, 4)
    rows = F.normalize(codec.codebook.detach(), dim=1)
    soft = (-((unit[:, None] - rows[None]) ** 2).sum(-1) / 0.3).softmax(-1)
    mean = soft.mean(0)
    naive = -(soft * soft.log()).sum(-1).mean() + (mean * mean.log()).sum()
    torch.testing.assert_close(codec.quantize(latents)[2]["entropy"], 0.5 * naive)


def collapsed_vq() -> tuple[VQCodec, Tensor]:
    """A codec with one code near the latents and fifteen on the far side, and those latents."""
    config = dataclasses.replace(tiny("vq").config, usage_decay=0.5)
    codec = VQCodec(config).train()
    with torch.no_grad():
        codec.codebook.copy_(F.normalize(-torch.ones(16, 4) + 0.05 * noise(16, 4), dim=1))
        codec.codebook[0] = 0.5
    return codec, noise(4, 4, 4, 4).abs()


def test_dead_codes_come_back_to_life() -> None:
    codec, latents = collapsed_vq()
    before = codec.nearest(latents).unique().numel()
    for _ in range(12):
        codec.quantize(latents)
    assert before == 1
    assert codec.nearest(latents).unique().numel() >= 14
    codes = torch.arange(16).reshape(1, 1, 16)
    assert torch.equal(codec.nearest(codec.lookup(codes)), codes)


def test_revival_depends_on_the_saved_state_only() -> None:
    codec, latents = collapsed_vq()
    for _ in range(4):
        codec.quantize(latents)
    resumed = copy.deepcopy(codec)
    torch.rand(5)  # the global generator must not matter
    for _ in range(4):
        codec.quantize(latents)
    for _ in range(4):
        resumed.quantize(latents)
    assert codec.fingerprint() == resumed.fingerprint()


def test_revival_is_off_in_evaluation_and_on_request() -> None:
    codec, latents = collapsed_vq()
    fingerprint = codec.eval().fingerprint()
    codec.quantize(latents)
    assert codec.fingerprint() == fingerprint
    still = VQCodec(dataclasses.replace(codec.config, dead_below=0.0)).train()
    rows = still.codebook.detach().clone()
    for _ in range(12):
        still.quantize(latents)
    assert torch.equal(still.codebook, rows)


def test_revival_of_identical_latents_keeps_codes_apart() -> None:
    codec, _ = collapsed_vq()
    flat = torch.ones(2, 4, 4, 4) * torch.tensor([1.0, 0.2, 0.1, 0.5])[:, None, None]
    for _ in range(20):
        codec.quantize(flat)
    codes = torch.arange(16).reshape(1, 1, 16)
    assert torch.equal(codec.nearest(codec.lookup(codes)), codes)


# --- lookup-free quantiser ---------------------------------------------------------------------


def test_bits_and_codes_are_a_bijection_with_the_first_bit_highest() -> None:
    codec = LFQCodec(dataclasses.replace(tiny("lfq").config, bits=4))
    golden = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 4, 1, 1)
    assert codec.nearest(golden).item() == 10
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).T[None, :, None]
    codes = torch.arange(16).reshape(1, 1, 16)
    assert torch.equal(codec.nearest(patterns), codes)
    assert torch.equal(codec.lookup(codes), patterns)


def test_lfq_code_is_the_nearest_sign_pattern() -> None:
    codec = tiny("lfq")
    latents = noise(2, 5, 3, 3)
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)))
    flat = latents.permute(0, 2, 3, 1).reshape(-1, 1, 5)
    naive = (flat - patterns).square().sum(-1).argmin(-1)
    assert torch.equal(codec.nearest(latents).flatten(), naive)


def naive_soft(latents: Tensor, bits: int, temperature: float) -> Tensor:
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=bits)))
    flat = latents.permute(0, 2, 3, 1).reshape(-1, 1, bits)
    return (-(flat - patterns).square().sum(-1) / temperature).softmax(-1)


@pytest.mark.parametrize("bits", [1, 4, 5])
def test_lfq_entropy_equals_enumeration(bits: int) -> None:
    config = dataclasses.replace(tiny("lfq").config, bits=bits, temperature=1.7, diversity=0.8)
    codec = LFQCodec(config)
    latents = noise(3, bits, 2, 2)
    soft = naive_soft(latents, bits, 1.7)
    mean = soft.mean(0)
    naive = -(soft * soft.log()).sum(-1).mean() + 0.8 * (mean * mean.log()).sum()
    torch.testing.assert_close(codec.entropy_contrast(latents), naive)
    ones = torch.sigmoid(4 * latents.permute(0, 2, 3, 1).reshape(-1, bits) / 1.7)
    torch.testing.assert_close(mean_law(ones).flatten(), mean)


def test_factorised_batch_entropy_bounds_the_exact_one() -> None:
    config = tiny("lfq").config
    latents = noise(3, 5, 2, 2)
    exact = LFQCodec(config).entropy_contrast(latents)
    factorised = LFQCodec(dataclasses.replace(config, exact_bits=0)).entropy_contrast(latents)
    ones = torch.sigmoid(4 * latents.permute(0, 2, 3, 1).reshape(-1, 5))
    mean = ones.mean(0)
    naive = -(ones * ones.log() + (1 - ones) * (1 - ones).log()).sum(-1).mean()
    naive = naive + (mean * mean.log() + (1 - mean) * (1 - mean).log()).sum()
    torch.testing.assert_close(factorised, naive)
    assert factorised <= exact


def test_lfq_entropy_extremes() -> None:
    """Sure and evenly spread: -log of the vocabulary. Sure and all the same: 0."""
    codec = LFQCodec(dataclasses.replace(tiny("lfq").config, bits=3))
    spread = 20 * codec.lookup(torch.arange(8).reshape(1, 1, 8))
    torch.testing.assert_close(codec.entropy_contrast(spread), torch.tensor(-math.log(8)))
    same = 20 * codec.lookup(torch.full((1, 1, 8), 5))
    torch.testing.assert_close(codec.entropy_contrast(same), torch.tensor(0.0))


# --- losses ------------------------------------------------------------------------------------


def test_pixel_terms_are_weighted_means() -> None:
    config = ReconstructionConfig(l1=0.5, l2=2.0)
    losses = ReconstructionLoss(config)(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5), 0)
    assert {name: loss.item() for name, loss in losses.items()} == {"l1": 0.25, "l2": 0.5}


def test_random_features_are_frozen_and_fixed_by_their_seed() -> None:
    state = torch.random.get_rng_state()
    first, second, other = RandomFeatures(seed=1), RandomFeatures(seed=1), RandomFeatures(seed=2)
    assert not any(p.requires_grad for p in first.parameters())
    pictures = noise(1, 3, 8, 8)
    assert all(torch.equal(a, b) for a, b in zip(first(pictures), second(pictures), strict=True))
    assert not torch.equal(first(pictures)[0], other(pictures)[0])
    assert torch.equal(state, torch.random.get_rng_state())


def test_perceptual_gradient_reaches_the_reconstruction_only() -> None:
    features = RandomFeatures(width=4)
    reconstruction, pictures = noise(2, 3, 8, 8).requires_grad_(), noise(2, 3, 8, 8, seed=1)
    pictures.requires_grad_()
    distance = perceptual_distance(features, reconstruction, pictures)
    distance.backward()
    assert distance > 0
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().sum() > 0
    assert pictures.grad is None
    assert perceptual_distance(features, pictures, pictures).item() == 0


def test_perceptual_distance_takes_any_feature_maps() -> None:
    """With pixels as features it is the squared distance of unit colour vectors."""
    first, second = noise(2, 3, 4, 4), noise(2, 3, 4, 4, seed=1)
    cosine = F.cosine_similarity(first, second, dim=1).mean()
    distance = perceptual_distance(lambda x: [x, x], first, second)
    torch.testing.assert_close(distance, 2 - 2 * cosine)


def small_adversary(**settings: float) -> Adversary:
    config = ReconstructionConfig(
        adversarial=0.5, discriminator_width=4, discriminator_layers=2, **settings
    )
    return Adversary(config, seeded())


def test_generator_step_leaves_the_discriminator_untouched_and_the_reverse() -> None:
    adversary, codec = small_adversary(), tiny("vq").train()
    state = copy.deepcopy(adversary.discriminator.state_dict())
    pictures = noise(2, 3, 16, 16)
    reconstruction = codec(pictures).reconstruction
    adversary.generator_loss(reconstruction).backward(retain_graph=True)
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    after = adversary.discriminator.state_dict()
    assert all(torch.equal(state[key], after[key]) for key in state)
    assert codec.decoder.layers[0].weight.grad.abs().sum() > 0

    codec.zero_grad()
    weights = copy.deepcopy(codec.state_dict())
    adversary.update(pictures, reconstruction)
    assert all(p.grad is None for p in codec.parameters())
    assert all(torch.equal(weights[key], x) for key, x in codec.state_dict().items())
    changed = adversary.discriminator.state_dict()
    assert all(not torch.equal(state[k], changed[k]) for k in state if k.endswith("0.weight"))
    assert all(p.requires_grad for p in adversary.discriminator.parameters())


def test_discriminator_learns_to_tell_noise_from_flat_pictures() -> None:
    adversary = small_adversary(discriminator_lr=2e-3)
    real, fake = noise(8, 3, 16, 16), torch.zeros(8, 3, 16, 16)
    first = adversary.update(real, fake)
    for _ in range(40):
        last = adversary.update(real, fake)
    assert last < 0.5 * first
    assert adversary.discriminator(real).mean() > adversary.discriminator(fake).mean()


def test_hinge_loss_values() -> None:
    assert hinge_loss(torch.tensor([2.0]), torch.tensor([-3.0])).item() == 0
    assert hinge_loss(torch.tensor([0.0]), torch.tensor([0.0])).item() == 1
    assert hinge_loss(torch.tensor([-1.0]), torch.tensor([1.0])).item() == 2


def test_discriminator_scores_patches() -> None:
    assert PatchDiscriminator(4, 3)(noise(2, 3, 24, 24)).shape == (2, 1, 3, 3)


def test_discriminator_is_fixed_by_its_generator_and_refuses_tiny_pictures() -> None:
    state = torch.random.get_rng_state()
    first, second = small_adversary(), small_adversary()
    assert torch.equal(state, torch.random.get_rng_state())
    pictures = noise(1, 3, 8, 8)
    assert torch.equal(first.discriminator(pictures), second.discriminator(pictures))
    with pytest.raises(InputError, match="discriminator_layers"):
        first.discriminator(noise(1, 3, 3, 3))


def test_adversarial_term_starts_when_told() -> None:
    config = ReconstructionConfig(adversarial=0.5, adversarial_start=5, discriminator_width=4)
    loss = ReconstructionLoss(config)
    pictures = noise(1, 3, 16, 16)
    assert "adversarial" not in loss(pictures, pictures, 4)
    assert "adversarial" in loss(pictures, pictures, 5)


def test_no_terms_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="every weight is 0"):
        ReconstructionConfig(l2=0.0)


# --- training ----------------------------------------------------------------------------------

BRIEF = CodecTraining(steps=60, batch=16, lr=1e-2, warmup=5, record_every=10, quiet=True)


@pytest.mark.parametrize("name", OURS)
def test_training_reduces_the_error_and_reports(name: str) -> None:
    codec, pictures = tiny(name), simple_pictures()
    before = evaluate_codec(codec, pictures)
    seen: list[int] = []
    report = train_codec(
        codec, pictures, BRIEF, generator=seeded(), on_step=lambda step, losses: seen.append(step)
    )
    assert report.mse < 0.3 * before.mse
    assert report.psnr == pytest.approx(10 * math.log10(4 / report.mse))
    assert 0 < report.usage <= 1
    assert 1 <= report.perplexity <= codec.vocabulary
    assert report.steps == 60
    assert seen == list(range(60))
    assert [entry["step"] for entry in report.history] == [0, 10, 20, 30, 40, 50]
    assert report.pictures == 2
    assert not codec.training


def test_training_repeats_bit_for_bit() -> None:
    results = []
    terms = ReconstructionConfig(adversarial=0.1, discriminator_width=4, discriminator_layers=2)
    for _ in range(2):
        codec = tiny("vq")
        short = dataclasses.replace(BRIEF, steps=6, reconstruction=terms)
        report = train_codec(codec, simple_pictures(), short, generator=seeded(3))
        results.append((codec.fingerprint(), report.mse, report.history))
    assert results[0] == results[1]


def test_evaluation_equals_its_definition() -> None:
    codec = tiny("lfq").eval()
    pictures = simple_pictures(7)
    report = evaluate_codec(codec, pictures, batch=3)
    codes = codec.encode(to_unit(pictures))
    error = (codec.decode(codes) - to_unit(pictures)).square().mean()
    share = torch.bincount(codes.flatten()) / codes.numel()
    assert report.mse == pytest.approx(error.item(), rel=1e-5)
    assert report.usage == codes.unique().numel() / codec.vocabulary
    assert math.log(report.perplexity) == pytest.approx(torch.special.entr(share).sum().item())
    channels_first = evaluate_codec(codec, pictures.permute(0, 3, 1, 2))
    assert channels_first.mse == pytest.approx(report.mse)


def test_pictures_may_be_a_function_of_the_step() -> None:
    asked: list[int] = []

    def draw(step: int) -> Tensor:
        asked.append(step)
        return noise(2, 3, 8, 8, seed=step)

    config = dataclasses.replace(BRIEF, steps=3)
    report = train_codec(tiny("lfq"), draw, config, generator=seeded())
    assert sorted(asked) == list(range(7))  # three to train on, four beyond to measure on
    assert report.pictures == 8


def test_seconds_end_the_schedule_in_time() -> None:
    config = dataclasses.replace(BRIEF, steps=10**6, seconds=0.5, record_every=1)
    report = train_codec(tiny("lfq"), simple_pictures(), config, generator=seeded())
    rates = [entry["lr"] for entry in report.history]
    assert 0.5 <= report.seconds < 1.5
    assert 2 < report.steps < 10**6
    assert max(rates) > 0.5 * config.lr
    assert rates[-1] < 0.25 * config.lr


def test_average_of_weights_replaces_them() -> None:
    plain, averaged = tiny("lfq"), tiny("lfq")
    config = dataclasses.replace(BRIEF, steps=6)
    steps: list[Tensor] = []

    def note(step: int, losses: dict[str, float]) -> None:
        steps.append(plain.decoder.layers[0].weight.detach().clone())

    train_codec(plain, simple_pictures(), config, generator=seeded(), on_step=note)
    with_average = dataclasses.replace(config, ema=0.5)
    train_codec(averaged, simple_pictures(), with_average, generator=seeded())
    expected = steps[0]
    for count, weights in enumerate(steps[1:], start=1):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(averaged.decoder.layers[0].weight.detach(), expected)


def test_all_terms_train_together() -> None:
    terms = ReconstructionConfig(
        l1=0.5, perceptual=0.1, adversarial=0.1, adversarial_start=2, discriminator_width=4
    )
    config = dataclasses.replace(BRIEF, steps=4, record_every=1, reconstruction=terms)
    pictures = simple_pictures(12, side=16)
    report = train_codec(tiny("vq"), pictures, config, generator=seeded())
    assert "discriminator" not in report.history[1]
    assert {"l1", "l2", "perceptual", "adversarial", "discriminator"} <= set(report.history[2])


def test_divergence_stops_before_the_weights_are_spoiled() -> None:
    codec = tiny("lfq")

    def draw(step: int) -> Tensor:
        return noise(2, 3, 8, 8) * (math.nan if step == 2 else 1.0)

    config = dataclasses.replace(BRIEF, steps=5)
    with pytest.raises(TrainingDiverged, match="step 2"):
        train_codec(codec, draw, config, generator=seeded(), validation=noise(2, 3, 8, 8))
    assert all(p.isfinite().all() for p in codec.parameters())


def test_timing_of_bf16_leaves_the_codec_alone() -> None:
    codec = tiny("vq").train()
    fingerprint = codec.fingerprint()
    assert bf16_is_faster(codec, noise(2, 3, 8, 8)) in (True, False)
    assert codec.fingerprint() == fingerprint
    assert all(p.grad is None for p in codec.parameters())


@pytest.mark.parametrize("name", OURS)
def test_bf16_rounds_the_networks_but_not_the_quantiser(name: str) -> None:
    codec, pictures = tiny(name).eval(), noise(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output, latents = codec(pictures), codec.encoder(pictures)
    assert latents.dtype == torch.bfloat16
    _, codes, losses = codec.quantize(latents.float())
    assert torch.equal(output.codes, codes)
    assert all(torch.equal(losses[key], output.losses[key]) for key in losses)
    config = dataclasses.replace(BRIEF, steps=3, precision="bf16")
    report = train_codec(codec, simple_pictures(), config, generator=seeded())
    assert math.isfinite(report.mse)
    assert codec.encode(pictures).shape == codes.shape


def test_scene_recipes_fit_the_canvas() -> None:
    for side in (4, 6):
        vq, lfq = VQCodec(scene_codec(side)), LFQCodec(scene_codec_lookup_free(side))
        assert vq.vocabulary == lfq.vocabulary == 1024
        pictures = noise(1, 3, 24, 24)
        assert (
            vq.encode(pictures).shape == lfq.encode(pictures).shape == (1, 24 // side, 24 // side)
        )
    assert scene_training(seconds=5.0).seconds == 5.0


@pytest.mark.parametrize(
    "pictures",
    [
        torch.zeros(4, 8, 8, 3),
        torch.zeros(4, 8, 8, 4, dtype=torch.uint8),
        torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
    ],
)
def test_wrong_training_pictures_are_refused(pictures: Tensor) -> None:
    with pytest.raises(InputError, match="pictures"):
        train_codec(tiny("lfq"), pictures, BRIEF, generator=seeded())


@pytest.mark.parametrize("field", ["steps", "lr", "seconds", "ema", "held_out", "decay"])
def test_training_config_names_the_wrong_field(field: str) -> None:
    with pytest.raises(InputError, match=f"CodecTraining.{field}"):
        CodecTraining(**{field: "wrong" if field == "decay" else -1})


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (VQConfig, {"vocabulary": 1}),
        (VQConfig, {"width": 1}),
        (VQConfig, {"usage_decay": 1.0}),
        (LFQConfig, {"bits": 0}),
        (LFQConfig, {"temperature": 0.0}),
    ],
)
def test_quantiser_config_names_the_wrong_field(config: type, settings: dict) -> None:
    with pytest.raises(InputError, match=f"{config.__name__}.{next(iter(settings))}"):
        config(**settings)
