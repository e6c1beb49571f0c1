"""Captions in, pictures out: saving, provenance; a picture is that of its caption and seed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import arra
from arra.codecs import VQCodec
from arra.data.captions import clean_caption
from arra.data.tokenizer import CaptionEncoder
from arra.errors import InputError, ProvenanceError
from arra.generators.raster import RasterGenerator
from arra.pixels import to_uint8
from arra.registry import codecs
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage, checkpoint_folder, paint, quiet_transformers

CAPTIONS = ["a red 3", "a green 7 above it", "a blue 5 left of a red 3", None, "it"]


@pytest.fixture(scope="module")
def codec():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VQCodec.tiny()


def generator_for(codec):
    generator = RasterGenerator.tiny()
    generator.config = replace(generator.config, codec=codec.fingerprint())
    return generator


@pytest.fixture(scope="module")
def model(codec):
    return TextToImage(generator_for(codec), codec)


def test_a_saved_model_draws_the_same_and_is_a_plain_language_model(model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model.save_pretrained(tmp_path / "model")
    again = TextToImage.from_pretrained(tmp_path / "model", "cpu")
    assert again.fingerprint() == model.fingerprint()
    seeds = range(len(CAPTIONS))
    assert np.array_equal(again.draw(CAPTIONS, seeds), model.draw(CAPTIONS, seeds))
    # A run's folder stands for the model in it.
    assert checkpoint_folder(tmp_path) == tmp_path / "model"

    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "model")
    saved, mine = lm.state_dict(), model.generator.lm.state_dict()
    assert saved.keys() == mine.keys()
    assert all(torch.equal(saved[name], mine[name]) for name in mine)


def test_greedy_drawing_equals_plain_transformers(model, codec):
    """The logits of plain `generate`, restricted to picture codes, lead to the same picture."""
    v = model.generator.config.vocabulary
    config = SamplingConfig(guidance=1.0, temperature=0.0)
    drawn = model.draw(["a red 3"], [0], config)
    prompt = torch.tensor([model.generator.prompt_ids("a red 3")])
    out = model.generator.lm.generate(
        prompt,
        max_new_tokens=model.generator.units,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda batch, ids: list(range(v.offset, v.offset + v.codes)),
        pad_token_id=v.pad,
    )
    codes = (out[:, prompt.shape[1] :] - v.offset).view(1, *model.generator.config.grid)
    expected = codec.decode(codes)[0].add(1).mul(127.5).round().to(torch.uint8)
    assert np.array_equal(drawn[0], expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_a_picture_does_not_depend_on_its_company(model, batch):
    seeds = [3, 1, 4, 1, 5]
    alone = [model.draw([c], [s])[0] for c, s in zip(CAPTIONS, seeds, strict=True)]
    together = model.draw(CAPTIONS, seeds, batch=batch)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert together.shape == (5, *model.size, 3)
    assert together.dtype == np.uint8
    reverse = model.draw(CAPTIONS[::-1], seeds[::-1], batch=batch)[::-1]
    assert np.array_equal(reverse, together)


@pytest.mark.parametrize("name", ["vq", "lfq", "janus"])
@pytest.mark.parametrize("side", [3, 24])
def test_a_painted_picture_does_not_depend_on_what_is_painted_with_it(name, side):
    """In groups filled up to one size, whatever else is in the group and wherever in it."""
    codec = codecs[name].tiny().eval()
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(codec.vocabulary, (19, side, side), generator=rng)
    together = paint(codec, codes)
    assert together.shape == (19, side * codec.downsample, side * codec.downsample, 3)
    for i in (0, 7, 15, 16, 18):
        assert np.array_equal(paint(codec, codes[i : i + 1])[0], together[i])
    order = torch.randperm(19, generator=rng)
    assert np.array_equal(paint(codec, codes[order]), together[order.numpy()])
    near = to_uint8(codec.decode(codes)).astype(int) - together.astype(int)
    assert abs(near).max() <= 1  # the last bit of a float may be that of another byte
    assert paint(codec, codes[:0]).shape == (0, *together.shape[1:])


def test_seed_and_caption_decide_the_picture(model):
    same = model.draw(["a red 3"] * 2, [7, 7])
    other = model.draw(["a red 3"] * 4, [8, 9, 10, 11])
    assert np.array_equal(same[0], same[1])
    assert any(not np.array_equal(same[0], picture) for picture in other)
    spaced = model.draw(["  a\tred \n 3 "], [7])
    assert np.array_equal(spaced[0], same[0])


def test_progress_counts_every_unit_of_every_picture(model):
    seen = []
    model.draw(CAPTIONS, range(5), batch=2, on_unit=seen.append)
    assert sum(seen) == 5 * model.generator.units


@pytest.mark.parametrize(
    "text", ["a red 3", " a  red\n3 ", "a <|eoi|> red <|image:0|> 3", "a RED 3"]
)
def test_prompts_are_read_as_preparation_reads_captions(model, text):
    tokenizer, v = model.generator.tokenizer, model.generator.config.vocabulary
    (prepared,) = CaptionEncoder.of(tokenizer)([clean_caption(text, "row")])
    ids = model.generator.prompt_ids(text)
    assert ids == [v.start, *prepared, v.begin]
    # No caption can begin or end a picture, or write a code of it.
    control = {v.begin, v.end, v.pad, *range(v.offset, v.offset + v.codes)}
    assert not control & set(ids[1:-1])


def test_another_codec_is_refused(codec):
    generator = generator_for(codec)
    other = VQCodec.seeded(codec.config, 1)
    with pytest.raises(ProvenanceError, match="its codes mean other pictures"):
        TextToImage(generator, other)
    with pytest.raises(ProvenanceError, match="no codec"):
        TextToImage(RasterGenerator.tiny(), codec)


def test_a_codec_that_was_exchanged_on_the_disk_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    VQCodec.seeded(model.codec.config, 1).save_pretrained(tmp_path / "model" / "codec")
    with pytest.raises(ProvenanceError):
        TextToImage.from_pretrained(tmp_path / "model", "cpu")


def test_saving_is_all_or_nothing(model, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.codec, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("captions", "seeds", "message"),
    [
        (["a", ""], [0, 1], "prompt 2: the caption is empty"),
        (["a\x00b"], [0], "prompt 1: the caption holds control characters"),
        (["a"], [0, 1], "1 captions and 2 seeds"),
        ("a red 3", [0], "a single string"),
    ],
)
def test_unusable_prompts_are_named(model, captions, seeds, message):
    with pytest.raises(InputError, match=message):
        model.draw(captions, seeds)


def test_folders_without_a_checkpoint_say_what_is_missing(model, tmp_path):
    with pytest.raises(InputError, match="no checkpoint here"):
        TextToImage.from_pretrained(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="training is not finished"):
        TextToImage.from_pretrained(tmp_path)
    model.generator.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="holds no codec"):
        TextToImage.from_pretrained(tmp_path)


def test_transformers_is_quiet_only_for_a_while(model, tmp_path, capfd):
    from transformers.utils import logging

    model.save_pretrained(tmp_path / "model")
    before = logging.get_verbosity(), logging.set_tqdm_hook(None)
    logging.set_tqdm_hook(before[1])
    TextToImage.from_pretrained(tmp_path / "model", "cpu")
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), quiet_transformers():
        _ = 1 / 0
    assert (logging.get_verbosity(), logging.set_tqdm_hook(before[1])) == before


def test_the_names_of_the_tour_are_there_and_cost_nothing_until_used():
    assert set(arra._HOMES) | {"__version__"} == set(arra.__all__)
    for name in arra.__all__:
        assert getattr(arra, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = arra.nonsense
    code = "import arra, sys, json; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


def test_nothing_but_tensors_and_json_is_saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    suffixes = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".txt"}
    assert load_file(tmp_path / "model" / "codec" / "model.safetensors")
