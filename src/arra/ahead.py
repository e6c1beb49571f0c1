"""Work that goes on in threads while its earlier results are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_END: Any = object()


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """The `items` in order, up to `count` of them made in a thread before they are asked for.

    What making one raises is raised when it is its turn. Closing the iterator, as an error or
    Ctrl-C in its user does, waits for the item that is being made; no further ones are begun.
    """
    iterator = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(pool.submit(next, iterator, _END) for _ in range(count))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, iterator, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(iterator, Generator):  # it may have threads of its own
            iterator.close()


def spread(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], count: int
) -> Iterator[R]:
    """`function` of every item, in order, by the threads of `pool`, `count` of them at a time."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
