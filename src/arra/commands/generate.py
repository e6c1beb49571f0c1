"""`arra generate`: draw pictures for prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from arra.jobs.draft_options import DraftOptions
from arra.settings import Decoder, Precision, Sampler, SamplingConfig

# Frozen, so that one object can be the default of every call.
_SAMPLINGCONFIG = SamplingConfig()
_DRAFTOPTIONS = DraftOptions()


def command(
    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")],
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT")] = (),
    *,
    out: Annotated[Path, arg(metavar="DIR")],
    prompts_file: Annotated[Path | None, arg(name="prompts", metavar="FILE")] = None,
    layout: Literal["plain", "geneval", "dpg"] = "plain",
    count: int = 1,
    seed: int = 0,
    batch: int = 64,
    device: str = "auto",
    decoder: Decoder = "auto",
    precision: Precision = "fp32",
    sampler: Sampler = "auto",
    schedule: tuple[int, ...] = (),
    grid: tuple[int, int] | None = None,
    steps: int | None = None,
    rounds: int | None = None,
    solver: Literal["own", "dpm++", "unipc"] | None = None,
    teacher: Annotated[Path | None, arg(metavar="CHECKPOINT")] = None,
    teacher_units: Annotated[tuple[int, int] | None, arg(metavar="FIRST UNTIL")] = None,
    overwrite: bool = False,
    json: bool = False,
    sampling: Annotated[SamplingConfig, arg(name="")] = _SAMPLINGCONFIG,
    drafts: Annotated[DraftOptions, arg(name="")] = _DRAFTOPTIONS,
) -> None:
    """Draw pictures for prompts with a trained checkpoint, one PNG for each prompt and seed.

    A checkpoint that was trained on clips draws clips: animated PNGs, in grid.png all frames.

    Every PNG carries its prompt, seed, settings and checkpoint in text chunks. DIR also gets
    manifest.jsonl (one JSON object a picture) and grid.png. The same prompt, seed and settings give
    the same picture. Killed at any moment, the same command draws only what is missing and ends
    with the same files; more prompts or seeds can be added to a folder, other settings cannot.

    Args:
        checkpoint: A run folder, its model/, or an exported checkpoint.
        prompts: What to draw; quote each prompt.
        out: Folder for the pictures.
        prompts_file: A UTF-8 text file with a prompt on each line. For geneval its
            evaluation_metadata.jsonl; for dpg its folder of prompts, or dpg_bench.csv.
        layout: How the pictures lie: plain, or as the scorers of GenEval and DPG-Bench read them
            (DIR/images, four pictures a prompt; DIR/benchmark.json says how to score them).
        count: Pictures for each prompt, with the seeds --seed and following.
        seed: Seed of the first picture of each prompt.
        batch: Pictures drawn at once.
        device: Where to draw: auto, cpu, cuda, cuda:1, mps.
        decoder: Auto draws the fastest way that gives the pictures of the language model's own
            forward (plain); fast insists on our own decoder, and says why where there is none.
        precision: Of the decoder's weights. bf16 and int8 are faster for large models (100 M
            parameters and more), and draw other, slightly worse pictures.
        sampler: Auto draws as the generator does; speculative draws several codes a pass, where
            a cheap drafter guesses them, and, unless guesses are relaxed, nothing is worse for it
            (docs/speculative.md);
            backtracking may take codes back meanwhile, for checkpoints that have learnt a
            backspace.
        schedule: Growing sides of the scales that are drawn, such as 1 2 4 8; the last is the whole
            picture. For generators that take any schedule (flexible-scales).
        grid: Rows and columns of codes of the picture, with --schedule; unless given, training's.
        steps: Of generators of vectors: evaluations of the solver that draw a unit.
        rounds: Of generators that draw hidden cells (masked-vectors): passes that draw a picture.
        solver: Of generators of vectors: our own steps (DDIM, Euler), or a solver of second order
            of diffusers, which needs fewer of them.
        teacher: Of students (`arra distill`): the checkpoint that it learnt from, which draws some
            units itself, between two steps of the student. Slower, and nearer to the teacher.
        teacher_units: Which ones (cells, or scales, from 0), such as 4 12: the student says the
            first 4, its teacher draws up to the 12th, and from there on, which is one of --starts,
            the student says the rest.
        overwrite: Replace pictures in DIR that were drawn with other settings.
        json: Print a JSON list of the pictures for programs.
        sampling: How pictures are drawn.
        drafts: With --sampler speculative: who guesses, and which guesses stay.
    """
    from arra.errors import InputError
    from arra.jobs.console import choose_device, print_json
    from arra.jobs.generation import GRID, Generation, generate, read_prompts
    from arra.text_to_image import TextToImage

    if grid is not None and not schedule:
        raise InputError("grid: another size needs the scales that lead to it, --schedule")
    if (teacher is None) != (teacher_units is None):
        raise InputError("teacher, teacher_units: who draws, and what; give both or neither")
    if teacher is not None and (layout != "plain" or steps is not None or sampler != "auto"):
        raise InputError("teacher: goes without --layout, --steps, --sampler")
    if layout != "plain":
        from arra.jobs.benchmarks import SAMPLES, Benchmark, draw_benchmark

        if prompts or prompts_file is None:
            raise InputError(f"--layout {layout}: give the benchmark's own prompts with --prompts")
        if (decoder, precision) != ("auto", "fp32"):
            raise InputError(f"--layout {layout}: is drawn at fp32, without --decoder, --precision")
        if schedule or sampler != "auto":
            raise InputError(f"--layout {layout}: is drawn without --schedule, --sampler")
        if count not in (1, SAMPLES):
            raise InputError(f"count: {count}, the scorers want {SAMPLES} pictures of each prompt")
        model = TextToImage.from_pretrained(checkpoint, choose_device(device))
        benchmark = Benchmark(layout, prompts_file, out, seed, sampling, batch, overwrite)
        record = draw_benchmark(model, benchmark)
        if json:
            print_json(record)
        else:
            print(f"{record['prompts']} prompts drawn: {record['images']}")
            print(f"score with: {record['score_with']}")
            print("\n".join(f"note: {remark}" for remark in record["remarks"]))
        return
    wanted = [*prompts, *(read_prompts(prompts_file) if prompts_file is not None else ())]
    model = TextToImage.from_pretrained(checkpoint, choose_device(device))
    if schedule:
        model = model.scheduled(schedule, grid)
    if (steps, rounds, solver) != (None, None, None):
        model = model.paced(steps, rounds, solver)
    if teacher is not None and teacher_units is not None:
        other = TextToImage.from_pretrained(teacher, choose_device(device))
        model = model.helped(other, *teacher_units)
    speculation = None
    if sampler == "speculative":
        from arra.jobs.drafting import speculative_sampler

        speculation = speculative_sampler(model, checkpoint, drafts, sampling, decoder)
    elif drafts != DraftOptions():
        raise InputError(
            "drafter, draft_from, draft_nodes, tree, relax_delta and the like: only with --sampler "
            "speculative"
        )
    how = (decoder, precision, sampler, speculation)
    job = Generation(wanted, out, count, seed, sampling, batch, overwrite, *how)
    made = generate(model, job)
    if json:
        print_json(
            [
                {"file": str(file), "prompt": one.prompt, "seed": one.seed}
                for file, one in zip(made.files, made.wanted, strict=True)
            ]
        )
    else:
        kept = len(made.files) - made.drawn
        there = f" ({kept} were there)" if kept else ""
        print(f"{made.drawn} pictures drawn{there}: {out}; side by side: {out / GRID}")
        if speculation is not None and speculation.statistics.passes:
            each = speculation.statistics.units_per_pass
            print(f"{each:.2f} {speculation.drawn} a pass of the model")
