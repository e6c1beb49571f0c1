"""`arra prepare`: captioned pictures become a store to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from arra.data.scenes import SceneConfig
from arra.jobs.options import (
    CodecKind,
    CodecOptions,
    EncoderOptions,
    SourceOptions,
    TokenizerOptions,
)

# Frozen, so that one object can be the default of every call.
_SOURCEOPTIONS = SourceOptions()
_CODECOPTIONS = CodecOptions()
_ENCODEROPTIONS = EncoderOptions()
_TOKENIZEROPTIONS = TokenizerOptions()
_SCENECONFIG = SceneConfig()


def command(
    source: Positional[str],
    out: Annotated[Path, arg(metavar="STORE")],
    size: int | None = None,
    codec: Annotated[str | None, arg(metavar="PATH")] = None,
    train_codec: CodecKind = "vq",
    encoder: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="[NAME=]PATH")] = (),
    train_encoder: Annotated[str | None, arg(metavar="[NAME=]OBJECTIVE")] = None,
    tokenizer: Annotated[str | None, arg(metavar="NAME|PATH")] = None,
    aggregations: tuple[Literal["cls", "mean", "patches"], ...] = ("cls", "mean"),
    fit: Literal["crop", "pad", "stretch"] = "crop",
    resample: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos",
    feature_dtype: Literal["float16", "float32"] = "float16",
    sample: int = 20_000,
    workers: int = 0,
    engine: Literal["processes", "ray"] = "processes",
    batch: int = 64,
    shard_rows: int = 2048,
    device: str = "auto",
    overwrite: bool = False,
    json: bool = False,
    reading: Annotated[SourceOptions, arg(name="")] = _SOURCEOPTIONS,
    codec_options: Annotated[CodecOptions, arg(name="codec")] = _CODECOPTIONS,
    encoder_options: Annotated[EncoderOptions, arg(name="encoder")] = _ENCODEROPTIONS,
    tokenizer_options: Annotated[TokenizerOptions, arg(name="tokenizer")] = _TOKENIZEROPTIONS,
    scenes: SceneConfig = _SCENECONFIG,
) -> None:
    """Turn captioned pictures into a prepared store: codes, text ids and encoder features.

    SOURCE is a folder of pictures with .txt files of the same names, a folder with captions.jsonl,
    metadata.csv or Parquet files, such a file, an .npz or a .tar with a captions.jsonl, pictures
    with class labels (IDX files as MNIST has them, or an .npz of x_train and y_train), a data set
    of the datasets library by path or name, or digit scenes: scenes:20000 is twenty thousand of
    them. With --clips.frames it is a video (.npz of frames, .mp4, .mov, .webm, .mkv, .avi), a
    folder of such, or a listing of them; each is cut into clips of that many frames.

    What is trained on the way (codec, encoder, tokenizer) is kept in STORE.parts. Rows that cannot
    be used are left out and named, with the reason, in STORE/report.json. An interrupted
    preparation goes on when the same command is run again.

    Args:
        source: Where the pictures are.
        out: Folder of the store.
        size: Side in pixels to which pictures are fitted. Default: the pictures' own size where all
            are arrays of one size, else 64.
        codec: Folder or hub name of a trained codec, or of a language model that draws with one of
            its own (Chameleon, Emu3, Janus). Without it one is trained on the pictures.
        train_codec: Kind of the codec that is trained: vector quantisation, lookup-free,
            multi-scale residual quantisation for next-scale generators (scales), quantisation at
            every size for those of any schedule (flexible-scales), binary (an autoencoder of bits);
            and, without a network, squares of pixels by k-means (patches), or the bytes of JPEG
            files (jpeg) or, for clips, of H.264 files (avc).
        encoder: A representation encoder for alignment: a folder saved by arra, any vision model of
            transformers by folder or hub name, or one of open_clip (its folder,
            open_clip:OWNER/NAME, or open_clip:ARCHITECTURE@WEIGHTS). May be repeated: further ones
            as NAME=PATH, and --align.encoder NAME reads them.
        train_encoder: Train a small encoder on the pictures: contrastive (with the captions),
            instance or masked (without), or several joined by +. With neither option the store has
            no features, and training goes without alignment.
        tokenizer: Text tokenizer, such as that of the language model to be trained (its folder or
            hub name). Without it one is trained on the captions.
        aggregations: Which features are stored, of a clip those of its middle frame. Alignment with
            targets cls, mean and both needs cls and mean; target patch needs patches.
        fit: How a picture becomes a square: the centre cut out, filled up with white, or distorted.
        resample: Filter for resizing.
        feature_dtype: Number type of stored features.
        sample: Most pictures on which codec, encoder and tokenizer are trained.
        workers: Processes that share the work; 0 works in this one (with Ray: as many as fit).
        engine: What shares the work: processes of this machine, or a Ray cluster (that of
            RAY_ADDRESS, or one of this machine) whose machines all see SOURCE and STORE.
        batch: Pictures encoded at once.
        shard_rows: Rows in a shard, which is made whole or not at all.
        device: Where codec and encoder run: auto, cpu, cuda, cuda:1, mps.
        overwrite: Replace a store and parts that were made with other settings.
        json: Print the summary as JSON for programs.
        reading: How the source is read.
        codec_options: The codec that is trained.
        encoder_options: The encoder.
        tokenizer_options: The tokenizer that is trained.
        scenes: What digit scenes look like.
    """
    from arra.jobs.console import print_json
    from arra.jobs.preparing import Preparation, run_preparation

    job = Preparation(
        source=source,
        out=out,
        size=size,
        codec=codec,
        train_codec=train_codec,
        encoders=encoder,
        train_encoder=train_encoder,
        tokenizer=tokenizer,
        reading=reading,
        scenes=scenes,
        codec_options=codec_options,
        encoder_options=encoder_options,
        tokenizer_options=tokenizer_options,
        aggregations=aggregations,
        fit=fit,
        resample=resample,
        feature_dtype=feature_dtype,
        sample=sample,
        workers=workers,
        engine=engine,
        batch=batch,
        shard_rows=shard_rows,
        overwrite=overwrite,
        device=device,
    )
    summary = run_preparation(job).summary()
    if json:
        print_json(summary)
    else:
        print("\n".join(_lines(summary)))


def _lines(summary: dict[str, Any]) -> list[str]:
    vectors, clips = summary["vocabulary"] == 0, summary["frames"] > 1
    what = f"clips of {summary['frames']} frames" if clips else "pictures"
    lines = [
        f"{summary['rows']} {what} of {summary['size']} pixels in {summary['store']}: "
        f"{_codes(summary)}"
    ]
    features = ", ".join(f"{name} {shape}" for name, shape in summary["features"].items())
    lines.append(f"features: {features or 'none (train with --no-align)'}")
    if "codec" in summary["trained"]:
        report = summary["trained"]["codec"]
        used = "" if vectors else f" {report['usage']:.0%} of its codes used there,"
        lines.append(
            f"codec: {report['psnr']:.1f} dB on {report['pictures']} held-out "
            f"{'clips' if clips else 'pictures'},{used} {report['seconds']:.0f} s"
        )
    if summary["bad_rows"]:
        lines.append(f"{summary['bad_rows']} rows were left out; {summary['report']} names them:")
        lines += [f"  {count} x {reason}" for reason, count in summary["reasons"].items()]
    options = "" if features else " --no-align"
    if vectors:  # what trains unless asked otherwise takes codes
        options = f" --generator {'blocks' if clips else 'masked-vectors'}{options}"
    lines.append(f"next: arra train {summary['store']}{options} --out runs/first")
    return lines


def _codes(summary: dict[str, Any]) -> str:
    """What a row of the store has: so many codes of a vocabulary, or so many vectors."""
    *places, last = map(str, summary["codes"])
    if summary["vocabulary"] == 0:
        return f"{' x '.join(places)} vectors of {last} numbers"
    return f"{' x '.join([*places, last])} codes of {summary['vocabulary']}"
