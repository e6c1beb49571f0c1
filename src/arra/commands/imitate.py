"""`arra imitate`: a language model learns to take back what led it astray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from arra.jobs.imitation_options import ImitationOptions
from arra.settings import BatchConfig, SamplingConfig
from arra.training.config import TrainConfig

_IMITATIONOPTIONS = ImitationOptions()
_BATCHCONFIG = BatchConfig(size=32, drop_caption=0.0)
_SAMPLINGCONFIG = SamplingConfig(guidance=1.0)
_TRAINING = TrainConfig(
    steps=1000, learning_rate=3e-4, schedule="cosine", checkpoint_every=250, validate_every=250
)


def command(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    out: Annotated[Path, arg(metavar="RUN")],
    store: Annotated[Path | None, arg(metavar="STORE")] = None,
    text: Annotated[tuple[Path, ...], arg(metavar="FILE")] = (),
    most: int | None = None,
    held_out_share: float = 0.05,
    samples: int = 8,
    json: bool = False,
    imitation: Annotated[ImitationOptions, arg(name="")] = _IMITATIONOPTIONS,
    training: Annotated[TrainConfig, arg(name="")] = _TRAINING,
    batch: BatchConfig = _BATCHCONFIG,
    sampling: SamplingConfig = _SAMPLINGCONFIG,
) -> None:
    """Give a language model a backspace, and tune it on what it writes (arXiv 2306.05426).

    A raster checkpoint learns the data, in which some tokens are wrong and taken back, by
    likelihood; then more and more to write sequences that follow the law of the data, from those
    that it wrote itself some steps before. Sequences are the codes of a store's pictures, or texts.

    RUN gets what `arra train` writes: checkpoints/, log.jsonl, samples/, run.json and model/, which
    `arra generate RUN --sampler backtracking` draws; and replay/, what the model wrote. Killed or
    interrupted at any moment, the same command goes on and ends with the same weights.

    Args:
        checkpoint: A raster generator: a run folder, its model/, or an exported checkpoint.
        out: Folder of the run.
        store: A store made with the checkpoint's codec and tokenizer, whose pictures are drawn.
        text: Instead of a store: UTF-8 files with a text on each line, behind a prompt and a tab
            where it has one.
        most: Tokens that a text may have. Default: as many as the longest one has.
        held_out_share: Share of the rows on which the model is validated, at most 2048.
        samples: Captions or prompts, after which is drawn or written at each validation.
        json: Print the summary as JSON for programs.
        imitation: How sequences are matched.
        training: The training loop. The seed is also that of the backspace and of what is written.
        batch: How rows become batches. Pictures that are to be drawn with guidance need some
            without caption (--batch.drop-caption 0.1).
        sampling: How the samples are drawn.
    """
    from arra.jobs.console import print_run
    from arra.jobs.imitating import Imitation, run_imitation

    job = Imitation(
        checkpoint=checkpoint,
        out=out,
        store=store,
        text=text,
        most=most,
        imitation=imitation,
        batch=batch,
        training=training,
        held_out_share=held_out_share,
        samples=samples,
        sampling=sampling,
    )
    print_run(run_imitation(job), json, lambda told: _lines(told, drawn=store is not None))


def _lines(summary: dict[str, Any], drawn: bool) -> list[str]:
    lines = []
    told = summary["validation"] or {}
    if (loss := told.get("held_out_nats")) is not None:
        lines.append(f"held-out data: {loss:.3f} nats for each token")
    if (count := told.get("backspaces")) is not None:
        lines.append(f"taken back: {count:.2f} tokens of each that it wrote last")
    lines.append(f"model: {summary['model']}; what it wrote on the way: {summary['samples']}")
    if drawn:
        lines.append(
            f'next: arra generate {summary["run"]} "your prompt" --sampler backtracking '
            "--guidance 1 --out pictures"
        )
    return lines
