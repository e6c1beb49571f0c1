"""Shards made on many machines: a Ray data set of shard numbers, mapped by actors.

Ray Data starts the actors where there is room, hands each the next shard, starts those that die
again and repeats what they were at. That is safe, because a shard is a function of its rows, is
written whole or not at all, and is found again by its note: nothing is lost, nothing is doubled.
All machines must see the store's folder, and the source, under the same paths.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from arra import errors
from arra.allocation import keep_freed_memory
from arra.data.crew import told
from arra.data.make import WORK, Job, Maker, ShardResult
from arra.errors import ArraError, InputError
from arra.files import to_plain
from arra.progress import QUIET, without_library_bars

TRIES = 10
"""How often a shard is begun before it is taken for the cause of the deaths of its actors. Machines
that are taken away (spot instances) are no fault of the shard: more than for processes."""
_BEGUN = "begun"  # folder of the tries
_BLOCKS = 2048  # pieces of the data set; one shard each where there are no more


def make_shards_on_ray(
    job: Job,
    shards: Sequence[int],
    workers: int,
    advance: Callable[[int], None],
    finished: Callable[[int, ShardResult], None],
) -> None:
    """Make `shards` with `workers` actors, or with 0 as many as the cluster has room for.

    An actor takes one CPU, and one GPU where the parts are on CUDA. `finished` is called here for
    each shard. The cluster is the one that this process is connected to, otherwise that of
    RAY_ADDRESS, otherwise one of this machine alone, which ends with the call.

    Raises `InputError` where Ray is not installed, the `ArraError` of an actor, or one that says
    that actors keep dying.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            "engine 'ray': Ray is not installed; run `pip install 'arra[distributed-data]'`"
        ) from None
    shutil.rmtree(job.folder / WORK / _BEGUN, ignore_errors=True)  # of an earlier call
    devices = [job.codec_device, *(device for _, device in job.encoders.values())]
    gpus = int(any("cuda" in device for device in devices))
    with _cluster(ray):
        room = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0)) or 1
        most = min(workers or room, len(shards))
        pool = ray.data.ActorPoolStrategy(min_size=most if workers else 1, max_size=most)
        numbers = ray.data.from_items(
            [{"shard": number} for number in shards], override_num_blocks=min(len(shards), _BLOCKS)
        )
        actor: Any = _Actor  # Ray takes classes of callables, too
        made = numbers.map(
            actor,
            fn_constructor_args=(job, TRIES),
            compute=pool,
            num_cpus=1,
            num_gpus=gpus,
        )
        try:
            for row in made.iter_rows():
                if row["error"]:
                    raise getattr(errors, row["error"])(row["outcome"])
                start, stop = job.span(row["shard"])
                advance(stop - start)
                finished(row["shard"], ShardResult.from_plain(json.loads(row["outcome"])))
        except ray.exceptions.RayError as error:
            raise ArraError(
                f"{job.folder}: Ray gave up ({type(error).__name__}: {str(error).strip()[:500]}). "
                "Finished shards are kept: the same call goes on."
            ) from error


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Connected to Ray, without its progress bars."""
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if mine:
            ray.shutdown()


class _Actor:
    """What makes shards on some machine, with one thread, so that bytes do not depend on it."""

    def __init__(self, job: Job, tries: int):
        self.job, self.tries = job, tries
        self.maker: Maker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["shard"])
        try:
            result = self.job.noted(number) or self._make(number)
        except Exception as error:
            name, text = told(error)
            return {"shard": number, "error": name, "outcome": text}
        return {"shard": number, "error": "", "outcome": json.dumps(to_plain(result))}

    def _make(self, number: int) -> ShardResult:
        """Make a shard, unless that has been the end of too many actors.

        Ray begins again for ever, and only the folder outlives an actor: a byte there is a try.
        """
        begun = self.job.folder / WORK / _BEGUN / f"{number:06d}"
        begun.parent.mkdir(parents=True, exist_ok=True)
        with open(begun, "ab") as tries:
            if tries.tell() >= self.tries:
                start, stop = self.job.span(number)
                raise ArraError(
                    f"actors died {self.tries} times over rows {start} to {stop - 1} (often for "
                    "too little memory). Use fewer workers or a smaller batch; workers=0 with the "
                    "engine 'processes' shows what happens. Finished shards are kept."
                )
            tries.write(b".")
        return self._maker().make(number, lambda rows: None)

    def _maker(self) -> Maker:
        # Not in __init__, where Ray would take an error for an accident and try for ever.
        if self.maker is None:
            import torch

            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            os.environ[QUIET] = "1"
            torch.set_num_threads(1)
            keep_freed_memory()
            with without_library_bars():
                self.maker = Maker.load(self.job)
        return self.maker
