"""SequenceMatch: mistakes in data, the replay of a run that is stopped, and the claim's rule."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arra import cli
from arra.errors import InputError
from arra.experiments.digits import digits, train_judge
from arra.generators.backspace_batches import BackspaceBatches, noised
from arra.generators.backspacing import Writing
from arra.generators.base import DATA, MODEL, NOISE
from arra.jobs.imitation import tune
from arra.labels import read_png
from arra.networks.part import weights_fingerprint
from arra.orders.backspaces import written
from arra.samplers.backtracking import standing
from arra.settings import BatchConfig, SamplingConfig
from arra.systems.base import get_system, result_of
from arra.systems.sequencematch.additions import FIGURES, WRITTEN, additions, corrupted
from arra.systems.sequencematch.arms import train_additions, train_pictures, writer
from arra.systems.sequencematch.claim import judged
from arra.systems.sequencematch.pictures import ERASE, Written, picture, plot, plot_texts, tokens
from arra.systems.sequencematch.pictures import written as written_rows
from arra.systems.sequencematch.recipe import (
    ARMS,
    BACKSPACE,
    LIKELIHOOD,
    MATCH,
    tiny,
)
from arra.text_to_image import TextToImage
from arra.training.replay import Replay, ReplayConfig

WRITING = Writing((1,), (), tuple(range(2, 7)), 7, 8, 0, 4)


@pytest.fixture(scope="module")
def judge():
    return train_judge(*digits(), crop=0)


@given(st.lists(st.integers(0, 4), max_size=4), st.floats(0, 1), st.integers(0, 9))
def test_mistakes_are_undone_and_marked(codes, rate, seed):
    actions, source = noised(codes, WRITING, rate, np.random.default_rng(seed))
    end = len(WRITING.ids)
    assert standing(actions, end) == codes
    assert actions[-1] == end
    for n, (action, who) in enumerate(zip(actions, source, strict=True)):
        assert who == (NOISE if n + 1 < len(actions) and actions[n + 1] == end + 1 else DATA)
        if who == NOISE:
            assert action != actions[n + 2]
    written([0, *(WRITING.actions[a] for a in actions)], WRITING.backspace)
    if rate == 0:
        assert actions == [*codes, end]


def test_every_wrong_token_occurs():
    random = np.random.default_rng(0)
    seen = [noised([2], WRITING, 1.0, random)[0] for _ in range(200)]
    assert {row[0] for row in seen} == {0, 1, 3, 4}
    assert {row[3] for row in seen} == {0, 1, 2, 3, 4}


def test_additions_are_right_and_apart():
    known, held_out = additions(50, 20, 1)
    for asked, answer in zip(known.prompts, known.answers.tolist(), strict=True):
        one, other = (int("".join(part.split()[::-1])) for part in asked[:-2].split("+"))
        assert one + other == int("".join(map(str, reversed(answer))))
    assert not {*map(tuple, known.pairs.tolist())} & {*map(tuple, held_out.pairs.tolist())}
    for more in (0, 1):
        for row, right in zip(
            corrupted(known.answers, 0, more), known.answers.tolist(), strict=True
        ):
            at = len(row) - more - 1
            assert row[at] != right[at]
            assert [*row[:at], *row[at + 1 :]] == [*right[:at], *right[at + 1 : at + 1 + more]]


def test_replay_takes_what_was_there_in_time(tmp_path):
    config = ReplayConfig(start=4, every=2, texts=3, kept=2, batch=5)
    replay = Replay(tmp_path, config)
    assert [replay.times(s) for s in (0, 4, 5, 6, 7, 8, 9)] == [
        [],
        [],
        [4],
        [4],
        [4, 6],
        [4, 6],
        [6, 8],
    ]
    assert [done for done in range(9) if replay.is_due(done)] == [4, 6, 8]
    for done in (4, 6):
        replay.write(done, [([done], [done, 1]), ([], [done])])
    random = np.random.default_rng(0)
    assert replay.sample(3, random) == []
    found = replay.sample(7, random)
    assert len(found) == 5
    assert {done for _, (done, *_) in found} <= {4, 6}
    again = Replay(tmp_path, config).sample(7, np.random.default_rng(5))
    assert again == replay.sample(7, np.random.default_rng(5))
    with pytest.raises(InputError, match="other settings"):
        Replay(tmp_path, config, seed=1).sample(7, random)
    with pytest.raises(InputError, match="after step 8"):
        Replay(tmp_path, config).sample(9, random)
    for start in (0, 3):
        with pytest.raises(InputError, match="multiple of every"):
            ReplayConfig(start=start, every=2)


def task(folder, steps, seed=0):
    """Train the tiny model of additions for so many steps; its weights."""
    recipe = tiny()
    generator = writer(recipe.additions.size, seed)
    known, _ = additions(recipe.sums, recipe.asked, seed)
    store = known.store([generator.caption_ids(text) for text in known.prompts])
    tuning = recipe.additions.of(MATCH)
    config = replace(tuning.train, steps=steps, schedule="constant", checkpoint_every=3)
    writing = Writing.of_text(generator, WRITTEN, FIGURES)
    tune(generator, store, writing, replace(tuning, train=config).seeded(seed), folder)
    return weights_fingerprint(generator)


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path):
    """Also where the texts that it had written are gone, and must be those of the same weights."""
    straight = task(tmp_path / "one", 8)
    task(tmp_path / "two", 5)
    assert task(tmp_path / "two", 8) == straight
    files = [
        {f.name: f.read_bytes() for f in (tmp_path / name / "replay").iterdir()}
        for name in ("one", "two")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 4  # after 2, 4, 6 and 8 steps


def test_batches_hold_data_mistakes_and_own_texts(tmp_path):
    recipe = tiny()
    generator = writer(recipe.additions.size, 0)
    known, _ = additions(recipe.sums, recipe.asked, 0)
    store = known.store([generator.caption_ids(text) for text in known.prompts])
    writing = Writing.of_text(generator, WRITTEN, FIGURES)
    replay = Replay(tmp_path, ReplayConfig(start=2, every=2, texts=2, batch=3))
    replay.write(2, [([8, 9], [1, 11, 2, 10]), ([9], [10])])
    batches = BackspaceBatches(
        store, writing, BatchConfig(4, drop_caption=0.0), rate=0.5, replay=replay
    )
    batch = batches.batch(3)
    assert torch.equal(batch.tokens, batches.batch(3).tokens)
    assert not torch.equal(batch.tokens, batches.batch(4).tokens)
    here = batch.target >= 0
    rows = [set(batch.source[row][here[row]].tolist()) for row in range(7)]
    assert all(found <= {DATA, NOISE} for found in rows[:4])
    assert {NOISE} & set.union(*rows)
    assert rows[4:] == [{MODEL}] * 3
    assert (batches.batch(0).source != MODEL).all()


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_trained_once(arm, tmp_path):
    first = train_additions(tiny(), arm, 0, tmp_path, True)
    assert train_additions(tiny(), arm, 0, tmp_path, True) == first
    assert 0 <= first["accuracy"] <= 1
    assert arm != LIKELIHOOD or first["backspaces"] == 0


def test_pictures_are_drawn_again_from_the_folder(judge, tmp_path):
    found = train_pictures(tiny(), judge, MATCH, 0, tmp_path, True)
    assert 0 <= found["recovery"] <= 1
    model = TextToImage.from_pretrained(tmp_path / f"pictures-{MATCH}-0" / "model", "cpu")
    plain = SamplingConfig(guidance=1.0)
    one = model.draw_codes(["three"] * 2, [1, 2], plain, sampler="backtracking")
    assert one.shape == (2, 4, 4)
    alone = model.draw_codes(["three"], [2], plain, sampler="backtracking")
    assert torch.equal(alone[0], one[1])
    asked = ("--sampler", "backtracking", "--guidance", "1", "--count", "2", "--seed", "1")
    folder = str(tmp_path / f"pictures-{MATCH}-0" / "model")
    assert cli.run(["generate", folder, "three", "--out", str(tmp_path / "drawn"), *asked]) == 0
    pictures = [read_png(path) for path in sorted((tmp_path / "drawn").glob("three-*.png"))]
    assert np.array_equal(np.stack(pictures), model.paint(one))
    with pytest.raises(InputError, match="fp32"):
        model.draw_codes(["three"], [2], sampler="backtracking", precision="bf16")


def results(match=0.8, baseline=0.6, control=0.5, accuracy=0.9, alone=0.9):
    """Two seeds with nearly the same numbers."""

    def two(recovery, right):
        return [{"recovery": recovery * f, "accuracy": right * f} for f in (1.0, 1.001)]

    return {
        MATCH: two(match, accuracy),
        BACKSPACE: two(baseline, accuracy),
        LIKELIHOOD: two(control, alone),
    }


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"baseline": 0.8}, "fail"),
        ({"baseline": 0.9}, "fail"),
        ({"alone": 0.95}, "fail"),
        ({"alone": 0.92}, "inconclusive"),
        ({"baseline": 0.77}, "inconclusive"),
        ({"accuracy": 0.4, "alone": 0.4}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    assert judged(results(**changes))[0] == verdict


def test_one_seed_is_not_enough():
    assert judged({arm: found[:1] for arm, found in results().items()})[0] == "inconclusive"


def test_what_is_taken_back_is_struck_out():
    """3 (given), 7 (given, wrong), taken back with the 5 behind it, then 6, and the end."""
    end = len(FIGURES)
    row = Written("1 + 2 =", MATCH, 2, (3, 7, 5, end + 1, end + 1, 6, end), True)
    shown = tokens(row)
    assert [label for label, _, _ in shown] == ["3", "7", "5", ERASE, ERASE, "6"]
    assert [struck for _, _, struck in shown] == [False, True, True, False, False, False]
    assert len({colour for _, colour, _ in shown[:3]}) == 3


def test_pictures_of_the_page(judge, tmp_path):
    """All arms go on after the same beginnings; every picture is written."""
    recipe = tiny()
    for arm in ARMS:
        train_additions(recipe, arm, 1, tmp_path, True)
        train_pictures(recipe, judge, arm, 1, tmp_path, True)
    rows = written_rows(tmp_path, 1, recipe)
    end = len(FIGURES)
    for sum_, here in groupby(rows, lambda row: row.prompt):
        one, *others = here
        assert [one.arm, *(other.arm for other in others)] == list(ARMS), sum_
        assert all(o.actions[: o.given] == one.actions[: one.given] for o in others)
        assert end + 1 not in others[-1].actions  # who has never seen a backspace
    plot_texts(rows, tmp_path / "texts.png")
    picture(tmp_path, 1, tmp_path / "digits.png")
    result = result_of(get_system("sequencematch"))
    assert result is not None
    plot(result, tmp_path / "arms.png")
    assert result.seeds == (1, 2, 3)
    for name in ("texts", "digits", "arms"):
        assert Image.open(tmp_path / f"{name}.png").size[0] > 400
