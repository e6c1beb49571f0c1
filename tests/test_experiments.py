"""Jobs side by side, Muon, appearance: the parts under the demo and the claim of arra."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from arra.codecs.recipes import scene_codec
from arra.codecs.vq import VQCodec
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.experiments.parallel import Job, Stopwatch, run_jobs
from arra.experiments.timing import median_ratio
from arra.generators.raster import RasterGenerator
from arra.progress import PROGRESS_FILE, track
from arra.settings import LlamaSize
from arra.training.muon import Muon, orthogonalize


def square(number: int, folder: Path) -> tuple[int, int, int]:
    """A job: its answer, its process, its threads."""
    with track("squaring", 3) as task:
        for _ in range(3):
            task.advance()
    assert PROGRESS_FILE in os.environ
    (folder / f"{number}").touch()
    return number**2, os.getpid(), torch.get_num_threads()


def fail(message: str) -> None:
    raise InputError(message)


def test_jobs_run_in_other_processes_and_keep_their_order(tmp_path):
    jobs = [Job(f"job {n}", square, {"number": n, "folder": tmp_path}) for n in range(4)]
    results = run_jobs(jobs, processes=2, quiet=True)
    assert [value for value, _, _ in results] == [0, 1, 4, 9]
    pids = {pid for _, pid, _ in results}
    assert os.getpid() not in pids
    assert len(pids) <= 2
    assert PROGRESS_FILE not in os.environ
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_the_error_of_a_job_reaches_the_caller():
    jobs = [Job("good", time.sleep, {}), Job("bad", fail, {"message": "row 7 is empty"})]
    jobs[0] = Job("good", str, {"object": 1})
    with pytest.raises(InputError, match="row 7 is empty"):
        run_jobs(jobs, processes=2, quiet=True)


def test_one_job_runs_here():
    assert run_jobs([Job("pid", os.getpid)], processes=2) == [os.getpid()]


def test_stopwatch_adds_up():
    watch = Stopwatch()
    for stage in ("a", "b", "a"):
        time.sleep(0.01)
        watch.lap(stage)
    assert list(watch.seconds) == ["a", "b"]
    assert watch.seconds["a"] > watch.seconds["b"] > 0


def test_median_ratio():
    assert median_ratio([2.0, 3.0, 8.0, 4.0], [1.0, 1.0, 2.0, 1.0])[0] == 3.5


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_orthogonalize_keeps_singular_vectors_and_levels_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    got = orthogonalize(matrices)
    levelled = u.mT @ got @ v.mT  # diagonal, if the singular vectors are kept
    diagonal = torch.diagonal(levelled, dim1=-2, dim2=-1)
    off = levelled - torch.diag_embed(diagonal)
    assert off.abs().max() < 0.02
    large = values > 0.1 * values.amax(dim=-1, keepdim=True)
    assert diagonal[large].min() > 0.5
    assert diagonal.max() < 1.3


def test_muon_is_torchs_muon_in_float32():
    """The same trajectory as torch's, up to the bfloat16 in which that computes."""
    start = torch.randn(12, 7, generator=torch.Generator().manual_seed(1))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one = Muon([ours], lr=0.02, weight_decay=0.1)
    two = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    target = torch.randn(12, 7, generator=torch.Generator().manual_seed(2))
    for _ in range(10):
        for parameter, optimizer in ((ours, one), (theirs, two)):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_codes_that_look_alike_begin_near_each_other():
    codec = VQCodec.seeded(scene_codec(4, 64), 0).eval()
    looks = codec.appearance()
    assert looks.shape == (64, 48)
    tokenizer = train_text_tokenizer(["a red 3"])
    size = LlamaSize(width=64, depth=1, heads=2, feed_forward=32, tied=True)
    generator = RasterGenerator.from_scratch(tokenizer, 64, (2, 2), size, seed=0, appearance=looks)
    offset = generator.config.vocabulary.offset
    rows = generator.lm.get_input_embeddings().weight[offset:].detach()
    between = torch.cdist(looks, looks)[*torch.triu_indices(64, 64, 1)]
    apart = torch.cdist(rows, rows)[*torch.triu_indices(64, 64, 1)]
    assert torch.corrcoef(torch.stack((between, apart)))[0, 1] > 0.7
    with pytest.raises(InputError, match="appearance"):
        RasterGenerator.from_scratch(
            train_text_tokenizer(["a"]), 64, (2, 2), size, seed=0, appearance=looks[:9]
        )


def test_tied_tables_survive_saving(tmp_path):
    tokenizer = train_text_tokenizer(["a red 3"])
    size = LlamaSize(width=32, depth=1, heads=2, feed_forward=32, tied=True)
    generator = RasterGenerator.from_scratch(tokenizer, 8, (2, 2), size, seed=0).eval()
    generator.save_pretrained(tmp_path / "model")
    again = RasterGenerator.from_pretrained(tmp_path / "model")
    assert again.fingerprint() == generator.fingerprint()
    one, _ = generator.prefill([generator.prompt_ids("a red 3")])
    two, _ = again.prefill([again.prompt_ids("a red 3")])
    assert torch.equal(one, two)
