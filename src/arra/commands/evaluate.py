"""`arra evaluate`: measure what a checkpoint draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from arra.jobs.options import EncoderOptions, SourceOptions
from arra.settings import SamplingConfig

# Frozen, so that one object can be the default of every call.
_ENCODEROPTIONS = EncoderOptions()
_SOURCEOPTIONS = SourceOptions()
_SAMPLINGCONFIG = SamplingConfig()


def command(
    checkpoint: Annotated[Positional[Path | None], arg(metavar="CHECKPOINT")] = None,
    *,
    out: Annotated[Path, arg(metavar="DIR")],
    store: Annotated[Path | None, arg(metavar="STORE")] = None,
    pictures: Annotated[str | None, arg(metavar="PICTURES")] = None,
    source: Annotated[str | None, arg(metavar="SOURCE")] = None,
    statistics: Annotated[Path | None, arg(metavar="NPZ")] = None,
    reference: Literal["held-out", "training"] = "held-out",
    count: int = 256,
    most: int = 50_000,
    unguided: bool = False,
    inception: Annotated[str | None, arg(metavar="PATH|auto")] = None,
    encoders: Annotated[tuple[str, ...], arg(metavar="NAME|PATH")] = (),
    classifier: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    towers: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    text: Annotated[tuple[Path, ...], arg(metavar="FILE")] = (),
    scenes: bool = False,
    reader: Annotated[Path | None, arg(metavar="PATH")] = None,
    reader_seconds: float = 40.0,
    reader_steps: int | None = None,
    diversity_prompts: int = 16,
    diversity_seeds: int = 4,
    training_rows: int = 10_000,
    seed: int = 0,
    batch: int = 64,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
    encoder_options: Annotated[EncoderOptions, arg(name="encoder")] = _ENCODEROPTIONS,
    reading: Annotated[SourceOptions, arg(name="")] = _SOURCEOPTIONS,
    sampling: Annotated[SamplingConfig, arg(name="")] = _SAMPLINGCONFIG,
) -> None:
    """Measure a checkpoint, or any pictures: distances to real ones, diversity, copies, prompts.

    DIR gets evaluation.json (every measure with its interval, sample size and the encoder that
    looked, and the reason for each that could not be measured), evaluation.md (the same to read,
    with how it was measured and what spoils it) and the pictures that were drawn for it, so that
    the same command goes on where it stopped. Without CHECKPOINT, --pictures are compared with
    --source.

    Args:
        checkpoint: A run folder, its model/, or an exported checkpoint.
        out: Folder for the result and the pictures.
        store: A store of the same codec to evaluate on. Default: the rows that the checkpoint's run
            held out.
        pictures: Judge these instead of drawing: a folder of `arra generate`, a folder of picture
            files, an .npz of pictures, or a prepared store.
        source: Real pictures to compare with: any of these, or as for `arra prepare`. Default: the
            store's rows as the codec paints them, so that the codec's own loss does not count.
        statistics: Mean and covariance of real Inception features (mu and sigma, as clean-fid and
            ADM publish them), for an FID against them.
        reference: Which of the store's rows are the real pictures.
        count: Pictures that are drawn: one for each caption, several where captions are few.
        most: Most pictures that are read of PICTURES and of SOURCE.
        unguided: Draw without guidance as well and measure both.
        inception: The Inception weights of torch-fidelity or pytorch-fid, for FID, KID and
            Inception score; "auto" looks for torch hub's copy, then downloads it.
        encoders: Encoders in which drawn and real pictures are compared (Fréchet distance and its
            floor, precision and recall, copies): folders saved by arra, or vision models of
            transformers by folder or hub name.
        classifier: An image classifier of transformers for a classifier score.
        towers: A CLIP or SigLIP model of transformers by folder or hub name, one of open_clip
            (open_clip:owner/name, open_clip:ViT-B-16@weights), or an encoder that `arra prepare
            --train-encoder contrastive` trained (STORE.parts/encoder), for the image-text score.
        text: Files of plain text whose perplexity is measured: what the model could say before it
            learned to draw (`arra train --text` tells before and after). With an adapter also with
            the adapter off.
        scenes: The checkpoint draws digit scenes: draw held-out combinations and read the pictures.
        reader: A saved reader of digit scenes. Default: one is trained, and kept in DIR/parts.
        reader_seconds: How long that takes.
        reader_steps: Train it for so many steps instead.
        diversity_prompts: Prompts of which several pictures are drawn to see how alike they are.
        diversity_seeds: How many of each.
        training_rows: Most training pictures among which copies are looked for.
        seed: Seed of the pictures and of the intervals.
        batch: Pictures drawn at once.
        device: Where to work: auto, cpu, cuda, cuda:1, mps.
        overwrite: Replace pictures in DIR that were drawn with other settings.
        json: Print the result as JSON for programs instead of a table.
        encoder_options: Which layer of the encoders.
        reading: How SOURCE is read.
        sampling: How pictures are drawn.
    """
    from arra.jobs.console import print_json
    from arra.jobs.evaluation import PAGE, Evaluation, evaluate

    job = Evaluation(
        out=out,
        checkpoint=checkpoint,
        store=store,
        pictures=pictures,
        source=source,
        reading=reading,
        statistics=statistics,
        reference=reference,
        count=count,
        most=most,
        unguided=unguided,
        inception=inception,
        encoders=encoders,
        encoder_options=encoder_options,
        classifier=classifier,
        towers=towers,
        text=text,
        scenes=scenes,
        reader=reader,
        reader_seconds=reader_seconds,
        reader_steps=reader_steps,
        diversity_prompts=diversity_prompts,
        diversity_seeds=diversity_seeds,
        training_rows=training_rows,
        seed=seed,
        sampling=sampling,
        batch=batch,
        device=device,
        overwrite=overwrite,
    )
    result = evaluate(job)
    if json:
        print_json(result)
    else:
        _print_table(result)
        print(f"to read, with how it was measured: {out / PAGE}")


def _print_table(result: dict[str, Any]) -> None:
    from arra.jobs.console import print_table
    from arra.jobs.evaluation_report import bounds, number

    rows = [
        (one["name"], number(one["value"]), bounds(one), str(one["n"]), one["encoder"])
        for one in result["measures"]
    ]
    title = f"{result['pictures']} pictures; real: {result['real']['what']}"
    print_table(("measure", "value", "95 % interval", "n", "encoder"), rows, title)
    for text in result["warnings"]:
        print(f"warning: {text}")
    for what, why in result["skipped"].items():
        print(f"not measured: {what} ({why})")
