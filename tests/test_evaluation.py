"""Evaluation of sets of pictures: Inception, class scores, where pictures come from, the report."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from arra import cli
from arra.data.scenes import DigitScenes, SceneConfig
from arra.encoders import SmallEncoder
from arra.errors import InputError
from arra.files import read_json
from arra.jobs import evaluation_parts
from arra.jobs.evaluation_parts import Ground, teachers
from arra.jobs.options import SourceOptions
from arra.jobs.picture_sets import open_set
from arra.metrics import inception
from arra.metrics.classifier_score import Classifier, classifier_score
from arra.metrics.frechet import Gaussian, sample_distance
from arra.metrics.inception import Inception, InceptionNetwork, find_inception, resized
from arra.randomness import seeded


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of Inception in a PyTorch file, as the published ones lie."""
    with seeded(0):
        network = InceptionNetwork()
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.05)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures():
    """Pictures of digit scenes (80, 32, 32, 3) uint8, real enough to be blurred."""
    config = SceneConfig(size=32, digit=12)
    return DigitScenes(config, "train", seed=0, combinations="all").pictures(0, 80)[0]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "small"
    SmallEncoder.tiny().save_pretrained(folder)
    return folder


def evaluate(out: Path, *arguments: object) -> dict:
    command = ["evaluate", "--out", str(out), *map(str, arguments)]
    assert cli.run(command) == 0
    return read_json(out / "evaluation.json")


def values_of(result: dict) -> dict[str, dict]:
    return {measure["name"]: measure for measure in result["measures"]}


def save_all(folder: Path, pictures: np.ndarray, **options) -> Path:
    folder.mkdir()
    ending = "jpg" if options else "png"
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:03d}.{ending}", **options)
    return folder


# Inception


def test_inception_has_the_names_and_shapes_of_the_published_file(weights):
    state = torch.load(weights, weights_only=True)
    assert len(state) == 566  # of the published file
    assert state["fc.weight"].shape == (1008, 2048)
    assert state["Mixed_6b.branch7x7dbl_5.conv.weight"].shape == (192, 128, 1, 7)
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(inception._pool("average", ones), ones)  # the padding does not count


def test_inception_equals_torch_fidelity(weights):
    reference = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError
    )
    theirs = reference.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    pixels = np.random.default_rng(1).integers(0, 256, (2, 299, 299, 3)).astype(np.uint8)
    features, logits = Inception(weights).see(pixels)
    expected = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert features == pytest.approx(expected[0].numpy(), abs=1e-6)
    assert logits == pytest.approx(expected[1].numpy(), abs=1e-6)


def test_only_the_published_weights_are_called_fid(weights, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "SIDE", 96)  # a tenth of the work, and as good for names
    few = pictures[:3]
    found = Inception(weights)
    features, logits = found.see(few)
    assert features.dtype == logits.dtype == np.float64
    assert features.shape == (3, 2048)
    assert not found.genuine
    assert found.name.startswith("inception:")
    save_file(torch.load(weights, weights_only=True), tmp_path / "same.safetensors")
    assert np.array_equal(Inception(tmp_path / "same.safetensors", batch=1).see(few[:1])[0],
                          Inception(weights, batch=1).see(few[:1])[0])  # fmt: skip
    monkeypatch.setattr(inception, "INCEPTION_SHA256", found.digest)
    real, drawn = save_all(tmp_path / "real", pictures[:16]), save_all(tmp_path / "drawn", few)
    Gaussian.of(np.eye(40, 2048)).save(tmp_path / "reference.npz")
    given = ("--pictures", drawn, "--source", real, "--inception", weights)
    given += ("--statistics", tmp_path / "reference.npz")
    result = evaluate(tmp_path / "out", *given)
    value = values_of(result)["FID to given statistics"]
    expected = sample_distance(np.eye(40, 2048), features)
    assert value["value"] == pytest.approx(expected, rel=1e-6)
    assert value["encoder"].startswith("inception-2015:")
    assert any("another program made these statistics" in text for text in result["warnings"])
    assert "expected 8" in result["skipped"]["Fréchet distance"]


def test_distances_in_other_weights_are_named_and_warned_of(
    weights, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(inception, "SIDE", 96)  # a tenth of the work, and as good for names
    real, drawn = save_all(tmp_path / "r", pictures[:16]), save_all(tmp_path / "d", pictures[16:24])
    given = ("--pictures", drawn, "--source", real, "--inception", weights)
    result = evaluate(tmp_path / "out", *given)
    names = {m["name"]: m["encoder"] for m in result["measures"]}
    assert names["Fréchet distance"].startswith("inception:")
    assert names["kernel distance"].startswith("inception:")
    assert not any("FID" in name or "KID" in name or "Inception" in name for name in names)
    assert any("not the published Inception weights" in text for text in result["warnings"])
    assert any("below 20 x 2048 dimensions" in text for text in result["warnings"])
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "Pillow bicubic with antialiasing" in page


def test_weights_that_are_none_are_refused_and_run_nothing(weights, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"fc.weight": Evil()}, protocol=2))
    with pytest.raises(InputError, match="cannot be read as weights"):
        Inception(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the weights of the Inception network"):
        Inception(tmp_path / "other.pth")
    with pytest.raises(InputError, match="no such file"):
        find_inception(str(tmp_path / "missing.pth"))

    def unreachable(*arguments, **options):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError, match=r"neither in .* nor reachable .*no route.*give its path"):
        find_inception("auto")
    there = tmp_path / "checkpoints" / inception.INCEPTION_FILES[1]
    there.write_bytes(weights.read_bytes())
    assert find_inception("auto") == there


def test_resizing_antialiases_and_stays_in_range():
    board = np.indices((598, 598)).sum(axis=0) % 2 * 255
    small = resized(np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8))
    assert small.shape == (299, 299, 3)
    assert np.abs(small[4:-4, 4:-4] - 127.5).max() < 1  # a filter without it picks 0 or 255
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 255
    large = resized(step)
    assert large.min() == 0
    assert large.max() == 255  # bicubic overshoots both


# Class scores


def test_class_score_equals_its_formula_and_spares_the_random_state():
    logits = np.random.default_rng(0).normal(size=(40, 5)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = math.exp((p * np.log(p / p.mean(axis=0))).sum(axis=1).mean())
    before = torch.get_rng_state()
    assert classifier_score(logits, encoder="e", splits=1).value == pytest.approx(expected)
    first, again = (classifier_score(logits, encoder="e", seed=3) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)
    sure = np.tile(np.eye(5) * 100, (8, 1))
    assert classifier_score(sure, encoder="e", splits=1).value == pytest.approx(5.0)
    with pytest.raises(InputError, match="at least 10"):
        classifier_score(logits[:4], encoder="e")


def test_a_classifier_of_transformers_gives_its_logits_under_its_name(tmp_path, pictures):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "image_size": 16, "patch_size": 8}
    config = ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, num_labels=4)
    with seeded(0):
        model = ViTForImageClassification(config).eval()
        ViTModel(config).save_pretrained(tmp_path / "headless")
    model.save_pretrained(tmp_path / "judge")
    for name in ("judge", "headless"):
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / name)
    judge = Classifier(str(tmp_path / "judge"), batch=3)
    pixels = judge.preprocessing([Image.fromarray(picture) for picture in pictures[:4]])
    with torch.no_grad():
        expected = model(pixel_values=pixels).logits.numpy()
    assert judge.logits(pictures[:4]) == pytest.approx(expected, abs=1e-5)
    assert judge.name.startswith("judge:")
    with pytest.raises(InputError, match="lacks"):  # transformers would make up a head
        Classifier(str(tmp_path / "headless"))


# Sets of pictures


def test_a_set_is_read_from_files_arrays_and_listings(pictures, tmp_path):
    options = SourceOptions()
    files = open_set(str(save_all(tmp_path / "files", pictures[:5])), options)
    assert np.array_equal(files.pictures, pictures[:5])
    assert files.captions is None
    assert files.facts["format"] == {"PNG": 5}
    assert files.facts["resized"] is None
    np.savez(tmp_path / "adm.npz", arr_0=pictures[:6])
    array = open_set(str(tmp_path / "adm.npz"), options)
    assert np.array_equal(array.pictures, pictures[:6])
    assert len(open_set(str(tmp_path / "adm.npz"), options, most=4)) == 4
    listed = save_all(tmp_path / "listed", pictures[:3])
    for number in range(3):
        (listed / f"{number:03d}.txt").write_text(f"number {number}")
    assert open_set(str(listed), options).captions == ["number 0", "number 1", "number 2"]
    small = open_set(str(tmp_path / "files"), options, size=(16, 16))
    assert small.pictures.shape == (5, 16, 16, 3)
    assert "lanczos" in small.facts["resized"]


def test_what_is_no_set_of_pictures_is_refused_by_name(tmp_path):
    options = SourceOptions()
    np.savez(tmp_path / "words.npz", other=np.zeros(3))
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 4, 4, 3)))
    for name, complaint in (("words.npz", "holds other"), ("floats.npz", "float64")):
        with pytest.raises(InputError, match=complaint):
            open_set(str(tmp_path / name), options)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png"):
        open_set(str(tmp_path / "damaged"), options)
    for arguments, complaint in (
        ((), "name a checkpoint"),
        (("--pictures", tmp_path), "--source"),
        (("--pictures", tmp_path, "--source", tmp_path, "--scenes"), "need a checkpoint"),
        (("--pictures", tmp_path, "--statistics", tmp_path / "x"), "--inception"),
    ):
        assert cli.run(["evaluate", "--out", str(tmp_path / "o"), *map(str, arguments)]) == 2, (
            complaint
        )


# Two sets


def blurred(pictures: np.ndarray, radius: float) -> np.ndarray:
    images = (Image.fromarray(p).filter(ImageFilter.GaussianBlur(radius)) for p in pictures)
    return np.stack([np.asarray(image) for image in images])


def test_distances_of_two_sets_grow_with_damage_and_real_ones_give_the_floor(
    pictures, encoder, tmp_path
):
    np.savez(tmp_path / "real.npz", images=pictures[:40])
    found = {}
    sets = {"real": pictures[40:60], "slight": blurred(pictures[40:60], 0.7),
            "strong": blurred(pictures[40:60], 2.0)}  # fmt: skip
    for name, some in sets.items():
        np.savez(tmp_path / f"{name}-set.npz", images=some)
        given = ("--pictures", tmp_path / f"{name}-set.npz", "--source", tmp_path / "real.npz")
        found[name] = evaluate(tmp_path / name, *given, "--encoders", encoder)
    distance = {name: values_of(result)["Fréchet distance"] for name, result in found.items()}
    floor = values_of(found["real"])["Fréchet distance, floor"]
    assert distance["real"]["value"] < 2 * floor["interval"]["high"]
    assert distance["real"]["value"] < distance["slight"]["value"] < distance["strong"]["value"]
    assert all(d["n"] == 20 for d in (*distance.values(), floor))
    kernel = {name: values_of(result)["kernel distance"]["value"] for name, result in found.items()}
    assert kernel["slight"] < kernel["strong"]
    # the same seed, set and encoder give the same floor in whatever company
    floors = [values_of(result)["Fréchet distance, floor"]["value"] for result in found.values()]
    assert len({round(value, 9) for value in floors}) == 1


def test_a_report_names_the_traps(pictures, encoder, tmp_path):
    real = save_all(tmp_path / "real", pictures[:20])
    twice = np.concatenate([pictures[20:28], pictures[20:21]])
    drawn = save_all(tmp_path / "drawn", twice, format="JPEG", quality=80)
    given = ("--pictures", drawn, "--source", real, "--encoders", encoder)
    result = evaluate(tmp_path / "out", *given)
    warnings, notes = " ".join(result["warnings"]), " ".join(result["notes"])
    assert "JPEG" in warnings
    assert "1 of 9 pictures to judge are copies" in warnings
    assert "below 20 x 8 dimensions" in warnings
    for words in ("split: not stated", "float64", "8 bits", "same number everywhere", "unknown"):
        assert words in notes
    page = (tmp_path / "out" / "evaluation.md").read_text()
    for text in (*result["warnings"], *result["notes"], *result["skipped"].values()):
        assert text in page


def test_teachers_are_the_encoders_that_the_run_was_aligned_with(tmp_path, monkeypatch):
    plain, named = {"weights": "abc", "model": None}, {"model": "a/b", "weights": "d"}
    settings = SimpleNamespace(encoders={"": plain, "big": named})
    store = SimpleNamespace(provenance=SimpleNamespace(settings=settings))
    monkeypatch.setattr(Ground, "store", store)
    ground = Ground(None, None)
    assert teachers(ground, None) == {"abc", "a/b", "d"}
    for align, expected in (
        ([], set()),
        ([{"encoder": "", "weight": 1.0}, {"encoder": "big", "weight": 0.0}], {"abc"}),
        ([{"encoder": "big", "weight": 1.0}], {"a/b", "d"}),
    ):
        (tmp_path / evaluation_parts.RUN).write_text(json.dumps({"settings": {"align": align}}))
        assert teachers(ground, tmp_path / "model") == expected
