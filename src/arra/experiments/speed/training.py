"""How fast a training step is beside transformers' Trainer: same model, samples and precision."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arra.experiments.digits import MemoryStore
from arra.experiments.speed.counted import peak_memory
from arra.experiments.speed.measure import Case, Contender, Precision, Work
from arra.settings import AlignmentConfig, BatchConfig, LlamaSize

if TYPE_CHECKING:
    from arra.generators.batches import RasterBatches
    from arra.generators.raster import RasterGenerator

QUESTION = "How long does a training step take beside transformers' Trainer?"

_WORDS = 64  # of the text vocabulary
_TARGET_WIDTH = 64  # of the encoder's vectors


@dataclass(frozen=True)
class _Plan:
    """A model and its batches."""

    name: str
    size: LlamaSize
    codes: int
    grid: tuple[int, int]
    samples: int
    """Of a step."""
    captions: tuple[int, int]
    """Fewest and most ids of a caption; all lengths between are equally likely."""
    steps: int
    """Of a run."""
    target: float
    """Times as fast as the Trainer that the project asks of itself."""

    def config(self, precision: Precision, compiled: bool) -> Any:
        from arra.training.config import TrainConfig

        return TrainConfig(
            steps=10**6,
            learning_rate=1e-3,
            precision=precision,  # type: ignore[arg-type]
            compile=compiled,
            log_every=10**6,
        )


_DEMO = _Plan(
    "the demo's model, 1.1 M parameters",
    LlamaSize(128, 5, 4, 352, positions=128, rope_theta=100.0, tied=True),
    codes=1024,
    grid=(6, 6),
    samples=32,
    captions=(2, 28),
    steps=5,
    target=1.3,
)
_LARGE = _Plan(
    "LlamaGen-B, 111 M parameters",
    LlamaSize.named("111M"),
    codes=16_384,
    grid=(16, 16),
    samples=4,
    captions=(8, 48),
    steps=1,
    target=1.1,
)
_TINY = replace(_DEMO, name="a model for looking", samples=4, steps=1)


def cases(budget: str, folder: Path) -> Iterator[Callable[[], Case]]:
    """Both sizes in fp32 and bf16; to look at, a step of few samples, not compiled."""
    if budget == "tiny":
        yield lambda: _case(_TINY, "fp32", folder, compiled=False)
        return
    numbers = itertools.count()
    for plan in (_DEMO, _LARGE):
        for precision in ("fp32", "bf16"):
            yield lambda plan=plan, precision=precision: _case(  # type: ignore[misc]
                plan, precision, folder / str(next(numbers)), compiled=True
            )


_ARRA, _ALIGNED = "arra", "arra, with alignment"
_TRAINER, _COMPILED = "transformers Trainer", "Trainer, torch_compile"


def _case(plan: _Plan, precision: Precision, folder: Path, compiled: bool) -> Case:
    rows = _rows(plan)
    peers = (_TRAINER, _COMPILED) if compiled else (_TRAINER,)
    contenders = [
        _contender(name, plan, precision, rows, folder, compiled)
        for name in (_ALIGNED, _ARRA, *peers)
    ]
    if compiled and precision == "fp32":
        contenders = [_with_memory(one, plan, folder) for one in contenders]
    return Case(
        name=f"{plan.name}, {precision}",
        unit="training step",
        units=plan.steps,
        contenders=tuple(contenders),
        peers=peers,
        targets={_ARRA: plan.target},
        note=f"{plan.samples} samples of {plan.captions[0]} to {plan.captions[1]} caption ids and "
        f"{plan.grid[0] * plan.grid[1]} codes a step, AdamW.",
    )


def _contender(
    name: str, plan: _Plan, precision: Precision, rows: MemoryStore, folder: Path, compiled: bool
) -> Contender:
    if name in (_TRAINER, _COMPILED):
        return _trainer(plan, precision, rows, folder, name, name == _COMPILED)
    return _ours(plan, precision, rows, folder, compiled, name == _ALIGNED)


# ---- memory ------------------------------------------------------------------------------------


def _with_memory(contender: Contender, plan: _Plan, folder: Path) -> Contender:
    """The same, which also tells what three steps take in a process of their own."""

    def facts() -> Mapping[str, float]:
        place = str(folder / "memory")
        return {**told(), "peak memory (MiB)": peak_memory(steps_alone, plan.name, name, place)}

    told, name = contender.facts or dict, contender.name
    return replace(contender, facts=facts)


def steps_alone(plan_name: str, name: str, folder: str) -> None:
    """Three steps of the contender `name` in fp32, for who measures this process's memory."""
    plan = next(plan for plan in (_DEMO, _LARGE, _TINY) if plan.name == plan_name)
    contender = _contender(name, plan, "fp32", _rows(plan), Path(folder), plan != _TINY)
    for _ in range(3):
        contender.run()


# ---- ours --------------------------------------------------------------------------------------


def _ours(
    plan: _Plan,
    precision: Precision,
    rows: MemoryStore,
    folder: Path,
    compiled: bool,
    aligned: bool,
) -> Contender:
    from arra.objectives.alignment import alignments
    from arra.objectives.base import Objective
    from arra.objectives.laws import NextToken
    from arra.training.loop import stepper

    generator = _generator(plan)
    objectives: list[Objective] = [NextToken()]
    if aligned:
        terms = [AlignmentConfig(layers=(2,), target="both")]
        shapes = dict.fromkeys(("cls", "mean"), (_TARGET_WIDTH,))
        objectives += alignments(terms, shapes, generator.width, plan.grid, seed=0)
    batches = _batches(plan, generator, rows, () if not aligned else ("cls", "mean"))
    name = _ALIGNED if aligned else _ARRA
    options = "compiled blocks, fused AdamW, batches made ahead"
    options += "; with alignment" if aligned else "; next token only"
    step = stepper(generator, objectives, batches, plan.config(precision, compiled), folder / name)
    numbers, waited = itertools.count(), [0.0]

    def run() -> None:
        for _ in range(plan.steps):
            waited.append(step(next(numbers)))

    def facts() -> Mapping[str, float]:
        return {
            "padding in batches": _padding(batches, plan),
            "padding computed": _computed_padding(batches, plan),
            "milliseconds waiting for data": 1e3 * float(np.median(waited[2:] or [0.0])),
        }

    work = Work(operations=plan.steps * _operations(plan, generator, rows, objectives))
    return Contender(name, options, run, precision, work, facts)


def _rows(plan: _Plan, count: int = 2048) -> MemoryStore:
    rng = np.random.default_rng(0)
    lengths = rng.integers(plan.captions[0], plan.captions[1] + 1, size=count)
    numbers = torch.Generator().manual_seed(0)
    return MemoryStore(
        [rng.integers(4, _WORDS, size=length).tolist() for length in lengths],
        torch.randint(plan.codes, (count, *plan.grid), generator=numbers),
        {name: torch.randn(count, _TARGET_WIDTH, generator=numbers) for name in ("cls", "mean")},
    )


def _generator(plan: _Plan) -> RasterGenerator:
    from arra.data.tokenizer import train_text_tokenizer
    from arra.generators.raster import RasterGenerator

    words = [" ".join(f"w{i:02d}x" for i in range(_WORDS))]
    tokenizer = train_text_tokenizer(words, kind="word")
    return RasterGenerator.from_scratch(tokenizer, plan.codes, plan.grid, plan.size, seed=0)


def _batches(
    plan: _Plan, generator: RasterGenerator, rows: MemoryStore, features: Sequence[str]
) -> RasterBatches:
    from arra.generators.batches import RasterBatches

    config = BatchConfig(size=plan.samples, bucket=1, multiple=1, drop_caption=0.0)
    return RasterBatches(rows, generator.config.vocabulary, config, features)


# ---- the peer ----------------------------------------------------------------------------------


def _trainer(
    plan: _Plan, precision: Precision, rows: MemoryStore, folder: Path, name: str, compiled: bool
) -> Contender:
    """transformers' Trainer in a thread of its own, which takes a step when it is told to."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    generator = _generator(plan)
    batches = _batches(plan, generator, rows, ())
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Told(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()

    arguments = TrainingArguments(
        output_dir=str(folder / name),
        per_device_train_batch_size=plan.samples,
        max_steps=10**6,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        bf16=precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        torch_compile=compiled,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    end = generator.config.vocabulary.end
    trainer = Trainer(
        model=generator.lm.train(),
        args=arguments,
        train_dataset=_Sequences(batches, end),
        data_collator=lambda samples: _padded(samples, generator.config.vocabulary.pad),
        callbacks=[Told()],
    )

    failed: list[BaseException] = []

    def work() -> None:
        try:
            trainer.train()
        except BaseException as error:  # raised where somebody waits for the step
            failed.append(error)
            done.release()

    threading.Thread(target=work, daemon=True, name="trainer").start()

    def run() -> None:
        for _ in range(plan.steps):
            go.release()
            done.acquire()
            if failed:
                raise failed[0]

    told = "fused AdamW, sdpa" + (", torch_compile" if compiled else "")
    facts = {"padding computed": _padding(batches, plan)}
    operations = plan.steps * _operations(plan, generator, rows, [])
    return Contender(name, told, run, precision, Work(operations=operations), lambda: facts)


class _Sequences(torch.utils.data.IterableDataset):
    """The samples of our batches, in their order, as Trainer takes them."""

    def __init__(self, batches: RasterBatches, end: int):
        self.batches, self.end = batches, end

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for step in itertools.count():
            batch = self.batches.batch(step)
            for tokens, target, segment in zip(
                batch.tokens, batch.target, batch.segment, strict=True
            ):
                real = segment >= 0
                # Trainer's labels stand where they are read; what is predicted last is read, too.
                ids = torch.cat((tokens[real], tokens.new_tensor([self.end])))
                labels = torch.cat((target.new_tensor([-100]), target[real]))
                yield {"input_ids": ids, "labels": labels}


def _padded(samples: Sequence[Mapping[str, torch.Tensor]], pad: int) -> dict[str, torch.Tensor]:
    def together(name: str, value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [sample[name] for sample in samples], batch_first=True, padding_value=value
        )

    lengths = torch.tensor([len(sample["labels"]) for sample in samples])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return {
        "input_ids": together("input_ids", pad),
        "labels": together("labels", -100),
        "attention_mask": mask.long(),
    }


# ---- what has to be done -----------------------------------------------------------------------


def _lengths(plan: _Plan, rows: MemoryStore) -> np.ndarray:
    """Positions of the store's samples: a start, a caption, <boi> and all codes but the last, which
    is read, too."""
    return 2 + rows.text_lengths(range(len(rows))) + plan.grid[0] * plan.grid[1]


def _operations(
    plan: _Plan,
    generator: RasterGenerator,
    rows: MemoryStore,
    objectives: Sequence[torch.nn.Module],
) -> float:
    """Of a step's matrix products, forward (one third) and backward, without padding."""
    units, lengths = plan.grid[0] * plan.grid[1] + 1, _lengths(plan, rows)
    blocks = sum(p.numel() for b in generator.decoder_blocks() for p in b.parameters())
    head = generator.tables.rows * generator.width
    projectors = sum(p.numel() for o in objectives for p in o.parameters())
    # half of all pairs of positions, twice: scores, and the mean of the values
    attention = 2.0 * plan.size.depth * generator.width * float((lengths**2).mean())
    tokens = float(lengths.mean()) * blocks * 2.0
    predicted = units * (head + projectors) * 2.0
    return 3.0 * plan.samples * (tokens + predicted + attention)


def _padding(batches: RasterBatches, plan: _Plan) -> float:
    """Share of positions in 20 batches that are padding."""
    real = [(batches.batch(step).segment >= 0).float().mean().item() for step in range(20)]
    return 1.0 - float(np.mean(real))


def _computed_padding(batches: RasterBatches, plan: _Plan) -> float:
    """Share of our operations that padding causes: none but in attention's rows."""
    from arra.networks.unpadded import Places

    blocks = plan.size.width * (4 * plan.size.width + 3 * plan.size.feed_forward)
    wasted = needed = 0.0
    for step in range(20):
        batch = batches.batch(step)
        places = Places.of(batch.segment, batch.position)
        own = torch.bincount(places.slot // places.row.shape[1]).double()
        pairs = 2.0 * plan.size.width * own.square().sum().item()
        all_pairs = 2.0 * plan.size.width * places.row.numel() * places.row.shape[1]
        needed += len(places.flat) * blocks + pairs
        wasted += all_pairs - pairs
    return wasted / (needed + wasted)
