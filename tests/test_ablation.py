"""Grids of studies: what is run once, what is run again, and what the tables say of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from arra import cli
from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.training import CodecTraining
from arra.codecs.vq import VQConfig
from arra.encoders.small import SmallConfig
from arra.encoders.training import EncoderTraining
from arra.errors import ArraError, InputError
from arra.experiments.arms import JudgePlan, TrainingPlan
from arra.experiments.bench import BenchConfig
from arra.experiments.grid import Cell, Study, Variation, cells_of, changed, run_grid, vary
from arra.experiments.once import once
from arra.experiments.parallel import Job
from arra.experiments.scene_cells import SceneRunner, SceneSetting
from arra.experiments.study_plots import plot_convergence, plot_differences
from arra.experiments.study_results import collect, read_study
from arra.experiments.study_tables import convergence_table, markdown, table
from arra.files import read_json, write_json
from arra.jobs.ablating import MEASURES as STORE_MEASURES
from arra.jobs.ablating import StoreRunner, StoreSetting
from arra.jobs.model import StartingPoint
from arra.jobs.training import Training
from arra.metrics.bootstrap import paired_difference
from arra.metrics.convergence import Curve, steps_to
from arra.settings import AlignmentConfig, BatchConfig, LlamaSize, Sizes
from arra.systems.arra.ablation import (
    BEGIN,
    END,
    RESULTS,
    ablate,
    page,
    plots,
    read_results,
)
from arra.systems.arra.claim import MEASURES
from arra.systems.arra.studies import STUDIES, base, choose
from arra.training.config import TrainConfig


@dataclass(frozen=True)
class Inner:
    b: float = 2.0


@dataclass(frozen=True)
class Toy:
    """A setting whose result is known: no training."""

    a: int = 1
    inner: Inner | None = field(default_factory=Inner)


class ToyRunner:
    """Keeps results as files and counts what it runs; fails at the cell number `fails`."""

    def __init__(self, folder: Path, fails: int | None = None):
        self.folder, self.fails, self.ran, self.prepared = folder, fails, [], []

    def prepare(self, settings):
        self.prepared += settings

    def find(self, cell):
        try:
            return read_json(self.folder / f"{cell.key}.json")
        except InputError:
            return None

    def job(self, cell):
        return Job(cell.label, self.run, {"cell": cell})

    def run(self, cell):
        if len(self.ran) == self.fails:
            raise KeyboardInterrupt
        self.ran.append(cell.label)
        bits = 10 * cell.setting.a + cell.seed + (cell.setting.inner.b if cell.setting.inner else 0)
        steps = [{"step": s, "held_out_bits": bits - s} for s in (1, 2, 3, 4, 5)]
        result = {"bits": bits, "training": {"validation": steps}}
        write_json(self.folder / f"{cell.key}.json", result)
        return result


NONE = Variation("none", {"inner": None})
ONE = Study("one", "?", (NONE, Variation("default"), *vary("inner.b", (2.0, 3.0))), "paper's")
TWO = Study("two", "?", (NONE, *vary("a", (1, 2))))
READ = (("bits", "lower", lambda r: r["bits"]), ("same", "higher", lambda r: -r["bits"]))


def test_a_variation_changes_what_it_names_and_nothing_else():
    assert changed(Toy(), {"a": 3, "inner.b": 4.0}) == Toy(3, Inner(4.0))
    assert changed(Toy(), {"inner": None, "a": 2}) == Toy(2, None)
    with pytest.raises(InputError, match=r"inner\.c: Inner has no field 'c'; it has: b"):
        changed(Toy(), {"inner.c": 1})
    with pytest.raises(InputError, match="'b' would be a field of None"):
        changed(Toy(inner=None), {"inner.b": 1})


def test_a_study_names_its_rows_once_and_compares_with_rows_that_it_has():
    with pytest.raises(InputError, match="two variations have one name"):
        Study("x", "?", (NONE, NONE))
    with pytest.raises(InputError, match="a is compared with 'none'"):
        Study("x", "?", (Variation("a"),))


def test_cells_that_studies_share_are_one_and_seeds_come_one_after_another():
    cells = cells_of([ONE, TWO], Toy(), (0, 1))
    # none; the default, which is b = 2 and a = 1 too; b = 3; a = 2
    assert [c.label for c in cells.values()] == [
        "one none, seed 0",
        "one default, seed 0",
        "one 3.0, seed 0",
        "two 2, seed 0",
        "one none, seed 1",
        "one default, seed 1",
        "one 3.0, seed 1",
        "two 2, seed 1",
    ]
    assert list(cells) == [cell.key for cell in cells.values()]
    assert len({cell.key for cell in cells.values()}) == 8


def test_a_grid_that_was_killed_runs_what_is_missing_and_nothing_else(tmp_path):
    killed = ToyRunner(tmp_path, fails=3)
    with pytest.raises(KeyboardInterrupt):
        run_grid([ONE], Toy(), (0, 1), killed, processes=1, quiet=True)
    again = ToyRunner(tmp_path)
    found = run_grid([ONE, TWO], Toy(), (0, 1), again, processes=1, quiet=True)
    assert len(killed.ran) == 3
    assert len(again.ran) == 5
    assert not set(killed.ran) & set(again.ran)
    third = ToyRunner(tmp_path)
    assert run_grid([ONE, TWO], Toy(), (0, 1), third, processes=1, quiet=True) == found
    assert third.ran == []
    assert len(third.prepared) == 4
    uninterrupted = ToyRunner(tmp_path / "other")
    assert run_grid([ONE, TWO], Toy(), (0, 1), uninterrupted, processes=1, quiet=True) == found
    assert [r["bits"] for r in found["two"]["2"]] == [22.0, 23.0]
    assert [r["bits"] for r in found["one"]["default"]] == [12.0, 13.0]


def test_progress_of_the_whole_grid_is_shown(tmp_path, capfd):
    run_grid([ONE], Toy(), (0,), ToyRunner(tmp_path), processes=1)
    assert "cells: 3/3" in capfd.readouterr().err


@pytest.fixture
def result(tmp_path):
    """Study one over three seeds, with noise that is not the same in every row."""
    found = run_grid([ONE], Toy(), (0, 1, 2), ToyRunner(tmp_path), processes=1, quiet=True)["one"]
    noise = {"none": (0.0, 0.1, 0.0), "default": (0.2, 0.0, -0.1), "3.0": (0.1, -0.2, 0.3)}
    for name, values in noise.items():
        for cell, more in zip(found[name], values, strict=True):
            cell["bits"] += more
    return collect(ONE, found, Toy(), (0, 1, 2), READ)


def test_a_table_comes_back_from_its_file_as_it_was(result, tmp_path):
    result.write(tmp_path / "one.json")
    again = read_study(tmp_path / "one.json")
    assert again == result
    assert again.summary() == result.summary()
    plain = json.loads((tmp_path / "one.json").read_text())
    assert {"date", "versions", "machine_class", "seeds", "settings"} <= plain.keys()
    bits = plain["summary"][1]["measures"]["bits"]
    expected = paired_difference(result.rows[1].values[0], result.rows[0].values[0])
    assert bits["difference"]["low"] == pytest.approx(expected.interval.low)
    assert bits["detectable"] == pytest.approx(expected.detectable)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 0}, "format 1"),
        ({"rows": [{}]}, "not the result of a study"),
        ({"seeds": [0]}, "one value for every measure and seed"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_damaged_file_is_refused(result, tmp_path, change, message):
    path = tmp_path / "one.json"
    result.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_study(path)


def test_the_tables_say_what_was_measured(result):
    columns, rows = table(result)
    assert columns[:2] == ["variation", "bits"]
    assert columns[-1] == "paper: paper's"
    by_name = {row[0]: row for row in rows}
    mean = sum(result.row("3.0").values[0]) / 3
    assert by_name["3.0"][1] == f"{mean:.3f}"
    assert by_name["none"][2] == "–"
    gap = result.difference(result.row("3.0"))
    assert by_name["3.0"][2].startswith(f"{gap.interval.value:+.3f} [")
    baseline, mine = result.row("none"), result.row("3.0")
    seed = 1
    expected = steps_to(Curve(baseline.steps, baseline.course[seed]), baseline.course[seed][-1])
    factor = result.convergence["3.0"]["baseline's last"].factors[seed]
    assert expected.exact
    assert factor.high == expected.low / mine.steps[-1]  # never got there: only a bound
    assert "less than 1" in str(convergence_table(result)[1])
    text = markdown([result])
    assert "3 paired seeds" in text
    assert "80 % of repetitions" in text


def test_one_seed_gives_a_table_without_intervals(result, tmp_path):
    rows = tuple(
        replace(row, values=tuple(v[:1] for v in row.values), course=row.course[:1])
        for row in result.rows
    )
    one = replace(result, seeds=(0,), rows=rows)
    assert "nothing can be concluded" in markdown([one])
    with pytest.raises(InputError, match="two seeds"):
        plot_differences(one, tmp_path / "one.png")
    assert list(plots(one)) == ["one-convergence.png"]
    assert one.summary()[1]["measures"]["bits"].keys() == {"mean"}
    few = tuple(replace(row, steps=row.steps[:1], course=()) for row in one.rows)
    assert replace(one, rows=few).convergence == {}  # evaluated too rarely to speak of a course


def test_plots_are_small_pictures(result, tmp_path):
    for number, draw in enumerate((plot_differences, plot_convergence)):
        path = tmp_path / f"{number}.png"
        draw(result, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 100_000
    unwatched = tuple(replace(row, steps=(), course=()) for row in result.rows)
    with pytest.raises(InputError, match="evaluated"):
        plot_convergence(replace(result, rows=unwatched), tmp_path / "none.png")


def test_the_page_takes_the_tables_between_its_marks(result):
    text = page(f"before\n{BEGIN}\nold\n{END}\nafter\n", [result])
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert page(text, [result]) == text
    with pytest.raises(ArraError, match="no place for tables"):
        page("nothing", [result])


def test_the_committed_page_is_the_one_that_the_results_give():
    path = Path(__file__).parents[1] / "docs" / "ablation.md"
    text = path.read_text(encoding="utf-8")
    assert text == page(text, read_results(RESULTS)), "run `make docs-table` and commit it"


# The paper's studies


def test_every_study_of_the_paper_expands_and_shares_its_cells():
    setting = base()
    every = cells_of(list(STUDIES.values()), setting, (0,))
    rows = sum(len(study.variations) for study in STUDIES.values())
    assert len(every) < rows
    default = Cell(setting, 0, "").key
    for name, row in {"mechanism": "hybnext", "aggregation": "both", "weight": "1.0"}.items():
        study = STUDIES[name]
        variation = next(v for v in study.variations if v.name == row)
        assert Cell(changed(setting, variation.changes), 0, "").key == default
    with pytest.raises(InputError, match="no study is named 'lambda'; there are: mechanism"):
        choose(("lambda",))
    assert len(choose(("all",))) == len(STUDIES)


def test_the_command_lists_the_studies(capsys):
    assert cli.run(["ablate", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["study"] for row in listed] == list(STUDIES)
    assert cli.run(["ablate"]) == 0
    assert "mechanism" in capsys.readouterr().out
    assert cli.run(["ablate", "nothing"]) == 2
    assert cli.run(["ablate", "mechanism", "--seeds", "0"]) == 2


def _smallest() -> SceneSetting:
    bench = BenchConfig(
        pictures=96,
        codec=VQConfig(AutoencoderConfig(4, width=16, blocks=1, decoder_blocks=1), 16),
        codec_pictures=64,
        codec_training=CodecTraining(steps=2, batch=8, quiet=True),
        reader_steps=1,
        encoder=SmallConfig(width=16, dim=8, downsample=4),
        encoder_training=EncoderTraining(objective="masked", steps=1, batch=16),
    )
    train = TrainConfig(steps=10, validate_every=2, precision="fp32", log_every=5, warmup=1)
    size = LlamaSize(width=32, depth=2, heads=2, feed_forward=32, positions=64)
    judge = JudgePlan(
        prompts=66, bits_scenes=16, real=66, diversity_prompts=2, diversity_pictures=2
    )
    plan = TrainingPlan(Sizes(size), BatchConfig(size=8), train, watch=8)
    return SceneSetting(bench, plan, judge, AlignmentConfig(layers=(1,)))


def test_two_arms_on_real_scenes(tmp_path):
    setting = _smallest()
    study = Study("tiny", "?", (Variation("none", {"alignment": None}), Variation("aligned")))
    runner = SceneRunner(tmp_path, processes=1, quiet=True)
    found = run_grid([study], setting, (0,), runner, processes=1, quiet=True)["tiny"]
    none, aligned = collect(study, found, setting, (0,), MEASURES).rows
    assert none.steps == (2, 4, 6, 8, 10)
    gap = none.course[0][0] - aligned.course[0][0]
    assert 0 < abs(gap) < 0.2  # two trainings of one beginning
    # what is watched are the first of the pictures that are judged
    assert none.course[0][-1] == pytest.approx(none.values[0][0])

    again = SceneRunner(tmp_path, processes=1, quiet=True)
    again.job = None  # nothing is left to run
    assert run_grid([study], setting, (0,), again, processes=1, quiet=True)["tiny"] == found

    # the same study on the store that the bench made, as on anybody's
    (store,) = tmp_path.glob("benches/*/store")
    sizes, train = setting.plan.sizes, setting.plan.train
    training = Training(
        store,
        Path(),
        StartingPoint(sizes=sizes),
        training=train,
        batch=BatchConfig(size=8),
        held_out_share=0.25,
    )
    own = StoreSetting(training, setting.alignment)
    cells = run_grid([study], own, (0,), StoreRunner(tmp_path / "own"), processes=1, quiet=True)
    result = collect(study, cells["tiny"], own, (0,), STORE_MEASURES)
    assert [row.steps for row in result.rows] == [(2, 4, 6, 8, 10)] * 2
    assert result.rows[0].values[0][0] == result.rows[0].course[0][-1]
    assert result.rows[0].values != result.rows[1].values
    runner = StoreRunner(tmp_path / "own")
    cell = Cell(own, 0, "")
    assert runner.find(cell) is not None
    kept = read_json(tmp_path / "own" / "cells" / cell.key / "cell.json")
    write_json(tmp_path / "own" / "cells" / cell.key / "cell.json", {**kept, "store": "another"})
    assert runner.find(cell) is None  # the store is not the one that it was run on
    with pytest.raises(InputError, match="nothing is held out"):
        replace(own, training=replace(training, held_out_share=0.0))
    with pytest.raises(InputError, match=r"bench\.codec: StoreSetting has no field 'bench'"):
        ablate(["resolution"], 1, tmp_path / "own", own)


def test_a_part_is_taken_from_another_bench_that_made_it_alike(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "part").mkdir()
        return {"number": len(made)}

    for bench, settings in {"a": 1, "b": 2}.items():
        once(tmp_path / bench / "codec", settings, make, ())
    others = [tmp_path / "a", tmp_path / "missing", tmp_path / "b"]
    once(tmp_path / "c" / "codec", 2, make, others)
    assert len(made) == 2
    assert (tmp_path / "c" / "codec" / "part").is_dir()
    assert read_json(tmp_path / "c" / "codec" / "report.json")["report"] == {"number": 2}
    once(tmp_path / "c" / "codec", 3, make, others)  # nobody made that
    once(tmp_path / "c" / "codec", 3, make, others)  # now it is there
    assert len(made) == 3
