"""`arra distill`: a student learns to draw in a step or two what a checkpoint draws in many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from arra.errors import InputError
from arra.settings import BatchConfig, SamplingConfig
from arra.training.config import TrainConfig

_SAMPLINGCONFIG = SamplingConfig()
_BATCHCONFIG = BatchConfig(drop_caption=0.0)
_TRAINING = TrainConfig(
    steps=3000, learning_rate=1e-3, schedule="cosine", checkpoint_every=250, validate_every=500
)


def command(
    teacher: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Path, arg(metavar="RUN")],
    store: Annotated[Path | None, arg(metavar="STORE")] = None,
    prompts: Annotated[Path | None, arg(metavar="FILE")] = None,
    pairs: int = 20000,
    pairs_seed: int = 1 << 40,
    pairs_batch: int = 250,
    flow_steps: int = 100,
    starts: tuple[int, ...] = (),
    split: int | None = None,
    held_out_share: float = 0.05,
    samples: int = 8,
    device: str = "auto",
    json: bool = False,
    sampling: Annotated[SamplingConfig, arg(name="")] = _SAMPLINGCONFIG,
    training: Annotated[TrainConfig, arg(name="")] = _TRAINING,
    batch: BatchConfig = _BATCHCONFIG,
) -> None:
    """Distil a checkpoint into a student that draws a picture in a step or two (arXiv 2412.17153).

    The teacher draws pictures whose codes are a function of noise; the student begins with its
    weights and learns that function, without any pictures but these. Teachers are generators of
    kind grid (whose codec gives one vector a cell) and scales.

    RUN gets pairs/ (captions and codes, a store like any other), and what `arra train` writes:
    checkpoints/, log.jsonl, samples/ (the student beside its teacher, from the same noise),
    run.json and model/, with which `arra generate RUN --steps 1` draws. Killed or interrupted at
    any moment, the same command goes on and ends with the same weights.

    Args:
        teacher: A run folder, its model/, or an exported checkpoint.
        out: Folder of the run.
        store: Its captions are what the teacher draws, in turn.
        prompts: Instead of a store: a UTF-8 text file with a prompt on each line.
        pairs: How many pictures the teacher draws.
        pairs_seed: Seed of the first; the next ones follow.
        pairs_batch: Pictures that the teacher draws at once.
        flow_steps: Steps that carry noise to a code; fewer than 50 change the teacher's law.
        starts: How many of the teacher's units (cells, scales) are known at each step of drawing:
            0, then growing. Empty: 0 and a third of them.
        split: Unit from which on codes are read from predicted vectors; otherwise all are read from
            logits.
        held_out_share: Share of the pairs on which the student is validated, at most 2048.
        samples: Held-out pairs of which pictures are drawn at each validation.
        device: Where the teacher draws: auto, cpu, cuda, cuda:1, mps.
        json: Print the summary as JSON for programs.
        sampling: How the teacher draws. The student has it learnt, and draws with nothing else.
        training: The training loop. The seed is also that of new weights.
        batch: How pairs become batches.
    """
    from arra.data.store import PreparedStore
    from arra.generators.students import StudentOptions
    from arra.jobs.console import choose_device, print_run
    from arra.jobs.distilling import Distillation, run_distillation
    from arra.jobs.generation import read_prompts
    from arra.jobs.pairs import PairOptions

    if (store is None) == (prompts is None):
        raise InputError("captions: name either a store (--store) or a file (--prompts)")
    if store is not None:
        opened = PreparedStore.open(store)
        captions = list(dict.fromkeys(opened.captions(range(len(opened)))))
    else:
        assert prompts is not None
        captions = read_prompts(prompts)
    job = Distillation(
        teacher=teacher,
        out=out,
        captions=tuple(captions),
        pairs=PairOptions(pairs, pairs_seed, pairs_batch, flow_steps),
        student=StudentOptions(starts, split=split),
        sampling=sampling,
        batch=batch,
        training=training,
        held_out_share=held_out_share,
        samples=samples,
        device=choose_device(device),
    )
    print_run(run_distillation(job), json, _lines)


def _lines(summary: dict[str, Any]) -> list[str]:
    lines = []
    told = summary["validation"] or {}
    for name, value in told.items():
        if name.startswith("teachers_codes_"):
            steps = name.removeprefix("teachers_codes_")
            lines.append(f"codes that are the teacher's, in {steps} steps: {value:.1%}")
    lines.append(f"model: {summary['model']}; beside its teacher: {summary['samples']}")
    lines.append(f'next: arra generate {summary["run"]} "your prompt" --steps 1 --out pictures')
    return lines
