"""The comparison of ways of decoding: what it keeps, shows and refuses; not its numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from arra import cli
from arra.errors import InputError
from arra.experiments.plotting import sheet
from arra.experiments.scene_judging import Worth, median_seconds
from arra.systems.arra.decoding import costs
from arra.systems.arra.decoding.costs import NODES, PassCost, measured_models, pass_costs
from arra.systems.arra.decoding.page import block, cost_table, record, table
from arra.systems.arra.decoding.running import (
    FILE,
    PICTURES,
    Decoded,
    DecodingResult,
    read_decoding,
)


@pytest.fixture
def result() -> DecodingResult:
    worth = Worth(0.5, 0.4, 0.6, 12.0)
    seconds = {"1": 0.04, "32": 0.01}
    plain = Decoded("plain", True, 5 * 10**6, 36.0, 1.0, None, seconds, 30.0, worth)
    drafted = replace(plain, way="guessed", passes=18.0, codes_per_pass=2.0, accepted=0.4,
                      seconds={"1": 0.02, "32": 0.02})  # fmt: skip
    rows = tuple(
        PassCost(name, "fp32", batch, nodes, 0.01, 0.01 * nodes)
        for name in ("1 M", "5 M")
        for batch in (1, 32)
        for nodes in (2, 4)
        if (batch, nodes) != (32, 4)
    )
    rest = {"date": "2026-01-01", "machine": {"cpu": "a cpu"}, "machine_class": "2 cores"}
    return DecodingResult((plain, drafted), rows, 3.0, 800, 256, 36, "full", 2, **rest)


def test_a_result_is_kept_and_shown(result, tmp_path):
    result.write(tmp_path / "runs" / FILE)
    sheet([("plain", np.zeros((2, 4, 4, 3), np.uint8))], tmp_path / "runs" / PICTURES, ["a", "b"])
    assert read_decoding(tmp_path / "runs" / FILE) == result
    record(tmp_path / "runs", tmp_path / "page")
    text = block("decoding", tmp_path / "page", "page")
    assert "| guessed | kept | 5.0 M | 18.0 | 2.00 | 40 | 20.00 (2.00) | 20.00 (0.50) |" in text
    assert "800 training steps" in text
    assert "| 5 M | fp32 | 32 | 10.00 | 2.0 |  |" in block("costs", tmp_path / "page", "page")
    for columns, rows in (table(result), cost_table(result)):
        assert {len(row) for row in rows} == {len(columns)}
    assert block("decoding", tmp_path, "page") is None
    (tmp_path / FILE).write_text(json.dumps({"format": 1, "decoded": [{}]}))
    with pytest.raises(InputError, match=r"decoding\.json: not the result"):
        block("decoding", tmp_path, "page")


def test_passes_are_timed_and_leave_the_cache_as_it_was(monkeypatch):
    monkeypatch.setattr(costs, "_SECONDS", 0.0)
    found = list(pass_costs(*measured_models("tiny")[0], "tiny"))
    assert [cost.nodes for cost in found] == list(NODES)
    assert all(cost.seconds > 0 and cost.steps == cost.seconds / cost.step for cost in found)


def test_a_median_is_taken_after_a_call_that_warms_up():
    calls = []
    assert median_seconds(lambda: calls.append(0), 3) >= 0.0
    assert len(calls) == 4


def test_it_runs_alone(capsys):
    assert cli.run(["bench", "decoding", "drawing"]) == 2
    assert "runs alone" in capsys.readouterr().err
