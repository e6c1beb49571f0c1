"""GenEval and DPG-Bench: pictures lie as the scorers walk them, whole, resumed and unmixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arra import cli
from arra.codecs import VQCodec
from arra.errors import InputError
from arra.files import read_json
from arra.generators.raster import RasterGenerator
from arra.inspection import describe
from arra.jobs import benchmarks
from arra.jobs.benchmarks import read_dpg, read_geneval
from arra.text_to_image import TextToImage

LINES = [
    {"tag": "colors", "include": [{"class": "3", "count": 1, "color": "red"}], "prompt": "a red 3"},
    {"tag": "counting", "include": [{"class": "5", "count": 2}], "prompt": "a blue 5",
     "exclude": [{"class": "5", "count": 3}]},
    {"tag": "single_object", "include": [{"class": "7", "count": 1}], "prompt": "a green 7"},
]  # fmt: skip
TEXTS = {"1": "a red 3", "10": "a blue 5 left of a red 3", "9": "a green 7"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved checkpoint of random weights, and the same loaded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = VQCodec.tiny()
    generator = RasterGenerator.tiny()
    generator.config = replace(generator.config, codec=codec.fingerprint())
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    TextToImage(generator, codec).save_pretrained(folder)
    return folder, TextToImage.from_pretrained(folder, "cpu")


@pytest.fixture
def geneval(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


@pytest.fixture
def dpg(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.txt").write_text(text + "\n")
    return folder


def run(folder: Path, layout: str, prompts: Path, out: Path, *more: str) -> int:
    command = ("generate", folder, "--layout", layout, "--prompts", prompts, "--out", out, *more)
    return cli.run([str(word) for word in (*command, "--guidance", "1", "--device", "cpu")])


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def drawn(model: TextToImage, prompt: str, seed: int) -> np.ndarray:
    from arra.settings import SamplingConfig

    return model.draw([prompt], [seed], SamplingConfig(guidance=1.0))[0]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_geneval_folders_are_what_its_scorer_walks(model, geneval, tmp_path):
    folder, loaded = model
    out = tmp_path / "out"
    assert run(folder, "geneval", geneval, out, "--seed", "5") == 0
    images = out / "images"
    assert sorted(path.name for path in images.iterdir()) == ["00000", "00001", "00002"]
    for number, line in enumerate(LINES):
        subfolder = images / f"{number:05d}"
        assert json.loads((subfolder / "metadata.jsonl").read_text()) == line
        samples = sorted((subfolder / "samples").iterdir())
        assert [path.name for path in samples] == [f"{n:04d}.png" for n in range(4)]
        for offset, path in enumerate(samples):
            assert np.array_equal(pixels(path), drawn(loaded, line["prompt"], 5 + offset))
    record = read_json(out / "benchmark.json")
    assert record["complete"] is True
    assert record["seeds"] == [5, 8]
    assert describe(out)["layout"] == "geneval"


def test_dpg_tiles_are_where_its_scorer_cuts(model, dpg, tmp_path):
    folder, loaded = model
    out = tmp_path / "out"
    assert run(folder, "dpg", dpg, out) == 0
    side = read_json(out / "benchmark.json")["side"]
    assert side == loaded.size[0]
    # the scorer takes every file here for a picture
    assert {path.name for path in (out / "images").iterdir()} == {f"{n}.png" for n in TEXTS}
    corners = ((0, 0), (side, 0), (0, side), (side, side))  # left, upper, in its order
    for name, text in TEXTS.items():
        sheet = Image.open(out / "images" / f"{name}.png")
        assert sheet.size == (2 * side, 2 * side)
        for seed, (left, upper) in enumerate(corners):
            tile = np.asarray(sheet.crop((left, upper, left + side, upper + side)))
            assert np.array_equal(tile, drawn(loaded, text, seed))


@pytest.mark.parametrize("layout", ["geneval", "dpg"])
def test_what_was_interrupted_ends_with_the_same_files(
    layout, model, geneval, dpg, tmp_path, monkeypatch
):
    prompts = {"geneval": geneval, "dpg": dpg}[layout]
    assert run(model[0], layout, prompts, tmp_path / "whole") == 0
    form = benchmarks._FORMS[layout]
    written: list[str] = []

    def killed(images, prompt, files):
        if written:
            (images / ".left.12345678.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(prompt.name)
        form.write(images, prompt, files)

    with monkeypatch.context() as patch:
        patch.setitem(benchmarks._FORMS, layout, replace(form, write=killed))
        assert run(model[0], layout, prompts, tmp_path / "cut") == 130
    assert read_json(tmp_path / "cut" / "benchmark.json")["complete"] is False
    assert run(model[0], layout, prompts, tmp_path / "cut") == 0
    assert files_of(tmp_path / "cut" / "images") == files_of(tmp_path / "whole" / "images")


def test_pictures_of_other_prompts_or_settings_do_not_mix(model, geneval, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(model[0], "geneval", geneval, out) == 0
    geneval.write_text(json.dumps(LINES[2]) + "\n")
    assert run(model[0], "geneval", geneval, out) == 3
    assert "prompts_sha256" in capsys.readouterr().err
    assert run(model[0], "geneval", geneval, out, "--overwrite") == 0
    assert [path.name for path in (out / "images").iterdir()] == ["00000"]
    assert run(model[0], "geneval", geneval, out, "--seed", "1") == 3
    (tmp_path / "mine" / "images").mkdir(parents=True)
    assert run(model[0], "geneval", geneval, tmp_path / "mine") == 2
    assert run(model[0], "geneval", geneval, tmp_path / "n", "--count", "2") == 2
    assert "4 pictures" in capsys.readouterr().err


def test_prompts_of_a_benchmark_are_checked_by_line(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    for text, complaint in (
        ('{"tag": "x", "prompt": "a"}', "line 1: no 'include'"),
        ('{"tag": "x", "include": [], "prompt": ""}', "line 1: the caption is empty"),
        ("nonsense", "line 1"),
        ("", "no prompt"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=complaint):
            read_geneval(path)
    with pytest.raises(InputError, match="no such file"):
        read_geneval(tmp_path / "missing.jsonl")


def test_the_question_file_of_dpg_gives_its_prompts(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    header = "item_id,text,proposition_id\n"
    rows = 'b2,"two, of them",1\nb2,"two, of them",2\na1,one,1\n'
    path.write_text(header + header + rows)
    found = {prompt.name: prompt.text for prompt in read_dpg(path)}
    assert found == {"a1": "one", "b2": "two, of them"}
    path.write_text(header + rows + "b2,other,3\n")
    with pytest.raises(InputError, match="another text for item 'b2'"):
        read_dpg(path)
    path.write_text(header + "v1.5,one,1\n")
    with pytest.raises(InputError, match="first dot"):  # the scorer would look for "v1"
        read_dpg(path)
    path.write_text("name,words\n")
    with pytest.raises(InputError, match="item_id and text"):
        read_dpg(path)
