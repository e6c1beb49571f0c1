"""The scene reader: geometry of its training pictures, a short training, and its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arra.data.scenes import DigitScenes, SceneConfig
from arra.errors import InputError
from arra.metrics.prompts import chance_level, prompt_accuracy
from arra.metrics.reader import ReaderConfig, ReaderOutput, SceneReader
from arra.metrics.reader_training import (
    ReaderTraining,
    _Truth,
    move,
    reader_losses,
    train_reader,
    worsen,
)
from arra.metrics.readings import ReadDigit
from arra.pixels import to_share


@pytest.fixture(scope="module")
def trained() -> tuple[SceneReader, float]:
    reader, report = train_reader(
        generator=torch.Generator().manual_seed(0),
        steps=90,
        reader_config=ReaderConfig(width=12),
        training=ReaderTraining(scenes=1000),
        quiet=True,
    )
    assert report.steps == 90
    assert report.pictures == 90 * 64
    assert all(np.isfinite(v) for v in report.losses.values())
    return reader, report.seconds


def test_a_short_training_beats_chance_by_far(trained: tuple[SceneReader, float]) -> None:
    reader, _ = trained
    pictures, scenes = DigitScenes(split="test", combinations="all").pictures(0, 200)
    found = prompt_accuracy(reader.read(pictures), scenes).values()
    chance = chance_level(scenes, np.random.default_rng(0)).values()
    assert found["digit"] > 0.6 > 2 * chance["digit"]
    assert found["colour"] > 0.9
    assert found["relation"] > 0.9
    assert found["count"] > 0.85
    assert found["ground"] > 0.95


def test_saving_and_loading_gives_equal_readings(
    trained: tuple[SceneReader, float],
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    reader, _ = trained
    pictures, _ = DigitScenes(split="test").pictures(0, 40)
    reader.save_pretrained(tmp_path / "reader")
    again = SceneReader.from_pretrained(tmp_path / "reader")
    assert again.read(pictures) == reader.read(pictures)
    assert again.fingerprint() == reader.fingerprint()
    assert again.name == f"scene-reader:{reader.fingerprint()[:8]}"
    assert again.config == reader.config
    features = reader.features(pictures)
    assert features.shape == (40, 64)
    assert np.array_equal(features, again.features(pictures))
    one_by_one = np.concatenate([reader.features(p[None]) for p in pictures[:4]])
    assert features[:4] == pytest.approx(one_by_one, abs=1e-5)


def test_training_repeats_itself() -> None:
    def train() -> str:
        reader, _ = train_reader(
            generator=torch.Generator().manual_seed(3),
            steps=3,
            training=ReaderTraining(scenes=64, batch=16),
            quiet=True,
        )
        return reader.fingerprint()

    state = torch.random.get_rng_state()
    assert train() == train()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_seconds_are_kept() -> None:
    _, report = train_reader(
        generator=torch.Generator().manual_seed(0),
        seconds=1.0,
        training=ReaderTraining(scenes=100, batch=16),
        quiet=True,
    )
    assert 0.9 < report.seconds < 3.0
    assert report.steps >= 2


def test_centres_move_with_the_pictures() -> None:
    # One bright dot a picture: its centre of mass must land where `move` says.
    rng = torch.Generator().manual_seed(0)
    pixels, centre = torch.zeros(64, 3, 40, 40), torch.zeros(64, 1, 2)
    for n in range(64):
        i, j = torch.randint(10, 30, (2,), generator=rng).tolist()
        pixels[n, :, i : i + 2, j : j + 2] = 1.0
        centre[n, 0] = torch.tensor([i + 1.0, j + 1.0])
    moved, told = move(pixels, centre, rng)
    mass = moved[:, 0] / moved[:, 0].sum(dim=(1, 2), keepdim=True)
    where = torch.arange(40) + 0.5
    row, column = (mass.sum(2) * where).sum(1), (mass.sum(1) * where).sum(1)
    assert torch.stack([row, column], 1).numpy() == pytest.approx(told[:, 0].numpy(), abs=0.35)
    assert (told - centre).abs().max() > 2


def test_worsening_changes_only_a_share_and_stays_in_range() -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(32, 3, 24, 24, generator=rng)
    assert torch.equal(worsen(pixels, 0.0, rng), pixels)
    worse = worsen(pixels, 1.0, rng)
    assert (worse - pixels).abs().amax(dim=(1, 2, 3)).min() > 0
    assert worse.min() >= 0
    assert worse.max() <= 1


def _output(side: int, cells: dict[tuple[int, int], tuple[float, float, float, int, int]]):  # type: ignore[no-untyped-def]
    """Logits for one picture; cell -> (objectness, row offset, column offset, digit, colour)."""
    objectness = torch.full((1, side, side), -9.0)
    offset = torch.zeros(1, 2, side, side)
    digit, colour = torch.zeros(1, 10, side, side), torch.zeros(1, 6, side, side)
    for (i, j), (logit, down, across, value, ink) in cells.items():
        objectness[0, i, j] = logit
        offset[0, :, i, j] = torch.tensor([down, across])
        digit[0, value, i, j] = 9.0
        colour[0, ink, i, j] = 9.0
    ground = torch.tensor([[0.0, 3.0, 0.0]])
    return ReaderOutput(objectness, offset, digit, colour, ground, torch.zeros(1, 64))


def test_readings_follow_from_logits() -> None:
    reader = SceneReader(ReaderConfig())
    cells = {
        (1, 1): (2.0, 0.25, 0.0, 7, 0),
        (1, 2): (1.0, 0.0, -0.5, 1, 1),  # the shoulder of the first
        (4, 4): (4.0, 0.0, 0.0, 2, 3),
        (1, 5): (-1.0, 0.0, 0.0, 9, 2),  # below the threshold
    }
    (reading,) = reader._readings(_output(6, cells))
    assert reading.ground == "navy"
    first, second = reading.digits
    assert (first.value, first.colour, first.row, first.column) == (2, "blue", 12.0, 12.0)
    assert (second.value, second.colour, second.row, second.column) == (7, "red", 1.0, 0.0)
    assert isinstance(first, ReadDigit)
    assert first.confidence > second.confidence > 0.4


def test_losses_are_smallest_at_the_truth() -> None:
    truth = _Truth(
        centre=torch.tensor([[[6.0, 6.0], [18.0, 19.0], [0.0, 0.0]]]),
        digit=torch.tensor([[7, 2, -1]]),
        colour=torch.tensor([[0, 3, -1]]),
        ground=torch.tensor([1]),
    )
    right = {(1, 1): (9.0, 0.0, 0.0, 7, 0), (4, 4): (9.0, 0.0, 0.25, 2, 3)}
    best = reader_losses(_output(6, right), truth, 4, 12)
    assert best["objectness"] < 0.01
    assert best["offset"] == 0
    changes = {
        "objectness": {(1, 1): right[1, 1], (4, 3): right[4, 4]},
        "offset": {**right, (1, 1): (9.0, 0.5, 0.0, 7, 0)},
        "digit": {**right, (1, 1): (9.0, 0.0, 0.0, 1, 0)},
        "colour": {**right, (1, 1): (9.0, 0.0, 0.0, 7, 5)},
    }
    for name, cells in changes.items():
        worse = reader_losses(_output(6, cells), truth, 4, 12)
        assert worse[name] > best[name] + 0.1


@pytest.mark.parametrize(
    "scene",
    [
        SceneConfig(size=30, digit=10, step=5),
        SceneConfig(size=40, digit=16, step=8, most=2),
        SceneConfig(size=12, digit=6, step=2, most=1),
    ],
)
def test_other_scenes_have_other_grids(scene: SceneConfig) -> None:
    config = ReaderConfig(scene=scene, width=8)
    reader, _ = train_reader(
        generator=torch.Generator().manual_seed(0),
        steps=1,
        reader_config=config,
        training=ReaderTraining(scenes=16, batch=16),
        quiet=True,
    )
    pictures, _ = DigitScenes(scene, "test").pictures(0, 3)
    output = reader(to_share(pictures))
    side = -(-scene.size // config.stride)
    assert output.objectness.shape == (3, side, side)
    assert len(reader.read(pictures)) == 3


def test_wrong_pictures_and_settings_are_refused() -> None:
    reader = SceneReader(ReaderConfig()).eval()
    with pytest.raises(InputError, match="expected uint8"):
        reader.read(np.zeros((1, 32, 32, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="training mode"):
        reader.train().read(np.zeros((1, 24, 24, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="either steps or seconds"):
        train_reader(generator=torch.Generator(), steps=1, seconds=1.0)
