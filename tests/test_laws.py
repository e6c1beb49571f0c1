"""The comparison of laws of the next unit: what it keeps, shows and refuses; not its numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from arra import cli
from arra.errors import InputError
from arra.experiments.plotting import sheet
from arra.systems.arra.laws import FILE, PACES, PICTURES, Drawing, LawsResult, read_laws
from arra.systems.arra.laws_page import block, label, record, table
from arra.systems.arra.scenes_config import ScenesConfig
from arra.systems.arra.studies import STUDIES
from arra.systems.arra.ways import VECTOR_WAYS


@pytest.fixture
def result() -> LawsResult:
    raster = Drawing("raster", {}, 10**6, 36, 0, 2e8, 0.05, 0.01, 0.5, 0.4, 0.6, 12.0)
    masked = Drawing("masked", {"rounds": 4, "steps": 5}, 10**6, 4, 20, 1e8, 0.02, 0.004, 0.4,
                     0.3, 0.5, 15.0)  # fmt: skip
    rest = {"date": "2026-01-01", "machine": {"cpu": "a cpu"}, "machine_class": "2 cores"}
    return LawsResult((raster, masked), 3.0, 600, 256, "full", 2, versions={}, **rest)


def test_a_result_is_kept_and_shown(result, tmp_path):
    result.write(tmp_path / "runs" / FILE)
    sheet([("raster", np.zeros((2, 4, 4, 3), np.uint8))], tmp_path / "runs" / PICTURES, ["a", "b"])
    assert read_laws(tmp_path / "runs" / FILE) == result
    record(tmp_path / "runs", tmp_path / "page")
    text = block("heads", tmp_path / "page", "page")
    assert "| masked, 4 rounds, 5 steps | 1.00 M | 4 | 20 | 0.10 | 20.0 | 4.00 |" in text
    assert "600 training steps" in text
    assert (tmp_path / "page" / PICTURES).stat().st_size > 1000
    columns, rows = table(result)
    assert {len(row) for row in rows} == {len(columns)}
    assert label(result.drawings[0]) == "raster"
    assert block("heads", tmp_path, "page") is None
    (tmp_path / FILE).write_text(json.dumps({"format": 1, "drawings": [{}]}))
    with pytest.raises(InputError, match=r"heads\.json: not the result"):
        block("heads", tmp_path, "page")


def test_every_way_has_rows_and_paces():
    names = {variation.name for variation in STUDIES["vectors"].variations}
    for way in VECTOR_WAYS:
        assert {f"{way}, none", f"{way}, aligned"} <= names
    assert {f"{way}, shuffled" for way in ("masked-vectors", "entities")} <= names
    assert set(PACES) <= set(VECTOR_WAYS)


def test_what_makes_no_sense_is_refused(capsys):
    with pytest.raises(InputError, match="prompts"):
        ScenesConfig(prompts=1)
    assert cli.run(["bench", "heads", "drawing"]) == 2
    assert "runs alone" in capsys.readouterr().err
