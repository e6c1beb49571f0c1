"""The binary autoencoder: bits, codes, gradients, and its training."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from arra.codecs import BinaryCodec, BinaryConfig
from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.base import Codec
from arra.codecs.losses import ReconstructionConfig
from arra.codecs.training import CodecTraining, train_codec
from arra.errors import InputError

SMALL = AutoencoderConfig(2, width=8, blocks=1, decoder_blocks=1, groups=2)


def codec_of(split=1, bits=8, **settings):
    return BinaryCodec.seeded(BinaryConfig(SMALL, bits, split, width=8, **settings), 0)


def pictures(count=4):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("split", [1, 2, 4, 8])
def test_bits_and_codes_are_a_bijection(split):
    codec = codec_of(split)
    rng = torch.Generator().manual_seed(0)
    bits = torch.randint(2, (2, 8, 4, 4), generator=rng).float()
    codes = codec.codes_of(bits)
    assert codes.shape == ((2, 4, 4) if split == 1 else (2, 4, 4, split))
    assert int(codes.max()) < codec.vocabulary == 2 ** (8 // split)
    assert torch.equal(codec.lookup(codes), bits)
    with torch.no_grad():  # decoding from codes is decoding from bits
        assert torch.equal(codec.decode(codes), codec.decoder(bits).clamp(-1, 1))


def test_the_first_channel_is_the_highest_bit():
    codec = codec_of(2)
    bits = torch.tensor([1, 0, 1, 0, 0, 0, 0, 1]).view(1, 8, 1, 1)
    assert codec.codes_of(bits).flatten().tolist() == [10, 1]
    assert codec_of(1).codes_of(bits).item() == 161


def test_what_the_decoder_reads_is_a_linear_map_of_the_bits():
    codec = codec_of(normalised=False)
    table = codec.decoder.embed.weight[:, :, 0, 0]  # (width, D)
    bits = torch.randint(2, (1, 8, 1, 1), generator=torch.Generator().manual_seed(1)).float()
    torch.testing.assert_close(codec.decoder.embed(bits).flatten(), table @ bits.flatten())


def test_the_gradient_of_a_logit_passes_through_its_chance():
    codec = codec_of().train()
    latents = torch.tensor([-30.0, -2.0, -0.1, 0.0, 0.1, 2.0, 5.0, 30.0]).view(1, 8, 1, 1)
    latents.requires_grad_()
    quantized, _, _ = codec.quantize(latents)
    quantized.sum().backward()
    chance = torch.sigmoid(latents.detach())
    torch.testing.assert_close(latents.grad, chance * (1 - chance))
    assert latents.grad.flatten()[[0, 7]].max() < 1e-6  # a bit that is sure learns nothing
    assert set(quantized.detach().round(decimals=5).unique().tolist()) <= {0.0, 1.0}


def test_bits_are_drawn_with_their_chances_in_training_only():
    codec = codec_of().train()
    latents = torch.linspace(-2, 2, 8).view(1, 8, 1, 1).expand(5000, -1, -1, -1)
    with torch.no_grad():
        drawn, _, _ = codec.quantize(latents)
        error = (drawn.mean(0).flatten() - torch.sigmoid(latents[0]).flatten()).abs()
        assert error.max() < 0.03
        again = codec_of().train().quantize(latents)[0]
        assert torch.equal(again, drawn)  # a function of seed and step
        assert not torch.equal(codec.quantize(latents)[0], drawn)  # the next step's are others
        sure, codes, _ = codec.eval().quantize(latents)
    assert torch.equal(sure[0], (latents[0] > 0).float())
    assert torch.equal(codes, codec.nearest(latents))
    plain = codec_of(stochastic=False).train()
    assert torch.equal(plain.quantize(latents)[0].round(), (latents > 0).float())


def test_sampled_codes_are_another_view_of_the_same_picture():
    codec, x = codec_of(2).eval(), pictures(64)
    one, two = (codec.sampled(x, torch.Generator().manual_seed(s)) for s in (1, 2))
    assert one.shape == codec.encode(x).shape == (64, 4, 4, 2)
    assert not torch.equal(one, two)
    assert torch.equal(one, codec.sampled(x, torch.Generator().manual_seed(1)))
    bits = torch.stack(
        [codec.lookup(codec.sampled(x, torch.Generator().manual_seed(s))) for s in range(200)]
    ).mean(0)
    with torch.no_grad():
        chances = torch.sigmoid(codec.encoder(x))
    assert (bits - chances).abs().mean() < 0.04


def test_another_split_is_another_reading_of_the_same_bits(tmp_path):
    whole, x = codec_of(1), pictures()
    halves = BinaryCodec.seeded(dataclasses.replace(whole.config, split=2), 1)
    halves.load_state_dict(whole.state_dict())
    codes = halves.encode(x)
    assert torch.equal(codes[..., 0] * 16 + codes[..., 1], whole.encode(x))
    assert torch.equal(halves.decode(codes), whole.decode(whole.encode(x)))
    halves.save_pretrained(tmp_path / "codec")
    again = Codec.from_pretrained(tmp_path / "codec")
    assert torch.equal(again.encode(x), codes)
    assert again.codes_axes == ("h", "w", "m")
    with pytest.raises(InputError, match="one code of 20 bits"):
        halves.soft_assignment(torch.zeros(1, 8, 2, 2), 1.0)
    with pytest.raises(InputError, match=r"\(B, h, w, m\)"):
        halves.decode(whole.encode(x))


def test_soft_codes_are_the_law_of_the_bits():
    codec = codec_of(bits=4)
    latents = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    soft = codec.soft_assignment(latents, 1.0)
    torch.testing.assert_close(soft, torch.softmax(-codec.distances(latents), dim=-1))
    assert torch.equal(soft.argmax(-1), codec.nearest(latents).flatten(1))


def test_all_terms_train_a_binary_codec():
    terms = ReconstructionConfig(
        l1=1.0, perceptual=0.1, adversarial=0.1, discriminator_width=4, discriminator_layers=2
    )
    config = CodecTraining(steps=4, batch=8, reconstruction=terms, quiet=True, record_every=1)
    codec = codec_of(2, certainty=0.1)
    x = torch.randint(256, (20, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    report = train_codec(
        codec, x.to(torch.uint8), config, generator=torch.Generator().manual_seed(0)
    )
    assert {"l1", "perceptual", "adversarial", "certainty"} <= set(report.history[-1])
    assert int(codec.step) == 4


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"bits": 0}, "bits"), ({"bits": 8, "split": 3}, "split"), ({"width": 3}, "width")],
)
def test_settings_name_the_wrong_field(settings, field):
    with pytest.raises(InputError, match=field):
        BinaryConfig(SMALL, **settings)
