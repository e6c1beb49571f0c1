"""Arms and seeds of a corpus: trained from the same starts, judged alike, summed up in a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arra.environment import machine_class, machine_info, versions
from arra.errors import InputError
from arra.experiments.arms import Arm, drawn_pictures, train_arm
from arra.experiments.corpora.corpus import Corpus
from arra.experiments.corpora.judging import Judgement
from arra.experiments.corpora.results import compose, write_pages
from arra.experiments.corpora.workbench import Workbench
from arra.experiments.parallel import Job, Stopwatch, run_jobs
from arra.files import atomic_folder, read_json, sha256_of_json, to_plain, write_json
from arra.jobs.validation import HeldOut

BASELINE = "baseline"
"""The arm from which a corpus with a start goes on, and with which others are compared."""


def run_corpus(
    bench: Workbench,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    *,
    processes: int | None = None,
) -> dict[str, Any]:
    """Train and judge all arms with all seeds; the report, also written to the corpus's folder.

    Leaves `report.json`, `report.html`, `grid.png`, `drawn.png` and, for every seed and arm,
    `seed-S/ARM/model`. Called again after an interruption it goes on where it stopped. Raises
    `InputError` without the arm "baseline" or without seeds.
    """
    if BASELINE not in [arm.name for arm in arms] or not seeds:
        raise InputError(f"run_corpus: expected the arm {BASELINE!r} and at least one seed")
    watch = Stopwatch()
    if bench.start is not None:
        bench.start.build()
    bench.build()
    watch.lap("codec, teacher, judge, stores")
    baseline = next(arm for arm in arms if arm.name == BASELINE)
    if bench.start is not None:
        given = {"bench": bench.start, "arm": baseline}
        starts = [Job(f"start, seed {s}", train_start, {**given, "seed": s}) for s in seeds]
        run_jobs(starts, processes, bench.quiet)
        watch.lap("models to start from")
    pairs = [(seed, arm) for seed in seeds for arm in arms]
    jobs = [
        Job(f"{arm.name}, seed {seed}", run_arm, {"bench": bench, "arm": arm, "seed": seed})
        for seed, arm in pairs
    ]
    found: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for (_, arm), result in zip(pairs, run_jobs(jobs, processes, bench.quiet), strict=True):
        found[arm.name].append(result)
    watch.lap("training and judging")
    judgement = _judgement(bench)
    reference = _kept(bench.folder / "reference.json", _settings(bench), judgement.reference)
    report = compose(bench.corpus, arms, seeds, found, reference, parts_of(bench))
    watch.lap("report")
    report["seconds"] = {**watch.seconds, "total": sum(watch.seconds.values())}
    machine = machine_info()
    report |= {"machine": machine_class(machine), "versions": versions()}
    shown = bench.corpus.drawing.shown
    drawn = {arm.name: drawn_pictures(arm_folder(bench, arm, seeds[0]))[:shown] for arm in arms}
    through = bench.through_codec(judgement.real[:shown])
    write_pages(
        bench.folder, report, judgement.prompts[:shown],
        {"real": judgement.real[:shown], "real, through the codec": through} | drawn,
    )  # fmt: skip
    return report


def arm_folder(bench: Workbench, arm: Arm, seed: int) -> Path:
    """Where an arm of one seed is kept."""
    return bench.folder / f"seed-{seed}" / arm.name


def train_start(bench: Workbench, arm: Arm, seed: int) -> None:
    """Train the model from which another corpus goes on, unless that is done."""
    if not (arm_folder(bench, arm, seed) / "model" / "codec").is_dir():
        train_only(bench, arm, seed)


def train_only(bench: Workbench, arm: Arm, seed: int) -> dict[str, Any]:
    """Train one arm, or go on; the facts of the training."""
    start = None
    if bench.start is not None:
        start = bench.start.folder / f"seed-{seed}" / BASELINE / "model"
    rows = bench.held_out_store
    return train_arm(
        bench,
        arm,
        bench.corpus.plan,
        seed,
        arm_folder(bench, arm, seed),
        start=start,
        validators=[HeldOut(rows, most=512)],
    )


_SHARED: dict[Path, Judgement] = {}


def _judgement(bench: Workbench) -> Judgement:
    """The judgement of a corpus, once in each process: it holds pictures and features."""
    if bench.folder not in _SHARED or _SHARED[bench.folder].bench.corpus != bench.corpus:
        _SHARED.clear()
        _SHARED[bench.folder] = Judgement(bench)
    return _SHARED[bench.folder]


def run_arm(bench: Workbench, arm: Arm, seed: int) -> dict[str, Any]:
    """Train and judge one arm, unless that was done; leaves `arm.json` and `pictures.npz`."""
    folder = arm_folder(bench, arm, seed)
    done = folder / "judged"
    settings = sha256_of_json([_settings(bench), to_plain(arm), seed])
    try:
        if (found := read_json(done / "arm.json"))["settings"] == settings:
            return found
    except InputError:
        pass  # not judged yet
    facts = train_only(bench, arm, seed)
    results, pictures = _judgement(bench).arm(folder)
    found = {"settings": settings, "seed": seed, "training": facts, **results}
    with atomic_folder(done) as target:
        np.savez_compressed(target / "pictures.npz", pictures=pictures)
        write_json(target / "arm.json", found)
    return to_plain(found)


def _settings(bench: Workbench) -> str:
    """What results depend on: the settings, the codec, the teacher and the judge."""
    parts = [bench.codec.fingerprint(), bench.encoder.fingerprint(), bench.judge.name]
    return sha256_of_json([to_plain(bench.corpus), parts])


def _kept(path: Path, settings: str, make: Any) -> dict[str, Any]:
    """What `make` gives, or what it gave with the same settings."""
    try:
        if (found := read_json(path))["settings"] == settings:
            return found["found"]
    except InputError:
        pass  # not there yet
    found = to_plain({"settings": settings, "found": make()})
    write_json(path, found)
    return found["found"]


def parts_of(bench: Workbench) -> dict[str, Any]:
    """What the training of codec, teacher and judge reported."""
    codec = bench.parts.report("codec")
    encoder, judge = bench.parts.report("encoder"), bench.parts.report("judge")
    return {
        "codec": {k: codec[k] for k in ("psnr", "usage", "steps", "seconds", "parameters")},
        "encoder": {k: encoder[k] for k in ("objective", "steps", "seconds", "parameters")},
        "judge": {k: judge[k] for k in ("objective", "steps", "seconds", "parameters")},
        "pictures": {
            "training": len(bench.train.pictures),
            "held_out": len(bench.held_out.pictures),
        },
    }


def bench_for(corpus: Corpus, data: Path, out: Path, device: str, quiet: bool) -> Workbench:
    """The workbench of a corpus; `InputError` where its pictures are not in the data folder."""
    sources = [corpus.source, *corpus.also]
    if corpus.start is not None:
        sources += [corpus.start.corpus.source, *corpus.start.corpus.also]
    for source in sources:
        if not (data / source.path).exists():
            raise InputError(f"{data / source.path}: not there; {corpus.name} needs it in {data}")
    return Workbench(corpus, data, out, device, quiet)
