"""Systems: discovery, running a claim, the committed result and the page made from the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arra.systems
from arra.environment import source_tree
from arra.errors import ArraError, InputError
from arra.systems import base
from arra.systems.results import ClaimResult, Estimate, Measure, read_result
from arra.systems.table import docs_table

INIT = """
from arra.systems.base import System, deferred

SYSTEM = System(
    slug="fake-{name}",
    title="A | paper\\nabout {name}",
    arxiv="2503.07334",
    family="lead",
    summary="It does {name}.",
    claim=deferred("arra.systems.fake_{name}.claim:run"),
    seeds=2,
)
"""
CLAIM = """
from arra.systems.results import ClaimResult, Estimate, Measure

def run(claim):
    (claim.folder / "kept.txt").write_text(claim.budget)
    values = tuple(0.5 + seed for seed in claim.seeds)
    mean = sum(values) / len(values)
    measure = Measure(
        "bits", Estimate(mean, mean - 1, mean + 1, values), Estimate(9.0), better="lower"
    )
    return ClaimResult("pass", "It held.", (measure,), "2 pictures", {"steps": 3})
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A package `arra.systems.fake_x` that exists only during the test; its folder."""
    folder = tmp_path / "packages" / "fake_x"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(INIT.format(name="x"))
    (folder / "claim.py").write_text(CLAIM)
    monkeypatch.setattr(arra.systems, "__path__", [*arra.systems.__path__, str(folder.parent)])
    yield folder
    for name in [name for name in sys.modules if name.startswith("arra.systems.fake_")]:
        del sys.modules[name]
    vars(arra.systems).pop("fake_x", None)


def test_a_system_is_found_by_being_there_and_its_claim_is_not_imported(fake):
    system = base.get_system("fake-x")
    assert system in base.list_systems()
    assert system.arxiv == "2503.07334"
    assert "arra.systems.fake_x.claim" not in sys.modules
    with pytest.raises(InputError, match=r"'nope'.*fake-x"):
        base.get_system("nope")


@pytest.mark.parametrize("text", ["", "SYSTEM = 3", INIT.format(name="y")])
def test_a_package_without_its_system_is_an_error_that_names_it(fake, text):
    (fake / "__init__.py").write_text(text)
    with pytest.raises(ArraError, match=r"arra\.systems\.fake_x"):
        base.list_systems()


def test_reproduce_stamps_the_result_and_records_only_measurements(fake, tmp_path):
    recorded = fake / "result.json"
    tiny = base.reproduce("fake-x", folder=tmp_path / "a", budget="tiny", quiet=True)
    few = base.reproduce("fake-x", seeds=1, folder=tmp_path / "b", quiet=True)
    assert not recorded.exists()
    assert (tmp_path / "a" / "kept.txt").read_text() == "tiny"
    assert (tiny.seeds, few.seeds) == ((0, 1), (0,))

    full = base.reproduce("fake-x", folder=tmp_path / "c", quiet=True)
    assert source_tree() is not None, "the tests run from the source tree"
    assert recorded.read_bytes() == (tmp_path / "c" / "result.json").read_bytes()
    assert base.result_of(base.get_system("fake-x")) == full
    assert full.slug == "fake-x"
    assert full.measures[0].system.per_seed == (0.5, 1.5)
    assert full.machine["cores"] >= 1
    assert full.machine_class
    assert "torch" in full.versions
    assert len(full.date) == len("2025-01-31")


def test_seeds_begin_at_the_first_that_chose_no_settings(fake, tmp_path):
    text = (fake / "__init__.py").read_text()
    (fake / "__init__.py").write_text(text.replace("seeds=2,", "seeds=2, first_seed=4,"))
    assert base.reproduce("fake-x", folder=tmp_path, budget="tiny", quiet=True).seeds == (4, 5)


def test_reproduce_records_nothing_outside_of_a_source_tree(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "source_tree", lambda: None)
    base.reproduce("fake-x", folder=tmp_path, quiet=True)
    assert (tmp_path / "result.json").is_file()
    assert not (fake / "result.json").exists()


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"budget": "huge"}])
def test_reproduce_refuses_wrong_arguments_before_it_runs(fake, tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        base.reproduce("fake-x", folder=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


numbers = st.floats(-1e9, 1e9)
estimates = st.builds(Estimate, numbers, st.none(), st.none(), st.lists(numbers).map(tuple))
measures = st.builds(
    Measure,
    st.text(),
    estimates,
    st.none() | estimates,
    st.none() | estimates,
    st.sampled_from(["higher", "lower", "neither"]),
    st.text(),
)
results = st.builds(
    ClaimResult,
    st.sampled_from(["pass", "fail", "inconclusive"]),
    st.text(min_size=1).filter(str.strip),
    st.lists(measures, min_size=1, max_size=3).map(tuple),
    st.text(),
    seeds=st.lists(st.integers(0, 99)).map(tuple),
)


@settings(max_examples=20, deadline=None)  # each example waits for the disk
@given(results)
def test_a_result_comes_back_from_its_file_as_it_was(tmp_path_factory, result):
    path = tmp_path_factory.mktemp("result") / "result.json"
    result.write(path)
    assert read_result(path) == result


RESULT = ClaimResult("pass", "It held.", (Measure("bits", Estimate(1.0, 0.5, 2.0)),), "small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "perhaps"}, "verdict"),
        ({"measures": []}, "at least one measure"),
        ({"measures": 3}, r"measures: expected a list"),
        ({"measures": [{"name": "x", "system": 3}]}, r"measures\[0\]\.system"),
        ({"measures": [{"system": {"value": 1.0}}]}, r"measures\[0\].*name"),
        ({"measures": [{"name": "x", "system": {"value": 1, "low": 3, "high": 2}}]}, "empty"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_damaged_result_is_refused_by_the_name_of_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "result.json"
    RESULT.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_result(path)


def test_values_that_are_not_finite_are_no_results():
    with pytest.raises(InputError, match="not finite"):
        Estimate(float("nan"))


def test_the_page_shows_a_system_before_and_after_it_is_measured(fake, tmp_path):
    before = docs_table()
    row = (
        "| `fake-x` | A \\| paper about x | [2503.07334](https://arxiv.org/abs/2503.07334) | lead |"
    )
    assert f"{row} not measured | – |" in before
    base.reproduce("fake-x", folder=tmp_path, quiet=True)
    after = docs_table()
    assert f"{row} pass | {base.result_of(base.get_system('fake-x')).date} |" in after
    assert "| bits | 1 [0, 2] | 9 | – | lower |" in after


def test_the_committed_page_is_the_one_that_the_results_give():
    page = Path(__file__).parents[1] / "docs" / "systems.md"
    assert page.read_text(encoding="utf-8") == docs_table(), "run `make docs-table` and commit it"


def test_every_committed_result_belongs_to_its_system():
    for system in base.list_systems():
        result = base.result_of(system)
        if result is not None:
            assert result.slug == system.slug
            assert result.budget == "full"
            assert len(result.seeds) >= system.seeds
