"""Several processes make shards: each takes the next one that nobody has, until none is left.

A worker that dies (killed for its memory, say) is reported, its shard goes back to the others and
another worker takes its place. A worker whose parent is gone ends at its next message.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pickle import PicklingError
from typing import Any

from arra import errors
from arra.allocation import keep_freed_memory
from arra.data.make import Job, Maker, ShardResult
from arra.errors import ArraError, InputError
from arra.progress import QUIET, without_library_bars

logger = logging.getLogger(__name__)
# Forking a process that holds threads (of torch, of the tokenizer) can lock up.
_START = "spawn"
_TRIES = 3  # deaths over one shard before it is the shard's fault


def _work(connection: Connection, job: Job) -> None:
    """What a worker process does."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ[QUIET] = "1"  # the parent shows the progress of all
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        with without_library_bars():
            maker = Maker.load(job)
        connection.send(("ready", None))
        while (number := connection.recv()) is not None:
            result = maker.make(number, lambda rows: connection.send(("rows", rows)))
            connection.send(("done", (number, result)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except Exception as error:
        with suppress(OSError):  # the parent may be gone too
            connection.send(("error", told(error)))


def told(error: Exception) -> tuple[str, str]:
    """The error of a worker as the name of a class of `arra.errors`, and a message."""
    name = type(error).__name__
    if isinstance(error, ArraError) and hasattr(errors, name):
        return name, str(error)
    return "ArraError", f"a worker failed\n{''.join(traceback.format_exception(error))}"


class _Worker:
    def __init__(self, job: Job):
        context: Any = multiprocessing.get_context(_START)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, job), daemon=True)
        try:
            self.process.start()
        except (PicklingError, TypeError, AttributeError) as error:
            raise InputError(
                f"the source or a part cannot be sent to worker processes ({error}): use workers=0"
            ) from error
        finally:
            # Only with the other end closed here does the death of the worker end the pipe.
            theirs.close()
        self.shard: int | None = None
        self.rows = 0
        self.ready = False

    def take(self, queue: deque[int]) -> None:
        """The next shard, or the end when there is none."""
        self.shard, self.rows = (queue.popleft() if queue else None), 0
        # If it died just now, the next `receive` says so.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(self.shard)

    def receive(self) -> tuple[str, Any]:
        """The next message; ("died", None) when there will be none."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return "died", None

    def end(self) -> None:
        """Stop it, whatever it is doing."""
        self.connection.close()
        self.process.terminate()
        self.process.join()


def make_shards(
    job: Job,
    shards: Iterable[int],
    workers: int,
    advance: Callable[[int], None],
    finished: Callable[[int, ShardResult], None],
) -> None:
    """Make `shards` with `workers` processes; `finished` is called here for each of them.

    Raises the `ArraError` of a worker, or one that says that workers keep dying.
    """
    queue = deque(shards)
    deaths: Counter[int] = Counter()
    crew: list[_Worker] = []
    try:
        for _ in range(min(workers, len(queue))):
            crew.append(_Worker(job))
        while queue or any(worker.shard is not None for worker in crew):
            ready = wait([worker.connection for worker in crew])
            for worker in [worker for worker in crew if worker.connection in ready]:
                kind, content = worker.receive()
                if kind == "rows":
                    worker.rows += content
                    advance(content)
                elif kind == "done":
                    finished(*content)
                    worker.take(queue)
                elif kind == "ready":
                    worker.ready = True
                    worker.take(queue)
                elif kind == "error":
                    raise getattr(errors, content[0])(content[1])
                else:
                    crew.remove(worker)
                    if _bury(worker, job, queue, deaths, advance):
                        crew.append(_Worker(job))
    finally:
        for worker in crew:
            worker.end()


def _bury(
    worker: _Worker,
    job: Job,
    queue: deque[int],
    deaths: Counter[int],
    advance: Callable[[int], None],
) -> bool:
    """Report a dead worker and give its shard back; whether another should be started."""
    worker.end()
    how = f"exit code {worker.process.exitcode}"
    if not worker.ready:
        raise ArraError(
            f"a worker process ended before it could start ({how}). In a script, call prepare "
            "under `if __name__ == '__main__':`; or use workers=0."
        )
    if worker.shard is None:
        return False
    start, stop = job.span(worker.shard)
    deaths[worker.shard] += 1
    if deaths[worker.shard] == _TRIES:
        raise ArraError(
            f"workers died {_TRIES} times over rows {start} to {stop - 1} ({how}; -9 is often too "
            "little memory). Use fewer workers or a smaller batch; workers=0 shows what happens."
        )
    logger.warning("a worker died (%s): rows %d to %d are made again", how, start, stop - 1)
    advance(-worker.rows)
    queue.appendleft(worker.shard)
    return True
