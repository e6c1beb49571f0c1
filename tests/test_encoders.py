"""Encoders: the contract of every one, parity with transformers, and what training teaches."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arra.data.prepare import prepare_arrays
from arra.data.scenes import DigitScenes, SceneConfig
from arra.data.tokenizer import train_text_tokenizer
from arra.encoders import (
    Encoder,
    EncoderTraining,
    Features,
    Preprocessing,
    PretrainedConfig,
    PretrainedEncoder,
    SmallConfig,
    SmallEncoder,
    SmallTextConfig,
    SmallTextEncoder,
    linear_probe,
    train_encoder,
)
from arra.encoders.augment import AugmentConfig, random_view
from arra.encoders.training import symmetric_infonce
from arra.errors import InputError, ProvenanceError
from arra.jobs.options import EncoderOptions
from arra.jobs.parts import load_encoder
from arra.registry import encoders
from store_parts import PatchCodec

SIZE, PATCH = 24, 8
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
TOWER |= {"num_attention_heads": 4}
VISION = {**TOWER, "image_size": SIZE, "patch_size": PATCH}
WORDS = {**TOWER, "vocab_size": 50, "max_position_embeddings": 8}
SAM = {"output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 8}
SAM = {**VISION, **SAM, "mlp_dim": 48}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def pictures(count: int, width: int = 30, height: int = 20) -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in noise]


# --- the contract of every registered encoder ------------------------------------------------


@pytest.fixture(scope="module", params=list(encoders))
def encoder(request) -> Encoder:
    for module in encoders[request.param].needs:
        pytest.importorskip(module, reason=f"{module} is not installed", exc_type=ImportError)
    return encoders[request.param].tiny()


def features_equal(a: Features, b: Features, **tolerance) -> None:
    for x, y in ((a.cls, b.cls), (a.patches, b.patches)):
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            torch.testing.assert_close(x, y, **tolerance)


def test_frozen_even_inside_a_model_in_training(encoder):
    model = torch.nn.Sequential(encoder).train()
    assert model.training
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    pixels = encoder.preprocess(pictures(2)).requires_grad_()
    found = encoder.encode(pixels)
    assert not found.patches.requires_grad
    assert not found.cls.requires_grad


def test_features_can_be_targets_of_a_loss(encoder):
    found = encoder.encode(encoder.preprocess(pictures(2)))
    weight = torch.ones(found.cls.shape[-1], requires_grad=True)
    (found.cls * weight).sum().backward()
    torch.testing.assert_close(weight.grad, found.cls.sum(0))


def test_deterministic_and_batched_as_one_by_one(encoder):
    pixels = encoder.preprocess(pictures(3))
    together = encoder.encode(pixels)
    features_equal(together, encoder.encode(pixels), rtol=0, atol=0)
    alone = [encoder.encode(encoder.preprocess([image])) for image in pictures(3)]
    joined = Features(torch.cat([f.cls for f in alone]), torch.cat([f.patches for f in alone]))
    features_equal(together, joined, rtol=1e-4, atol=1e-5)


def test_aggregates(encoder):
    found = encoder.encode(encoder.preprocess(pictures(2)))
    cls, mean, both = (found.aggregate(how) for how in ("cls", "mean", "both"))
    assert torch.equal(cls, found.cls)
    torch.testing.assert_close(mean[1], sum(found.patches[1]) / found.patches.shape[1])
    assert torch.equal(both, torch.cat([cls, mean], dim=1))
    with pytest.raises(InputError, match="mean"):
        Features(cls=None, patches=found.patches).aggregate("both")
    with pytest.raises(InputError, match="cls"):
        Features(cls=found.cls, patches=None).aggregate("mean")


def test_saved_and_loaded_gives_the_same_features(encoder, tmp_path):
    encoder.save_pretrained(tmp_path / "encoder")
    again = Encoder.from_pretrained(tmp_path / "encoder")
    assert type(again) is type(encoder)
    assert again.identity() == encoder.identity()
    pixels = encoder.preprocess(pictures(2))
    assert torch.equal(pixels, again.preprocess(pictures(2)))
    features_equal(encoder.encode(pixels), again.encode(pixels), rtol=0, atol=0)
    assert not any(p.requires_grad for p in again.parameters())


def test_identity_is_json_and_tells_preprocessing_and_weights_apart(encoder):
    identity = encoder.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert type(encoder).tiny().identity() == identity, "the same encoder, built twice"
    changed = replace(encoder.config.preprocessing, resample="box")
    other = type(encoder)(replace(encoder.config, preprocessing=changed))
    if isinstance(encoder, SmallEncoder):
        other.load_state_dict(encoder.state_dict())
    assert other.identity() != identity
    assert other.identity()["preprocessing"] != identity["preprocessing"]


def test_wrong_pixels_are_refused(encoder):
    with pytest.raises(InputError, match="expected"):
        encoder.encode(torch.zeros(2, 3, 7, 7))
    with pytest.raises(InputError, match="expected"):
        encoder.encode(torch.zeros(3, 16, 16))


# --- transformers: features equal those of the raw model -------------------------------------

PREFIX = {"clip": 1, "vit": 1, "dinov2": 1, "dinov2_registers": 5, "dinov3": 5, "siglip": 0}
PREFIX |= {"siglip2": 0, "sam": 0}


def raw_model(name: str) -> torch.nn.Module:
    """A tiny random model of one architecture."""
    torch.manual_seed(len(name))
    if name == "clip":
        return hf.CLIPModel(
            hf.CLIPConfig(
                text_config=WORDS, vision_config={**VISION, "projection_dim": 20}, projection_dim=20
            )
        )
    if name == "siglip":
        return hf.SiglipModel(hf.SiglipConfig(text_config=WORDS, vision_config=VISION))
    if name == "siglip2":
        sides = {**TOWER, "patch_size": PATCH, "num_patches": 9}
        return hf.Siglip2Model(hf.Siglip2Config(text_config=WORDS, vision_config=sides))
    if name == "dinov2":
        return hf.Dinov2Model(hf.Dinov2Config(**VISION))
    if name == "dinov2_registers":
        return hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**VISION, num_register_tokens=4)
        )
    if name == "dinov3":
        return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, num_register_tokens=4))
    if name == "vit":
        return hf.ViTModel(hf.ViTConfig(**VISION))
    prompt = {"hidden_size": 16, "image_size": SIZE, "patch_size": PATCH}
    mask = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2}
    return hf.SamModel(
        hf.SamConfig(
            vision_config=SAM,
            prompt_encoder_config=prompt,
            mask_decoder_config={**mask, "iou_head_hidden_dim": 16},
        )
    )


@pytest.fixture(scope="module", params=list(PREFIX))
def saved(request, tmp_path_factory) -> tuple[str, torch.nn.Module, Path]:
    """(architecture, the raw model, the folder in which it is saved)."""
    folder = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng():
        model = raw_model(request.param).eval()
        # positions start at zero, and all of SAM at 1e-10: make them count
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return request.param, model, folder


def load(folder: Path, **fields) -> PretrainedEncoder:
    fields.setdefault("preprocessing", Preprocessing(size=SIZE))
    return PretrainedEncoder(PretrainedConfig(str(folder), **fields))


def raw_output(name: str, model, pixels: torch.Tensor):
    """The raw vision tower's output, with all hidden states."""
    tower = getattr(model, "vision_model", getattr(model, "vision_encoder", model))
    if name == "siglip2":
        patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # B C h w p p
        rows = patches.permute(0, 2, 3, 4, 5, 1).reshape(len(pixels), 9, -1)
        shapes = torch.full((len(pixels), 2), 3)
        mask = torch.ones(len(pixels), 9, dtype=torch.long)
        return tower(rows, mask, shapes, output_hidden_states=True)
    return tower(pixels, output_hidden_states=True)


@torch.no_grad()
def test_final_features_are_the_raw_models(saved):
    name, model, folder = saved
    pixels = torch.randn(2, 3, SIZE, SIZE)
    raw, found = raw_output(name, model, pixels), load(folder).encode(pixels)
    last = raw.last_hidden_state
    if name == "sam":
        assert found.cls is None
        for place in range(9):
            row, column = divmod(place, 3)
            torch.testing.assert_close(found.patches[:, place], last[:, :, row, column])
        return
    torch.testing.assert_close(found.patches, last[:, PREFIX[name] :])
    assert found.patches.shape == (2, 9, 32)
    expected = last[:, 0] if name == "vit" else raw.pooler_output
    torch.testing.assert_close(found.cls, expected)


@torch.no_grad()
def test_intermediate_features_are_the_outputs_of_that_block(saved):
    name, model, folder = saved
    pixels = torch.randn(2, 3, SIZE, SIZE)
    seen = []
    kinds = (
        "EncoderLayer",
        "ViTLayer",
        "Dinov2Layer",
        "Dinov2WithRegistersLayer",
        "SamVisionLayer",
    )
    tower = getattr(model, "vision_model", getattr(model, "vision_encoder", model))
    blocks = [m for m in tower.modules() if type(m).__name__.endswith(kinds)]
    assert len(blocks) == 3
    hook = blocks[1].register_forward_hook(
        lambda module, inputs, output: seen.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    raw_output(name, model, pixels)
    hook.remove()
    found = load(folder, layer=2).encode(pixels)
    expected = seen[0].flatten(1, 2) if name == "sam" else seen[0][:, PREFIX[name] :]
    torch.testing.assert_close(found.patches, expected)
    if PREFIX[name]:
        torch.testing.assert_close(found.cls, seen[0][:, 0])
    else:
        assert found.cls is None
    features_equal(found, load(folder, layer=-2).encode(pixels), rtol=0, atol=0)
    assert load(folder, layer=-2).identity() == load(folder, layer=2).identity()
    with pytest.raises(InputError, match="layer"):
        load(folder, layer=4)


@torch.no_grad()
def test_patches_come_in_raster_order(saved):
    """A local change of the picture moves the feature of its own patch most."""
    name, _, folder = saved
    encoder = load(folder, layer=1)
    base = torch.randn(1, 3, SIZE, SIZE)
    before = encoder.encode(base).patches
    for place in range(9):
        row, column = divmod(place, 3)
        changed = base.clone()
        changed[:, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] *= -3
        moved = (encoder.encode(changed).patches - before).norm(dim=-1)[0]
        assert int(moved.argmax()) == place, f"{name}: place {place}"


def test_only_the_vision_tower_is_kept_and_saving_keeps_a_reference(saved, tmp_path):
    _, _, folder = saved
    encoder = load(folder)
    assert not any("text" in key or "mask_decoder" in key for key in encoder.state_dict())
    encoder.save_pretrained(tmp_path / "reference")
    assert [file.name for file in (tmp_path / "reference").iterdir()] == ["config.json"]
    pixels = torch.randn(1, 3, SIZE, SIZE)
    features_equal(
        Encoder.from_pretrained(tmp_path / "reference").encode(pixels),
        encoder.encode(pixels),
        rtol=0,
        atol=0,
    )


def test_every_architecture_fills_a_store_with_its_features(saved, tmp_path):
    """From a folder as it is published, with its own image processor, to cached features."""
    name, _, folder = saved
    published = tmp_path / "published"
    shutil.copytree(folder, published)
    settings_ = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "resample": 3}
    settings_ |= {"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.4, 0.5, 0.6]}
    settings_ |= {"image_std": [0.2, 0.3, 0.4], "do_normalize": True, "do_rescale": True}
    (published / "preprocessor_config.json").write_text(json.dumps(settings_))
    encoder = load_encoder(str(published), EncoderOptions(), "cpu")
    kinds = ("mean", "patches") if name == "sam" else ("cls", "mean", "patches")
    arrays = np.stack([np.asarray(image) for image in pictures(3, 16, 16)])
    store = prepare_arrays(
        arrays,
        ["a picture"] * 3,
        tmp_path / "store",
        codec=PatchCodec(PatchCodec.Config()),
        tokenizer=train_text_tokenizer(["a picture"], 32),
        encoder=encoder,
        aggregations=kinds,
        feature_dtype="float32",
        quiet=True,
    )
    cached = store.rows(range(3)).features
    fresh = encoder.encode(encoder.preprocess([Image.fromarray(array) for array in arrays]))
    assert list(cached) == list(kinds)
    torch.testing.assert_close(cached["patches"], fresh.patches)
    torch.testing.assert_close(cached["mean"], fresh.patches.mean(dim=1))
    if name != "sam":
        torch.testing.assert_close(cached["cls"], fresh.cls)
    store.check(encoder=encoder)


@torch.no_grad()
def test_projected_clip_is_the_image_embedding(tmp_path):
    model = raw_model("clip").eval()
    model.save_pretrained(tmp_path / "both")
    pixels = torch.randn(2, 3, SIZE, SIZE)
    expected = model.get_image_features(pixel_values=pixels).pooler_output
    found = load(tmp_path / "both", cls="projected")
    torch.testing.assert_close(found.encode(pixels).cls, expected)
    assert found.encode(pixels).cls.shape == (2, 20)
    assert found.identity() != load(tmp_path / "both").identity()
    # the vision half alone, published as such
    half = hf.CLIPVisionModelWithProjection.from_pretrained(tmp_path / "both")
    half.save_pretrained(tmp_path / "half")
    torch.testing.assert_close(
        load(tmp_path / "half", cls="projected").encode(pixels).cls, expected
    )
    with pytest.raises(InputError, match="layer"):
        load(tmp_path / "both", cls="projected", layer=1)


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    model = raw_model("dinov2")
    model.save_pretrained(tmp_path / "model")
    encoder = load(tmp_path / "model")
    identity = encoder.identity()
    encoder.save_pretrained(tmp_path / "reference")
    with torch.no_grad():
        model.layernorm.bias += 1
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ProvenanceError, match="digest"):
        Encoder.from_pretrained(tmp_path / "reference")
    assert load(tmp_path / "model").identity() != identity


def test_identity_does_not_depend_on_the_folder(tmp_path):
    model = raw_model("vit")
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / name)
    assert load(tmp_path / "a").identity() == load(tmp_path / "b").identity()


def test_weights_that_the_checkpoint_lacks_are_refused_but_unused_ones_are_not(tmp_path):
    from safetensors.torch import load_file, save_file

    # a classifier has no pooler: the encoder does not need it
    hf.ViTForImageClassification(hf.ViTConfig(**VISION)).save_pretrained(tmp_path / "classifier")
    a, b = load(tmp_path / "classifier"), load(tmp_path / "classifier")
    assert a.identity() == b.identity(), "no random weight takes part"
    file = tmp_path / "classifier" / "model.safetensors"
    weights = load_file(file)
    dropped = next(key for key in weights if key.endswith("layernorm.weight"))
    save_file({k: v for k, v in weights.items() if k != dropped}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks"):
        load(tmp_path / "classifier")


def test_other_picture_sizes_interpolate_positions(tmp_path):
    for name in ("clip", "siglip", "vit", "dinov2", "dinov3"):
        raw_model(name).save_pretrained(tmp_path / name)
        encoder = load(tmp_path / name, preprocessing=Preprocessing(size=40))
        assert encoder.encode(torch.randn(1, 3, 40, 40)).patches.shape == (1, 25, 32)
    with pytest.raises(InputError, match="multiple"):
        load(tmp_path / "vit", preprocessing=Preprocessing(size=20))


def test_half_precision_gives_float32_features_near_the_full_ones(tmp_path):
    raw_model("dinov2").save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, SIZE, SIZE)
    half, full = load(tmp_path, dtype="bfloat16"), load(tmp_path)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    features_equal(half.encode(pixels), full.encode(pixels), rtol=0.1, atol=0.1)
    assert half.identity() != full.identity()


def test_unknown_models_say_what_was_expected(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        PretrainedEncoder(PretrainedConfig(str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot load"):
        PretrainedEncoder(PretrainedConfig(str(tmp_path / "empty")))
    raw_model("vit").save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match="preprocessing"):
        PretrainedEncoder(PretrainedConfig(str(tmp_path / "bare")))
    raw_model("dinov2").save_pretrained(tmp_path / "clip")
    with pytest.raises(InputError, match="projection"):
        load(tmp_path / "clip", cls="projected")


# --- preprocessing ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 20), (17, 41), (24, 24), (5, 9)])
@pytest.mark.parametrize(
    "processor",
    [
        hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 24, "width": 24}),
        hf.SiglipImageProcessorPil(size={"height": 24, "width": 24}),
        hf.ViTImageProcessorPil(size={"height": 24, "width": 24}),
        hf.SamImageProcessorPil(
            size={"longest_edge": 24}, pad_size={"height": 24, "width": 24}, do_convert_rgb=True
        ),
        hf.ViTImageProcessorPil(size={"height": 24, "width": 24}, do_normalize=False),
        hf.ViTImageProcessorPil(size={"height": 24, "width": 24}, rescale_factor=1 / 127.5),
    ],
    ids=["clip", "siglip", "vit", "sam", "vit-raw", "vit-127"],
)
def test_pixels_equal_those_of_the_models_own_processor(processor, shape):
    images = pictures(2, *shape)
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    found = Preprocessing.from_processor(processor.to_dict(), where="here")(images)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_preprocessing_is_read_from_the_folder_without_torchvision(tmp_path):
    """DINOv3's processor exists for torchvision only; its settings are enough."""
    raw_model("dinov3").save_pretrained(tmp_path)
    values = {"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2}
    values |= {"size": {"height": SIZE, "width": SIZE}, "do_resize": True, "do_rescale": True}
    values |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    values |= {"do_normalize": True, "rescale_factor": 1 / 255}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    encoder = PretrainedEncoder(PretrainedConfig(str(tmp_path)))
    assert encoder.preprocessing == Preprocessing(
        SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resample="bilinear"
    )
    assert encoder.identity()["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def test_naflex_budget_becomes_a_square():
    settings_of = hf.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=256).to_dict()
    assert Preprocessing.from_processor(settings_of, "here").size == 256


def test_every_mode_of_picture_is_read():
    image = pictures(1)[0]
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        assert Preprocessing(size=8)([image.convert(mode)]).shape == (1, 3, 8, 8)
    assert Preprocessing(size=8)([]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_pictures_together_become_the_pixels_of_each(fit):
    preprocessing = Preprocessing(size=12, fit=fit, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    rng = np.random.default_rng(0)
    shapes = [(12, 12, 3), (20, 9, 3), (5, 31, 3)]
    images = [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    together = preprocessing(images)
    assert together.is_contiguous()
    assert torch.equal(together, torch.cat([preprocessing([image]) for image in images]))
    whole = torch.from_numpy(preprocessing.resize(images[0])).permute(2, 0, 1) / 255.0
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    assert torch.equal(together[0], (whole - mean) / std)


SETTINGS = ["size", "crop_size", "do_center_crop", "resample", "image_mean", "image_std"]
SETTINGS += ["do_resize", "do_rescale", "do_normalize", "rescale_factor", "max_num_patches"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(SETTINGS),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-5, 10_000),
            st.text(max_size=3),
            st.lists(st.floats(allow_nan=True), max_size=4),
            st.dictionaries(
                st.sampled_from(["height", "width", "shortest_edge", "longest_edge"]),
                st.one_of(st.none(), st.integers(-3, 300), st.text(max_size=2)),
            ),
        ),
    )
)
def test_settings_from_outside_are_read_or_refused(values):
    try:
        found = Preprocessing.from_processor(values, where="file")
    except InputError:
        return
    pixels = found(pictures(1)) if found.size < 400 and found.edge < 400 else None
    assert pixels is None or pixels.shape == (1, 3, found.size, found.size)


# --- small encoders and their training -------------------------------------------------------


def test_small_bodies_have_the_grid_they_say_and_raster_patches():
    for body in ("conv", "vit"):
        config = SmallConfig(body=body, width=32, depth=1, dim=12, preprocessing=Preprocessing(16))
        encoder = SmallEncoder.seeded(config, 0)
        found = encoder.encode(torch.randn(2, 3, 16, 16))
        assert found.cls.shape == (2, 12)
        assert found.patches.shape == (2, 16, 32)
        base = torch.zeros(1, 3, 16, 16)
        changed = base.clone()
        changed[:, :, 8:12, 4:8] = 2.0
        moved = encoder.encode(changed).patches - encoder.encode(base).patches
        assert int(moved.norm(dim=-1).argmax()) == 2 * 4 + 1
    assert SmallEncoder.seeded(config, 1).identity() == SmallEncoder.seeded(config, 1).identity()
    assert SmallEncoder.seeded(config, 1).identity() != SmallEncoder.seeded(config, 2).identity()


@pytest.mark.parametrize(
    "wrong",
    [
        {"body": "mlp"},
        {"downsample": 5},
        {"downsample": 6},
        {"width": 12},
        {"depth": 0},
        {"preprocessing": Preprocessing(size=24, fit="pad")},
    ],
)
def test_impossible_small_encoders_are_refused(wrong):
    with pytest.raises(InputError, match="SmallConfig"):
        SmallConfig(**wrong)


def test_infonce_is_the_cross_entropy_written_out():
    a, b = torch.randn(4, 5), torch.randn(4, 5)
    total = 0.0
    for i in range(4):
        for one, other in ((a, b), (b, a)):
            scores = [torch.cosine_similarity(one[i], other[j], dim=0) * 3 for j in range(4)]
            total += float(torch.logsumexp(torch.stack(scores), 0) - scores[i]) / 8
    assert float(symmetric_infonce(a, b, 3.0)) == pytest.approx(total, rel=1e-5)
    # equal captions share the target, so that telling their pictures apart is not asked for
    same = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    tied = torch.eye(4)[[0, 0, 1, 2]]
    assert float(symmetric_infonce(tied, tied, 50.0, same)) == pytest.approx(
        (np.log(2) * 2 + 0) / 4, abs=1e-4
    )


def test_views_change_pictures_reproducibly_and_mirror_nothing():
    pixels = torch.rand(64, 3, 16, 16)
    make = lambda seed: random_view(  # noqa: E731
        pixels, AugmentConfig(), torch.Generator().manual_seed(seed)
    )
    assert torch.equal(make(0), make(0))
    assert not torch.equal(make(0), make(1))
    nothing = AugmentConfig(0, 0, 0, 0, 0, 0)
    torch.testing.assert_close(random_view(pixels, nothing, torch.Generator()), pixels)
    ramp = torch.linspace(-1, 1, 16).expand(64, 3, 16, 16)  # brighter to the right
    views = random_view(ramp, AugmentConfig(cutout=0), torch.Generator().manual_seed(0))
    assert bool((views[..., 12:].mean((1, 2, 3)) > views[..., :4].mean((1, 2, 3))).all())
    holes = random_view(torch.ones_like(pixels), AugmentConfig(0, 0, 0, 0, 0, 1), torch.Generator())
    assert bool((holes.amin((1, 2, 3)) == 0).all())


TINY = SmallConfig(width=32, dim=32)
ONE_DIGIT = SceneConfig(most=1, counts=(1.0,))


@pytest.fixture(scope="module")
def scenes():
    arrays, truth = DigitScenes(ONE_DIGIT, "train").pictures(0, 900)
    return torch.from_numpy(arrays), truth


@pytest.fixture(scope="module")
def by_captions(scenes):
    arrays, truth = scenes
    captions = [scene.caption for scene in truth]
    training = EncoderTraining("contrastive", steps=40, batch=48, learning_rate=3e-3)
    return train_encoder(TINY, arrays, training, captions, quiet=True)


@pytest.mark.parametrize("objective", ["contrastive", "instance", "masked", "masked+contrastive"])
def test_training_lowers_the_loss_and_gives_the_same_twice(objective, scenes):
    arrays, truth = scenes
    captions = [scene.caption for scene in truth]
    training = EncoderTraining(objective, steps=20, batch=24, learning_rate=3e-3)
    before = torch.get_rng_state()
    trained = train_encoder(TINY, arrays, training, captions, quiet=True)
    assert torch.equal(torch.get_rng_state(), before)
    losses = trained.report.losses
    assert trained.report.steps == len(losses) == 20
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    assert not any(p.requires_grad for p in trained.encoder.parameters())
    assert (trained.text is not None) == ("contrastive" in objective)
    again = train_encoder(TINY, arrays, replace(training, steps=2), captions, quiet=True)
    third = train_encoder(TINY, arrays, replace(training, steps=2), captions, quiet=True)
    assert again.encoder.identity() == third.encoder.identity()
    assert again.encoder.identity() != trained.encoder.identity()


def test_a_trained_encoder_knows_more_than_a_random_one(scenes, by_captions):
    """Six pictures of each colour are enough to read the colour off trained features."""
    arrays, truth = scenes
    colours = sorted({scene.digits[0].colour for scene in truth})
    labels = torch.tensor([colours.index(scene.digits[0].colour) for scene in truth])
    few = torch.cat([(labels == colour).nonzero()[:6, 0] for colour in range(len(colours))])

    def accuracy(encoder: SmallEncoder) -> float:
        cls = encoder.encode(TINY.preprocessing.normalise(arrays)).cls
        return linear_probe(cls[few], labels[few], cls[450:], labels[450:])

    assert accuracy(by_captions.encoder) > accuracy(SmallEncoder.seeded(TINY, 0)) + 0.1


def test_the_caption_tower_scores_and_saves(scenes, by_captions, tmp_path):
    arrays, truth = scenes
    captions = [scene.caption for scene in truth]
    trained = by_captions
    cls = trained.encoder.encode(TINY.preprocessing.normalise(arrays[:200])).cls
    right, wrong = (
        trained.text.score(cls, captions[:200]),
        trained.text.score(cls, captions[200:400]),
    )
    assert float((right > wrong).float().mean()) > 0.7
    trained.text.save_pretrained(tmp_path / "text")
    again = SmallTextEncoder.from_pretrained(tmp_path / "text")
    assert torch.equal(again.score(cls, captions[:200]), right)
    with pytest.raises(InputError, match="one per picture"):
        again.score(cls, captions[:3])


def test_caption_vectors_ignore_padding_and_unknown_words_are_one():
    text = SmallTextEncoder(SmallTextConfig(vocabulary=("a", "red", "3"), dim=8)).eval()
    together = text(["a red 3", "a", "", "a red 3 red red a a a"])
    torch.testing.assert_close(together[1], text(["a"])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[2], text(["zebra"])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text(["A RED zebra"]), text(["a red lion"]))


def test_time_is_a_budget_and_odd_pictures_are_resized(scenes):
    arrays, _ = scenes
    training = EncoderTraining("masked", steps=None, seconds=0.3, batch=8)
    report = train_encoder(TINY, arrays[:40, :20], training, quiet=True).report
    assert report.steps >= 1
    assert 0.3 <= report.seconds < 10


def test_wrong_training_input_is_refused(scenes):
    arrays, _ = scenes
    with pytest.raises(InputError, match="uint8"):
        train_encoder(TINY, arrays.float())
    with pytest.raises(InputError, match="captions"):
        train_encoder(TINY, arrays, EncoderTraining("contrastive"), ["one"])
    for wrong in (
        {"objective": "x"},
        {"objective": "masked+masked"},
        {"steps": None},
        {"batch": 1},
        {"masked": (0.9, 0.2)},
    ):
        with pytest.raises(InputError, match="EncoderTraining"):
            EncoderTraining(**wrong)


def test_linear_probe_reads_what_is_there_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=generator)
    noise = torch.randn(400, 6, generator=generator)
    clear = noise + 8 * torch.eye(6)[labels]
    assert linear_probe(clear[:300], labels[:300], clear[300:], labels[300:]) > 0.97
    assert linear_probe(noise[:300], labels[:300], noise[300:], labels[300:]) < 0.45
    with pytest.raises(InputError, match="features_test"):
        linear_probe(noise, labels, noise[:3], labels)
    with pytest.raises(InputError, match="labels_train"):
        linear_probe(noise, torch.zeros(400), noise, labels)
