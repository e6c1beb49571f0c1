"""`arra tune`: a codec learns to give codes that a generator finds easier to predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from arra.data.scenes import SceneConfig
from arra.jobs.options import SourceOptions
from arra.settings import AlignmentConfig, LlamaSize
from arra.systems.gear.settings import GearConfig

_SOURCEOPTIONS = SourceOptions()
_SCENECONFIG = SceneConfig()
_GEARCONFIG = GearConfig()
_ALIGNMENTCONFIG = AlignmentConfig(target="patch", projector="mlp3", weight=0.5)
_LLAMASIZE = LlamaSize()


def command(
    source: Positional[str],
    codec: Annotated[str, arg(metavar="PATH")],
    out: Annotated[Path, arg(metavar="RUN")],
    encoder: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    control: bool = False,
    tokenizer: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    size: int | None = None,
    fit: Literal["crop", "pad", "stretch"] = "crop",
    resample: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos",
    sample: int = 20_000,
    device: str = "auto",
    json: bool = False,
    gear: Annotated[GearConfig, arg(name="")] = _GEARCONFIG,
    align: AlignmentConfig = _ALIGNMENTCONFIG,
    llama: LlamaSize = _LLAMASIZE,
    reading: Annotated[SourceOptions, arg(name="")] = _SOURCEOPTIONS,
    scenes: SceneConfig = _SCENECONFIG,
) -> None:
    """Tune a trained codec end to end, guided by alignment (GEAR, arXiv 2606.32039).

    A generator learns beside the codec. Its alignment with an encoder's patches, read through soft
    codes, is the only thing of it that reaches the codec. RUN gets codec/, a codec like any other,
    with which to prepare (arra prepare SOURCE --codec RUN/codec) and to train a generator as usual;
    report.json, log.jsonl, checkpoints/, and model/, the generator that learnt on the way. Killed
    or interrupted at any moment, the same command goes on and ends with the same weights.

    Whether it helped shows beside --control: as many steps for reconstruction alone.

    Args:
        source: Where the pictures are, as in arra prepare.
        codec: Folder or hub name of the codec, such as STORE.parts/codec.
        out: Folder of the run.
        encoder: The encoder that guides, such as STORE.parts/encoder, or any vision model of
            transformers with patch features.
        control: Tune for reconstruction alone; no encoder, no generator.
        tokenizer: Text tokenizer of the generator. Without it one is trained on the captions.
        size: Side in pixels to which pictures are fitted. Default: as in arra prepare.
        fit: How a picture becomes a square, as in arra prepare.
        resample: Filter for resizing.
        sample: Most pictures that are used; they are held in memory.
        device: Where everything runs: auto, cpu, cuda, cuda:1, mps.
        json: Print the summary as JSON for programs.
        gear: The joint training.
        align: The alignment that guides, and its weight in the generator's own step.
        llama: Size of the generator that learns beside the codec.
        reading: How the source is read.
        scenes: What digit scenes look like.
    """
    from arra.jobs.console import print_json, resumable
    from arra.systems.gear.job import Tuning, run_tuning

    job = Tuning(
        source=source,
        codec=codec,
        out=out,
        encoder=encoder,
        control=control,
        tokenizer=tokenizer,
        size=size,
        reading=reading,
        scenes=scenes,
        fit=fit,
        resample=resample,
        sample=sample,
        gear=gear,
        align=align,
        llama=llama,
        device=device,
    )
    with resumable("tuning"):
        summary = run_tuning(job).summary()
    if json:
        print_json(summary)
    else:
        print("\n".join(_lines(summary, source)))


def _lines(summary: dict[str, Any], source: str) -> list[str]:
    again = f" (from step {summary['resumed_from']})" if summary["resumed_from"] else ""
    lines = [f"{summary['steps']} steps{again} in {summary['seconds']:.0f} s"]
    for when in ("before", "after"):
        report = summary[when]
        lines.append(
            f"{when}: {report['psnr']:.2f} dB on {report['pictures']} held-out pictures, "
            f"{report['usage']:.0%} of the codes used there, perplexity {report['perplexity']:.1f}"
        )
    lines.append(f"next: arra prepare {source} --codec {summary['codec']} --out data/tuned")
    return lines
