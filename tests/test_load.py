"""The load test: equal arrivals for all, every picture compared, and numbers that say what was."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from transformers import LlamaConfig

from arra.cli import run as arra
from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.vq import VQCodec, VQConfig
from arra.errors import InputError
from arra.experiments.load.asked import Pool, poisson
from arra.experiments.load.config import SETTINGS, LoadConfig
from arra.experiments.load.driving import Level, drive, saturate
from arra.experiments.load.page import block, bound_table, rate_table, record, work_table
from arra.experiments.load.results import LoadResult, Wire, crossing, read_load, sustained
from arra.experiments.load.targets import OneAtATime, RunningBatch, StaticBatches
from arra.experiments.load.wire import Stop
from arra.serving.requests import Full
from arra.text_to_image import TextToImage
from lm_kit import CAPTIONS, PADDED, SHAPE
from test_decoding import generator_of


@pytest.fixture(scope="module")
def model() -> TextToImage:
    generator = generator_of(LlamaConfig(**{**SHAPE, "vocab_size": PADDED}))
    codec = VQCodec.seeded(VQConfig(AutoencoderConfig(width=8), vocabulary=16), 0).eval()
    generator.config = replace(generator.config, codec=codec.fingerprint())
    return TextToImage(generator, codec)


@pytest.fixture(scope="module")
def pool(model) -> Pool:
    return Pool(model, CAPTIONS, 12, 3)


def targets(model, window=0.005):
    return [OneAtATime(model), StaticBatches(model, 8, window), RunningBatch(model, 8, 100)]


def test_arrivals_are_a_poisson_process_and_the_same_for_all(pool):
    arrivals = poisson(pool, 200.0, 50.0, 8, 3)
    assert arrivals == poisson(pool, 200.0, 50.0, 8, 3)
    assert arrivals != poisson(pool, 200.0, 50.0, 8, 3, level=1)
    gaps = np.diff([0.0, *(a.at for a in arrivals)])
    assert len(arrivals) == pytest.approx(10_000, rel=0.04)
    assert gaps.min() >= 0
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.04)  # as exponential ones have it
    counts = np.unique([a.client for a in arrivals], return_counts=True)[1]
    assert len(counts) == 8
    assert counts.min() > 1000
    assert arrivals[-1].at < 50.0
    assert {a.asked.number for a in arrivals} == set(range(12))


@pytest.mark.parametrize("which", range(3))
def test_every_target_draws_the_pictures_that_each_request_gets_alone(model, pool, which):
    assert pool.different == len(pool)
    target = targets(model)[which]
    try:
        level = drive(target, pool, poisson(pool, 80.0, 0.5, 4, which), 80.0)
        full = saturate(target, pool, 6, 0.3)
    finally:
        target.close()
    for one in (level, full):
        assert one.asked == one.right > 5
        assert one.wrong == one.lost == one.failed == one.refused == 0
        # nine units a picture, of which the first comes with the prompt
        assert one.work["rows"] - one.work["wasted"] == 2 * 8 * one.right
        assert 0 < one.latency["p50"] <= one.latency["p95"] <= one.latency["max"]
    assert full.rate == 0
    assert full.longest <= 6


def test_a_static_batch_is_full_or_has_waited_and_is_of_one_kind(model, pool):
    target, drawn, done = StaticBatches(model, 8, 0.05), [], threading.Semaphore(0)
    inner = target._draw
    target._draw = lambda some: drawn.append([a.number for a in some]) or inner(some)
    try:
        for asked in [*pool.asked[:12:3], pool.asked[1], *pool.asked[0:6:3]]:
            target.submit(asked, "", lambda result: done.release())
        for _ in range(7):
            assert done.acquire(timeout=20)
    finally:
        target.close()
    assert sorted(map(sorted, drawn)) == [[0, 3], [0, 3, 6, 9], [1]]
    assert drawn[0] == [0, 3, 6, 9]  # full at four guided pictures, and so first


class Liar:
    """Gives wrong pictures, errors and no answers, in turn."""

    name, options = "liar", ""

    def __init__(self, pool):
        self.pool, self.turn = pool, 0

    def submit(self, asked, client, answer):
        kind, self.turn = self.turn % 5, self.turn + 1
        if kind < 4:
            right, wrong = (self.pool.pictures[(asked.number + n) % 12] for n in (0, 1))
            answer([right, wrong, Full("full"), ValueError("no")][kind])

    def work(self):
        return {"steps": 0, "rows": 0, "wasted": 0}

    def close(self):
        pass


def test_what_goes_astray_is_counted(pool):
    arrivals = poisson(pool, 2000.0, 0.02, 2, 0)[:10]
    level = drive(Liar(pool), pool, arrivals, 2000.0, patience=0.05)
    found = level.right, level.wrong, level.refused, level.failed, level.lost
    assert found == (2, 2, 2, 2, 2)
    assert level.p95 == math.inf


def test_a_target_that_falls_behind_is_cut_short(pool):
    class Slow(Liar):
        def submit(self, asked, client, answer):
            threading.Timer(0.2, answer, [self.pool.pictures[asked.number]]).start()

    level = drive(Slow(pool), pool, poisson(pool, 500.0, 1.0, 2, 0), 500.0, most=20)
    assert level.overloaded
    assert level.asked == level.right == 21
    assert level.p95 == math.inf
    assert level.latency["p95"] >= 0.2


def level(target: str, rate: float, p95: float, **given) -> Level:
    latency = {"p50": p95 / 2, "p95": p95, "p99": p95, "max": p95}
    work = {"steps": 10, "rows": 20, "wasted": 0}
    plain = {"seconds": 1.0, "asked": 10, "right": 10, "longest": 2, "outstanding": 1.0}
    zero = dict.fromkeys(("wrong", "refused", "failed", "lost"), 0)
    whole = {**plain, **zero, "overloaded": False, "latency": latency, "work": work, **given}
    return Level(target=target, rate=rate, **whole)


def test_the_rate_that_keeps_a_bound():
    levels = [level("x", r, p) for r, p in ((40, 0.4), (10, 0.1), (20, 0.2), (80, 0.1))]
    assert sustained(levels, 0.2) == 20
    assert sustained(levels, 0.3) == 20  # 80 came after one that was over it
    assert sustained(levels, 0.05) == 0
    assert crossing(levels, 0.2 * 2**0.5) == pytest.approx(30)
    assert crossing(levels, 0.05) == 0
    assert crossing(levels, 0.5) == 80
    lost = [level("x", 10, 0.1), level("x", 20, 0.1, right=9)]
    assert sustained(lost, 1.0) == crossing(lost, 1.0) == 10


@pytest.fixture
def result() -> LoadResult:
    names = ("one at a time", "static batches", "arra serve")
    levels = [level(n, r, r * f) for n, f in zip(names, (4e-3, 2e-3, 1e-3), strict=True)
              for r in (10, 20, 40, 80)]  # fmt: skip
    return LoadResult(
        *("a model", LoadConfig(), "full", 1.0, 36, 12, 12, 0.025, 0.08),
        options=dict.fromkeys(names, "as it is"),
        saturated=tuple(level(name, 0.0, 1.0) for name in names),
        levels=tuple(levels),
        soak=level("arra serve", 70.0, 0.08),
        memory=tuple((60.0 * n, 100.0 + max(n, 2)) for n in range(9)),
        wire=Wire(level("arra serve, over HTTP", 40.0, 0.09), 7, 8, (), Stop(5, 6, 0, 1.0, 0)),
        threads=2,
        date="2026-01-01",
        machine={"cpu": "a cpu"},
        machine_class="2 cores, no GPU",
    )


def test_a_result_is_kept_and_shown(result, tmp_path):
    assert [result.rate(name) for name in result.names] == [20, 40, 80]
    assert [result.ratio(name) for name in result.names[:2]] == [4, 2]
    assert result.slope == pytest.approx(1.0)
    result.write(tmp_path / "runs" / "load.json")
    assert read_load(tmp_path / "runs" / "load.json") == result
    record(tmp_path / "runs", tmp_path / "page")
    assert {p.name for p in (tmp_path / "page" / "demo").iterdir()} == {
        *("load.json", "latency.png", "memory.png")
    }
    text = block("demo", tmp_path / "page", "page")
    assert "3 times that, 80.0 ms" in text
    assert "0 wrong, 0 lost, 0 refused, 0 failed" in text
    assert "| 4.00 | ≥ 3 |" in text
    assert "7 others vanished and 8 read slowly" in text
    assert "5 requests got their picture, 6 were turned away, 0 lost" in text
    columns, rows = rate_table(result)
    assert {len(row) for row in rows} == {len(columns)}
    columns, rows = bound_table(result)
    assert {len(row) for row in rows} == {len(columns)}
    assert block("111M", tmp_path / "page", "page") is None
    (tmp_path / "111M").mkdir()
    (tmp_path / "111M" / "load.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"load\.json: not the result"):
        block("111M", tmp_path, "page")


def test_a_tiny_budget_shows_that_it_runs(tmp_path, capsys):
    code = arra([*("bench", "serve", "--budget", "tiny", "--minutes", "0.02", "--threads", "1"),
                 *("--clients", "4", "--slots", "8", "--settings", "2", "--http"),
                 *("--out", str(tmp_path), "--json")])  # fmt: skip
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "serve" / "load.json").read_text())
    assert found["summary"]["astray"] == dict.fromkeys(("wrong", "lost", "refused", "failed"), 0)
    assert found["different"] == found["pool"] == 16
    stop = found["wire"]["stop"]
    assert (stop["lost"], stop["code"]) == (0, 0)
    assert stop["right"] > 0
    over = found["wire"]["level"]
    # 36 units a picture, of which the first comes with the prompt; others asked beside it
    assert over["work"]["rows"] - over["work"]["wasted"] >= 2 * 35 * over["right"] > 0
    assert over["work"]["rows"] / 8 <= over["work"]["steps"] <= over["work"]["rows"]
    names = [row[0] for row in work_table(read_load(tmp_path / "serve" / "load.json"))[1]]
    assert names[-2:] == ["arra serve, long load", "arra serve, over HTTP"]
    assert (tmp_path / "serve" / "latency.png").stat().st_size > 1000
    assert (tmp_path / "serve" / "memory.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "given",
    [
        *({"minutes": 0.0}, {"minutes": math.nan}, {"clients": 0}, {"slots": 1}, {"bound": 1.0}),
        *({"window": -1.0}, {"pool": 1}, {"settings": len(SETTINGS) + 1}),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(given):
    (name,) = given
    with pytest.raises(InputError, match=name):
        LoadConfig(**given)


def test_the_load_test_runs_alone(capsys):
    assert arra(["bench", "serve", "drawing"]) == 2
    assert "runs alone" in capsys.readouterr().err
