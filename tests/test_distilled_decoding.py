"""The claim of Distilled Decoding: grids whose law is known, the arms, the rule of the verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arra.experiments.digits import digits
from arra.files import read_json, to_plain
from arra.samplers.ancestral import AncestralSampler
from arra.settings import SamplingConfig
from arra.systems.distilled_decoding.arms import grids_of, make_student, mapped, noise_of, train_arm
from arra.systems.distilled_decoding.claim import _measures, judged
from arra.systems.distilled_decoding.pictures import draw, table
from arra.systems.distilled_decoding.recipe import (
    ARMS,
    DISTILLED,
    GRID,
    KINDS,
    SHUFFLED,
    tiny,
    tiny_digits,
)
from arra.systems.distilled_decoding.rule import (
    CELLS,
    RuleStepper,
    code_vectors,
    distance,
    edges,
    independent,
    true_tables,
)
from arra.systems.distilled_decoding.steps import HELPED, INDEPENDENT, SAME_NOISE, Pairs, taught
from arra.systems.distilled_decoding.teachers import codebook, painted, patches


def test_true_tables_are_those_of_the_rule():
    tables = true_tables()
    assert len(edges()) == len(set(edges())) == 24
    torch.testing.assert_close(tables.sum(dim=(1, 2)), torch.ones(24))
    apart = (tables - 1 / 64).abs().sum(dim=(1, 2)) / 2
    assert float(apart[:12].mean()) == pytest.approx(0.9 * 7 / 8, abs=1e-5)
    down = np.mean([0.9 ** (2 * column + 1) * 7 / 8 for column in range(4)])
    assert float(apart[12:].mean()) == pytest.approx(down, abs=1e-5)
    plain = AncestralSampler(SamplingConfig(guidance=1.0))
    drawn = plain(RuleStepper(), [None] * 3000, range(3000), batch=3000)
    assert distance(drawn) < 0.05


def test_noise_draws_the_rule_and_independent_cells_do_not():
    drawn = grids_of(noise_of(3000, 0), code_vectors(0), 60)
    assert distance(drawn) < 0.05
    assert distance(independent(drawn, 3000, 0)) == pytest.approx(0.69, abs=0.03)


def test_what_students_draw():
    student, noise = make_student(tiny(), code_vectors(0), 0).eval(), noise_of(5, 1)
    assert student.known == (0, 8)
    one, two = (mapped(student, noise, steps) for steps in (1, 2))
    assert one.shape == (5, CELLS)
    assert torch.equal(one[:, :8], two[:, :8])


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_trained_once(arm, tmp_path):
    first = train_arm(tiny(), arm, 0, tmp_path, True)
    assert train_arm(tiny(), arm, 0, tmp_path, True) == first
    assert 0 <= first["same one"] <= 1
    assert first["independent"] > 0.4


def test_squares_of_digits_come_back():
    known, _ = digits()
    squares = patches(known.pictures[:50])
    assert squares.shape == (50, 16, 4)
    own = squares.flatten(0, 1).unique(dim=0)
    codes = torch.cdist(squares, own[None]).argmin(dim=-1)
    assert np.array_equal(painted(codes, own), known.pictures[:50])
    assert codebook(type(known)(known.pictures[:50], known.labels[:50]), 8).shape == (8, 4)


def test_independent_codes_are_those_of_the_word_place_by_place():
    codes = torch.arange(24).view(8, 3)
    words = ["one", "two"] * 4
    drawn = Pairs(words, torch.zeros(8, 3, 1), codes).independent(["two"] * 300, range(300))
    for place in range(3):
        assert set(drawn[:, place].tolist()) == set(codes[1::2, place].tolist())
    assert len(drawn.unique(dim=0)) > 30  # of 4 ** 3 combinations, where pairs have 4


def test_students_of_digits_are_measured_beside_their_teachers(tmp_path):
    result = draw(tmp_path / "work", tmp_path / "out", tiny_digits())
    assert read_json(tmp_path / "out" / "steps.json") == to_plain(result)
    for kind, units in zip(KINDS, (16, 5), strict=True):
        ways = result["kinds"][kind]["ways"]
        assert ways[SAME_NOISE]["teachers_codes"] == 1.0
        passes = {name: way["passes"] for name, way in ways.items()}
        assert passes["teacher"] == units
        assert [passes[f"student, {n} step{'s' * (n > 1)}"] for n in (1, 2, 4)] == [1, 2, 4]
        assert passes[HELPED] == (11 if kind == GRID else 5)
        assert passes[INDEPENDENT] == 0
        assert ways[HELPED]["teachers_codes"] > ways["student, 1 step"]["teachers_codes"]
    assert table(result).count("\n") == 2 * 8 + 1
    for name in ("steps", "digits"):
        assert (tmp_path / "out" / f"{name}.png").is_file()
    _, student, pairs = taught(tiny_digits(), GRID, tmp_path / "work" / GRID)  # not again
    assert student.known == (0, 5, 9, 13)
    assert len(pairs.codes) == tiny_digits().pairs


def results(one=0.1, independent=0.69, sampled=0.68, teacher=0.02):
    """Two seeds with nearly the same numbers."""
    mine = {"one": one, "two": one, "independent": independent, "teacher": teacher}
    mine |= {"sampled": one, "same one": 0.9, "same two": 0.9, "step_seconds": 0.1}
    other = {**mine, "sampled": sampled}
    return {
        arm: [found, {name: value * 1.001 for name, value in found.items()}]
        for arm, found in ((DISTILLED, mine), (SHUFFLED, other))
    }


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "pass"),
        ({"one": 0.2}, "inconclusive"),
        ({"one": 0.5}, "fail"),
        ({"sampled": 0.1}, "inconclusive"),
        ({"teacher": 0.2}, "inconclusive"),
    ],
)
def test_the_rule_of_the_verdict(changes, verdict):
    found = results(**changes)
    assert judged(found)[0] == verdict
    assert _measures(found)[0].name.startswith("total variation")


def test_one_seed_is_not_enough():
    assert judged({arm: found[:1] for arm, found in results().items()})[0] == "inconclusive"
