"""Pages of systems: their code runs as it stands, only smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from arra.generators.raster import RasterGenerator
from arra.settings import VectorOptions
from arra.systems.acdit.arms import train_arm
from arra.systems.acdit.recipe import ARMS, tiny
from corpus_kit import write_fashion
from page_kit import SMALLER, blocks, run_bash, run_python

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = ("mar", "flowar", "e-car", "xar", "acdit", "arflow", "orthus", "mmar", "cspd",
         "sequencematch", "distilled-decoding")  # fmt: skip

_CHANGES = {
    **SMALLER,
    "train": {
        **SMALLER["train"],
        "--llama.feed-forward": "48",
        "--vectors.inner": "16",
        "--vectors.inner-depth": "1",
        "--vectors.steps": "2",
        "--batch.size": "16",
        "--warmup": "0",
    },
    "imitate": {"--steps": "4", "--begin": "2", "--every": "2", "--texts": "4", "--own": "2",
                "--batch.size": "4", "--samples": "2", "--precision": "fp32"},
    "distill": {"--steps": "2", "--pairs": "24", "--flow-steps": "5", "--batch.size": "4",
                "--samples": "2", "--precision": "fp32"},
}  # fmt: skip
_PYTHON = (
    (r"moving_digits\(\d+", "moving_digits(24"),
    (r"start=500, every=50, texts=128, batch=16", "start=2, every=2, texts=4, batch=2"),
    (r"steps=1000, learning_rate", "steps=4, learning_rate"),
    (r"begin=500", "begin=2"),
)


def _made(page: str, folder: Path) -> dict[str, object]:
    """What a page takes for given."""
    if page == "acdit":  # what `arra reproduce acdit` leaves, of which its picture is made
        for arm in ARMS:
            for seed in range(3):
                train_arm(tiny(), arm, seed, folder / "runs" / "acdit", True)
    if page == "sequencematch":
        (folder / "questions.tsv").write_text("a red 3\tabove a blue 5\na blue 5\n" * 5)
    if page == "orthus":
        host = RasterGenerator.tiny()
        codebook = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
        return {"host": host, "codebook": codebook, "vectors": codebook + 0.1,
                "options": VectorOptions(inner=16, inner_depth=1)}  # fmt: skip
    return {}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_fashion(tmp_path / "fashion_mnist", 64, 28, np.random.default_rng(0))
    names = _made(page, tmp_path)
    with torch.random.fork_rng():
        for language, block in blocks((DOCS / f"{page}.md").read_text(encoding="utf-8")):
            if language == "bash":
                run_bash(block, changes=_CHANGES, scenes=100)
            else:
                run_python(block, names, _PYTHON, page)
    assert list(tmp_path.rglob("grid.png")), "the page draws nothing"
