"""Benches: the clock, the order of contenders, floors, what is kept and shown. No test here times
anything: where seconds matter, a clock of our own tells them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from arra.cli import run as arra
from arra.errors import InputError
from arra.experiments.pages import filled
from arra.experiments.speed import measure as measuring
from arra.experiments.speed.bench import Bench, choose_benches, list_benches, run_bench
from arra.experiments.speed.floors import measure_floors
from arra.experiments.speed.measure import Case, Contender, Floors, Work, measure
from arra.experiments.speed.page import block, plot, record
from arra.experiments.speed.results import read_bench
from arra.experiments.speed.tables import case_table, markdown

FLOORS = Floors(memory=10e9, cache=100e9, peak={"fp32": 1e12, "bf16": 4e12})


class Clock:
    """Time passes only when a contender works."""

    def __init__(self, monkeypatch):
        self.now, self.ran = 0.0, []
        monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def works(self, name: str, *seconds: float):
        left = list(seconds)

        def run() -> None:
            self.ran.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def case(clock: Clock, **given) -> Case:
    """The peer slows down by and by, and so does the other: the ratio stays 2."""
    contenders = (
        Contender("peer", "the peer", clock.works("peer", 9.0, 2.0, 4.0, 8.0)),
        Contender(
            "ours",
            "half",
            clock.works("ours", 5.0, 1.0, 2.0, 4.0),
            work=Work(bytes=5e9, operations=1e11),
            facts=lambda: {"memory (MiB)": 3.0, "broken": float("nan")},
        ),
    )
    return Case("a case", "token", 10, contenders, ("peer",), {"ours": 3.0}, **given)


def test_contenders_take_turns_and_are_compared_within_a_repeat(monkeypatch):
    clock = Clock(monkeypatch)
    result = measure(case(clock), FLOORS, repeats=3, least=3)
    assert clock.ran == ["peer", "ours", "peer", "ours", "ours", "peer", "peer", "ours"]
    ours = result.timing("ours")
    assert ours.seconds == (1.0, 2.0, 4.0)
    assert ours.first == 5.0
    assert result.ratio("ours", "peer") == (2.0, 2.0, 2.0)
    assert ours.facts == {"memory (MiB)": 3.0}
    columns, rows = case_table(result)
    assert dict(zip(columns, rows[1], strict=True)) == {
        "contender": "ours",
        "ms per token": "200",
        "times as fast as peer": "2.00 (2.00-2.00)",
        "asked": "≥ 3",
        "times its floor": "4.00",
        "memory (MiB)": "3",
    }


def test_a_case_ends_when_its_time_is_spent(monkeypatch):
    result = measure(case(Clock(monkeypatch)), FLOORS, repeats=50, seconds=20.0, least=2)
    assert len(result.timing("ours").seconds) == 3  # 3 + 6 s are fewer than 20, 3 + 6 + 12 more


def test_the_floor_is_the_slower_of_reading_and_computing():
    assert FLOORS.seconds(Work(bytes=20e9, operations=1e12), "fp32") == 2.0
    assert FLOORS.seconds(Work(bytes=20e9, operations=3e12), "fp32") == 3.0
    assert FLOORS.seconds(Work(bytes=20e9, operations=1e12), "bf16") == 2.0
    assert FLOORS.seconds(Work(bytes=20e9, operations=3e12, cached=True), "int8") == 0.75
    assert FLOORS.seconds(Work(bytes=20e9, cached=True), "fp32") == pytest.approx(0.2)


def test_the_machine_is_measured():
    floors = measure_floors(scale=0.02)
    assert floors.cache >= floors.memory > 1e8
    assert set(floors.peak) == {"fp32", "bf16"}
    assert min(floors.peak.values()) > 1e8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peers": ("nobody",)}, "'nobody' is no contender"),
        ({"targets": {"x": 1.0}}, "'x' is no contender"),
        ({"units": 0}, "units 0"),
        ({"series": "tokens"}, "at 0"),
        ({"contenders": ()}, "different names"),
    ],
)
def test_a_case_that_makes_no_sense_is_refused(change, message):
    one = Contender("one", "", lambda: None)
    with pytest.raises(InputError, match=message):
        Case(**{"name": "c", "unit": "token", "units": 1, "contenders": (one,), **change})


@pytest.fixture
def growing(monkeypatch, tmp_path):
    """A bench whose time grows with the square of the place, beside a case with a peer."""
    clock = Clock(monkeypatch)

    def at(place: int):
        one = Contender("arra", "", clock.works("arra", float(place**2)))
        return lambda: Case(
            f"{place} tokens", "picture", 1, (one,), series="tokens", at=place, note="all of it"
        )

    bench = Bench("made", "How?", lambda budget, folder: [lambda: case(clock), *map(at, (2, 4, 8))])
    return run_bench(bench, FLOORS, tmp_path / "runs", "full", quiet=True), tmp_path


def test_what_is_kept_is_what_was_measured(growing):
    result, folder = growing
    assert read_bench(folder / "runs" / "made.json") == result
    (curve,) = result.curves()
    assert curve.exponent == pytest.approx(2.0)
    assert curve.last == pytest.approx(2.0)
    kept = json.loads((folder / "runs" / "made.json").read_text())
    assert kept["summary"]["a case"][1]["times as fast as peer"] == [2.0, 2.0, 2.0]
    assert kept["exponents"][0]["exponent"] == pytest.approx(2.0)
    (folder / "other.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"other\.json"):
        read_bench(folder / "other.json")


def test_a_page_shows_the_results(growing):
    result, folder = growing
    record(folder / "runs", folder / "page")
    assert sorted(path.name for path in (folder / "page").iterdir()) == [
        "made-growth.png",
        "made.json",
        "made.png",
    ]
    page = "# Speed\n<!-- results: made -->\n<!-- end -->\n<!-- results: none -->\n<!-- end -->\n"
    text = filled(page, block, folder / "page", "page")
    assert markdown(result) in text
    assert "(page/made-growth.png)" in text
    assert "Not measured yet." in text
    assert "all of it" in text
    assert "**8 tokens**" not in text  # a point of a curve, not a table of its own


def test_a_quick_look_is_not_recorded(growing, tmp_path):
    result, folder = growing
    replace(result, budget="tiny").write(folder / "runs" / "made.json")
    record(folder / "runs", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_plots_are_drawn_only_of_what_there_is(growing, tmp_path):
    result, _ = growing
    assert len(plot(result, tmp_path)) == 2
    assert len(plot(replace(result, cases=result.cases[:1]), tmp_path)) == 1
    assert plot(replace(result, cases=result.cases[1:3]), tmp_path) == []


def test_the_documentation_shows_the_committed_results():
    page = Path(__file__).parents[1] / "docs" / "speed.md"
    text = page.read_text(encoding="utf-8")
    assert filled(text, block, page.with_suffix(""), "speed") == text
    for path in page.with_suffix("").glob("*.json"):
        result = read_bench(path)
        assert result.budget == "full"
        assert all(np.isfinite(t.seconds).all() for case in result.cases for t in case.timings)


def test_an_unknown_bench_is_named():
    with pytest.raises(InputError, match="there are"):
        choose_benches(["nonsense"])


def test_the_command_lists_the_benches(capsys):
    assert arra(["bench", "--json"]) == 0
    listed = [row["bench"] for row in json.loads(capsys.readouterr().out)]
    assert listed == [*(bench.name for bench in list_benches()), "serve", "heads", "decoding"]


@pytest.mark.parametrize("bench", list_benches(), ids=lambda bench: bench.name)
def test_every_bench_runs(bench, tmp_path):
    result = run_bench(bench, FLOORS, tmp_path, "tiny", quiet=True)
    assert result.cases
    assert read_bench(tmp_path / f"{bench.name}.json") == result
