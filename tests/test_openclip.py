"""open_clip's towers: features equal those of open_clip itself, on random models in local folders.

open_clip needs torchvision: without the extra `open-clip` only the errors are tested.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from arra.encoders import Encoder, OpenClipConfig, OpenClipEncoder, Preprocessing
from arra.errors import InputError, ProvenanceError
from arra.jobs.evaluation_parts import load_towers
from arra.jobs.options import EncoderOptions
from arra.jobs.parts import load_encoder

THERE = all(importlib.util.find_spec(name) for name in ("open_clip", "timm", "torchvision"))
needs = pytest.mark.skipif(not THERE, reason="open_clip, timm and torchvision are not installed")
TEXT = {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8}
TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
TOWERS = {
    "vit": VIT,
    "average": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
    "coca": {**VIT, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "biomedclip": TIMM,  # a ViT of timm and a BERT of transformers
    "siglip": {**TIMM, "timm_pool": "map", "timm_proj": "none"},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
}


@pytest.fixture(scope="module", params=list(TOWERS))
def saved(request, tmp_path_factory):
    """(name, open_clip's own model, the folder in which it is saved as open_clip saves it)."""
    if not THERE:
        pytest.skip("open_clip, timm and torchvision are not installed")
    import open_clip

    folder = tmp_path_factory.mktemp(request.param)
    text = TEXT
    if request.param == "biomedclip":
        import transformers as hf

        tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        hf.BertConfig(**tower, intermediate_size=16, vocab_size=40).save_pretrained(folder / "bert")
        text = {"hf_model_name": str(folder / "bert"), "hf_model_pretrained": False}
        text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    width = 64 if request.param == "siglip" else 20
    config = {"embed_dim": width, "vision_cfg": TOWERS[request.param], "text_cfg": text}
    kind = open_clip.CustomTextCLIP if "hf_model_name" in text else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(**json.loads(json.dumps(config))).eval()
        for parameter in model.visual.parameters():  # some begin at zero: make all count
            if parameter.abs().max() < 1e-3:
                torch.nn.init.normal_(parameter, std=0.2)
    save_file(model.state_dict(), str(folder / "open_clip_model.safetensors"))
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "resize_mode": "squash"}
    plain = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(plain))
    return request.param, model, folder


def load(folder: Path, **fields) -> OpenClipEncoder:
    return OpenClipEncoder(OpenClipConfig(str(folder), **fields))


def side(name: str) -> int:
    return TOWERS[name]["image_size"]


@torch.no_grad()
def test_the_projected_vector_is_open_clips_image_embedding(saved):
    name, model, folder = saved
    pixels = torch.randn(2, 3, side(name), side(name))
    found = load(folder, cls="projected").encode(pixels)
    torch.testing.assert_close(found.cls, model.encode_image(pixels))
    if name == "resnet":
        with pytest.raises(InputError, match="projected"):
            load(folder)
        return
    pooled = load(folder).encode(pixels)
    if name != "siglip":
        project = getattr(model.visual, "head", lambda x: x @ model.visual.proj)
        assert not torch.allclose(pooled.cls[:, :20], found.cls)
        torch.testing.assert_close(project(pooled.cls), found.cls)
    torch.testing.assert_close(pooled.patches, found.patches)


@torch.no_grad()
def test_towers_equal_open_clips_own_embeddings(saved, monkeypatch):
    import open_clip

    name, model, folder = saved
    if name == "biomedclip":  # its tokenizer is the hub's
        read = {"a red one": [2, 5, 7, 3], "a seal": [2, 9, 3]}

        def tokenize(captions):
            rows = [torch.tensor(read[c] + [0] * (8 - len(read[c]))) for c in captions]
            return torch.stack(rows)

        tokenize.context_length = 8
        tokenize.tokenizer = lambda caption: {"input_ids": read[caption]}
        monkeypatch.setattr(open_clip, "get_tokenizer", lambda source: tokenize)
    else:  # a vocabulary of 40: numbers that are too large are folded back

        def get_tokenizer(source, own=open_clip.get_tokenizer):
            given = own(source)

            def tokenize(captions):
                ids = given(captions)
                return torch.where(ids == given.eot_token_id, 39, ids % 39)

            tokenize.context_length, tokenize.encode = given.context_length, given.encode
            return tokenize

        monkeypatch.setattr(open_clip, "get_tokenizer", get_tokenizer)
    towers = load_towers(f"open_clip:{folder}", "cpu")
    assert towers.longest == 8
    assert towers.length("a seal") == (3 if name == "biomedclip" else 4)
    captions = ["a red one", "a seal"]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    found = torch.from_numpy(towers.text_features(captions)).float()
    torch.testing.assert_close(found, model.encode_text(tokens))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    pixels = load(folder, cls="projected").preprocess([Image.fromarray(p) for p in pictures])
    found = torch.from_numpy(towers.picture_features(pictures)).float()
    torch.testing.assert_close(found, model.encode_image(pixels))
    for cls in ("projected",) if name == "resnet" else ("projected", "pooled"):
        assert load(folder, cls=cls).identity()["weights"] in towers.identities


@torch.no_grad()
def test_patches_are_the_last_blocks_in_raster_order(saved):
    """After the final norm, as the tower itself applies it; of an earlier block without one."""
    name, model, folder = saved
    seen: dict[int, torch.Tensor] = {}
    visual = model.visual
    if name == "resnet":
        blocks, norm, extra = [visual.layer4], None, 0
    elif hasattr(visual, "trunk"):
        blocks, norm, extra = (
            list(visual.trunk.blocks),
            visual.trunk.norm,
            visual.trunk.num_prefix_tokens,
        )
    else:
        blocks, norm, extra = list(visual.transformer.resblocks), visual.ln_post, 1
    if name == "coca":
        norm = None  # the last norm comes after the attentional pool
    hooks = [
        block.register_forward_hook(lambda m, i, output, n=n: seen.__setitem__(n, output))
        for n, block in enumerate(blocks, start=1)
    ]
    pixels = torch.randn(2, 3, side(name), side(name))
    model.encode_image(pixels)
    for hook in hooks:
        hook.remove()
    if name == "resnet":
        seen = {n: x.flatten(2).transpose(1, 2) for n, x in seen.items()}
    last = seen[len(blocks)] if norm is None else norm(seen[len(blocks)])
    how = {"cls": "projected"} if name == "resnet" else {}
    torch.testing.assert_close(load(folder, **how).encode(pixels).patches, last[:, extra:])
    if name == "resnet":
        return
    found, from_end = load(folder, layer=2), load(folder, layer=2 - len(blocks) - 1)
    torch.testing.assert_close(found.encode(pixels).patches, seen[2][:, extra:])
    if extra:
        torch.testing.assert_close(found.encode(pixels).cls, seen[2][:, 0])
    assert found.identity() == from_end.identity()
    with pytest.raises(InputError, match="layer"):
        load(folder, layer=len(blocks) + 1)


@needs
@torch.no_grad()
@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(30, 30), (30, 20), (17, 41), (24, 24)])
def test_pixels_equal_those_of_open_clips_transform(tmp_path, mode, shape):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    tiny = OpenClipEncoder.tiny()
    folder = Path(tiny.config.model)
    plain = json.loads((folder / "open_clip_config.json").read_text())
    plain["preprocess_cfg"] = {"resize_mode": mode, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(plain))
    (tmp_path / "open_clip_model.safetensors").symlink_to(folder / "open_clip_model.safetensors")
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    config = PreprocessCfg(**{**plain["preprocess_cfg"], "size": 16})
    expected = image_transform_v2(config, is_train=False)(image)
    found = load(tmp_path).preprocess([image])[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_open_clips_own_loader_reads_the_same_folder(saved):
    name, _, folder = saved
    if name == "biomedclip":
        pytest.skip("its loader asks for BERT's tokenizer")
    import open_clip

    pixels = torch.randn(1, 3, side(name), side(name))
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    mine = load(folder, cls="projected").encode(pixels)
    torch.testing.assert_close(mine.cls, theirs.encode_image(pixels))


@needs
def test_other_sizes_interpolate_positions(saved):
    name, _, folder = saved
    if name == "resnet":
        pytest.skip("its attention pool has a fixed number of places")
    larger = Preprocessing(size=side(name) * 2)
    encoder = load(folder, preprocessing=larger)
    found = encoder.encode(torch.randn(1, 3, larger.size, larger.size))
    assert (
        found.patches.shape[1]
        == 4 * load(folder).encode(torch.randn(1, 3, side(name), side(name))).patches.shape[1]
    )


def test_a_reference_is_saved_and_other_weights_are_refused(saved, tmp_path):
    name, _, folder = saved
    if name != "vit":
        pytest.skip("one model is enough")
    encoder = load_encoder(str(folder), EncoderOptions(cls="projected"), "cpu")
    encoder.save_pretrained(tmp_path / "reference")
    assert [file.name for file in (tmp_path / "reference").iterdir()] == ["config.json"]
    again = load_encoder(str(tmp_path / "reference"), EncoderOptions(), "cpu")
    assert again.identity() == encoder.identity()
    assert json.loads(json.dumps(encoder.identity())) == encoder.identity()
    assert str(folder) not in json.dumps(encoder.identity())
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj"] += 1
    changed = tmp_path / "changed"
    changed.mkdir()
    save_file(weights, changed / "open_clip_model.safetensors")
    (changed / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    plain = json.loads((tmp_path / "reference" / "config.json").read_text())
    plain["config"]["model"] = str(changed)
    (tmp_path / "reference" / "config.json").write_text(json.dumps(plain))
    with pytest.raises(ProvenanceError, match="digest"):
        Encoder.from_pretrained(tmp_path / "reference")
    del weights["visual.ln_post.weight"]
    save_file(weights, changed / "open_clip_model.safetensors")
    with pytest.raises(InputError, match="ln_post"):
        load(changed)


@needs
def test_architectures_of_open_clip_take_a_file_and_refuse_pickles(tmp_path, monkeypatch):
    import open_clip

    model = open_clip.create_model("ViT-S-32-alt", pretrained=None).eval()
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    encoder = load_encoder(f"open_clip:ViT-S-32-alt@{file}", EncoderOptions(cls="projected"), "cpu")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(pixels).cls, model.encode_image(pixels))
    assert encoder.identity()["model"] == "ViT-S-32-alt"
    for name, tag, words in (
        ("ViT-S-32-alt", None, "pretrained"),
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32", str(tmp_path / "none.safetensors"), "no such file"),
        ("no/such/thing", None, "no such folder"),
    ):
        with pytest.raises(InputError, match=words):
            OpenClipEncoder(OpenClipConfig(name, tag))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot be had from the hub"):
        OpenClipEncoder(OpenClipConfig("somebody/something"))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "open_clip_config.json").write_text("{}")
    (tmp_path / "pickled" / "open_clip_pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(InputError, match=r"torch\.load"):
        load(tmp_path / "pickled")
    (tmp_path / "pickled" / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="vision_cfg"):
        load(tmp_path / "pickled")


@pytest.mark.skipif(THERE, reason="open_clip is installed")
def test_without_the_extra_the_error_says_how_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"arra\[open-clip\]"):
        load_encoder("open_clip:ViT-B-32@openai", EncoderOptions(), "cpu")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"arra\[open-clip\]"):
        load_encoder(str(tmp_path), EncoderOptions(), "cpu")
    with pytest.raises(InputError, match=r"arra\[open-clip\]"):
        OpenClipEncoder.tiny()
