"""`arra train`: a model learns to draw the pictures of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from arra.errors import InputError
from arra.settings import (
    AdapterConfig,
    AlignmentConfig,
    BatchConfig,
    GridOptions,
    LlamaName,
    LlamaSize,
    RowInit,
    SamplingConfig,
    ScaleSize,
    Sizes,
    VectorOptions,
)
from arra.training.config import TrainConfig

_BATCHCONFIG = BatchConfig()
_ALIGNMENTCONFIG = AlignmentConfig()
_LLAMASIZE = LlamaSize()
_SCALESIZE = ScaleSize()
_GRIDOPTIONS = GridOptions()
_VECTOROPTIONS = VectorOptions()
_ADAPTERCONFIG = AdapterConfig()
_SAMPLINGCONFIG = SamplingConfig()
_TRAINING = TrainConfig(
    steps=2000, learning_rate=1e-3, schedule="cosine", checkpoint_every=250, validate_every=500
)


def command(
    store: Annotated[Positional[Path], arg(metavar="STORE")],
    out: Annotated[Path, arg(metavar="RUN")],
    lm: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    rows: RowInit = "mean",
    chat: bool = False,
    generator: Annotated[str, arg(metavar="NAME")] = "raster",
    llama_size: LlamaName | None = None,
    no_align: bool = False,
    z_loss: float = 0.0,
    held_out: Annotated[Path | None, arg(metavar="STORE")] = None,
    held_out_share: float = 0.05,
    samples: int = 8,
    text: Annotated[tuple[Path, ...], arg(metavar="FILE")] = (),
    replay_text: Annotated[tuple[Path, ...], arg(metavar="FILE")] = (),
    json: bool = False,
    training: Annotated[TrainConfig, arg(name="")] = _TRAINING,
    batch: BatchConfig = _BATCHCONFIG,
    align: AlignmentConfig = _ALIGNMENTCONFIG,
    also: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=VALUE,...")] = (),
    adapter: AdapterConfig = _ADAPTERCONFIG,
    llama: LlamaSize = _LLAMASIZE,
    scale: ScaleSize = _SCALESIZE,
    grid: GridOptions = _GRIDOPTIONS,
    vectors: VectorOptions = _VECTOROPTIONS,
    sampling: SamplingConfig = _SAMPLINGCONFIG,
) -> None:
    """Train a text-to-image model on a prepared store: a pretrained language model, or a new one.

    RUN gets checkpoints/, log.jsonl (one JSON object a line), samples/ (pictures of the same
    captions at each validation), run.json and, at the end, model/: a folder that
    AutoModelForCausalLM loads, with the codec in it. Killed or interrupted at any moment, the same
    command goes on and ends with the same weights.

    The model learns to predict picture codes after captions, and its hidden states are aligned with
    the encoder features in the store (representation alignment, arXiv 2503.07334).

    Several processes or machines: accelerate launch -m arra train ...

    Args:
        store: A folder that `arra prepare` made.
        out: Folder of the run.
        lm: A pretrained causal language model by folder or hub name, whose vocabulary is extended
            by the picture codes; one that draws already (a model that arra trained, a Chameleon,
            Emu3 or Janus) keeps the codes it has. The store must have been prepared with its
            tokenizer, and the latter's also with its codec (--tokenizer, --codec). Without it a
            Llama is made.
        rows: How rows of new tokens begin: near the mean of the old ones, or spread as they are.
        chat: Captions are a user's turn in the tokenizer's chat template; also for drawing.
        generator: What draws, where no --lm is given: raster (a Llama, code by code), scales (a
            next-scale transformer; a codec of kind multiscale), scan-scales (one whose scales hear
            of each other by a scan), flexible-scales (one that draws in any schedule; a codec of
            kind scalable), grid (a Llama that knows rows and columns, and codes that are split) or
            masked (in rounds, the surest cells first). Of codes that are vectors (a codec of kind
            kl or pixels): masked-vectors, scale-flow, pyramid-flow, entities, blocks (of clips
            frame by frame), trajectory, raster-vectors or masked-language.
        llama_size: A size of LlamaGen for the Llama that is made, instead of --llama.width, depth,
            heads and feed-forward.
        no_align: Train without representation alignment; so does --align.weight 0.
        z_loss: Weight of the squared logarithm of the softmax's normaliser; 1e-5 steadies bf16.
        held_out: A store of other pictures, made with the codec and tokenizer of this one, on which
            held-out bits are measured.
        held_out_share: Share of the rows that are kept out of training for that, where no other
            store is given (at most 2048 rows); 0 trains on all.
        samples: Captions of which pictures are drawn at each validation; 0 draws none.
        text: Plain text on which perplexity is measured before and after training.
        replay_text: Plain text to train on beside the pictures; --batch.replay says how much.
        json: Print the summary as JSON for programs.
        training: The training loop. The seed is also that of new weights.
        batch: How rows become batches.
        align: Representation alignment.
        also: A further term of alignment beside the first, such as target=patch,weight=0.5 or
            encoder=dino,layers=2+3: like --align except for what is named. May be repeated.
        adapter: Adapters on a pretrained language model, whose own weights are then frozen.
        llama: Size of the Llama that is made without --lm.
        scale: Size of the next-scale transformer.
        grid: Of a grid or masked generator, whose size is --llama: what it has beside it.
        vectors: Of a generator of vectors, whose size is --llama: what it has beside it.
        sampling: How the samples are drawn.
    """
    from dataclasses import replace

    from arra.jobs.console import print_run
    from arra.jobs.model import StartingPoint
    from arra.jobs.options import further_alignment
    from arra.jobs.training import Training, run_training

    if no_align and also:
        raise InputError("--no-align and --also exclude each other")
    if llama_size is not None:
        sizes = LlamaSize.named(llama_size)
        llama = replace(
            sizes, positions=llama.positions, rope_theta=llama.rope_theta, tied=llama.tied
        )
    job = Training(
        store=store,
        out=out,
        start=StartingPoint(lm, generator, Sizes(llama, scale, grid, vectors), rows, chat, adapter),
        align=() if no_align else (align, *(further_alignment(text, align) for text in also)),
        batch=batch,
        training=training,
        z_loss=z_loss,
        held_out=held_out,
        held_out_share=held_out_share,
        samples=samples,
        sampling=sampling,
        text=text,
        replay=replay_text,
    )
    print_run(run_training(job), json, _lines)


def _lines(summary: dict[str, Any]) -> list[str]:
    lines = []
    shown = ("cross_entropy", "vectors", "alignment")
    losses = {k: v for k, v in summary["last"].items() if k.startswith(shown)}
    if losses:
        lines.append("last losses: " + ", ".join(f"{k} {v:.4f}" for k, v in losses.items()))
    bits = (summary["validation"] or {}).get("held_out_bits")
    if bits is not None:
        lines.append(f"held-out pictures: {bits:.3f} bits per code")
    loss = (summary["validation"] or {}).get("held_out_loss")
    if loss is not None:
        lines.append(f"held-out pictures: {loss:.3f} loss of their vectors")
    if (text := summary["text_perplexity"]) is not None:
        found = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in text.items())
        lines.append(f"perplexity of plain text: {found}")
    lines.append(f"model: {summary['model']}; pictures drawn on the way: {summary['samples']}")
    lines.append(f'next: arra generate {summary["run"]} "your prompt" --out pictures')
    return lines
