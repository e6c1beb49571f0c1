"""Work in threads: same results in the same order, errors in their turn, nothing left running."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from arra.ahead import ahead, spread
from arra.experiments.speed.counted import operations, peak_memory


def threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.parametrize("count", [1, 3, 10])
def test_items_come_in_order_and_are_made_in_one_other_thread(count):
    makers = []

    def items():
        for number in range(7):
            makers.append(threading.get_ident())
            yield number

    assert list(ahead(items(), count)) == list(range(7))
    assert len(set(makers)) == 1
    assert makers[0] != threading.get_ident()
    assert threads() == 0


def test_no_more_is_made_than_was_asked_for_and_closing_ends_it():
    made, closed = [], []

    def items():
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    inner = ahead(items(), 2)
    outer = ahead((2 * item for item in inner), 1)
    assert next(outer) == 0
    outer.close()
    inner.close()
    assert len(made) <= 1 + 2 + 2 + 2  # given out, on their way between the two, and waiting
    assert closed == [True]
    assert threads() == 0


def test_an_error_is_raised_in_its_turn():
    def items():
        yield 1
        raise OSError("the disk")

    found = ahead(items(), 4)
    assert next(found) == 1
    with pytest.raises(OSError, match="the disk"):
        next(found)
    assert threads() == 0


def test_a_function_is_spread_over_threads_in_order():
    meeting = threading.Barrier(2, timeout=20)  # passed only by two threads at a time

    def double(number: int) -> int:
        meeting.wait()
        return 2 * number

    with ThreadPoolExecutor(2) as pool:
        assert list(spread(pool, double, range(8), 3)) == [2 * n for n in range(8)]
        with pytest.raises(ZeroDivisionError):
            list(spread(pool, lambda n: 1 // n, [1, 0, 1], 2))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults as Linux counts them")
def test_freed_memory_is_kept():
    """Large blocks that come and go cost no page faults any more; in a process of their own."""
    script = """
import resource
import numpy as np
from arra.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(48 << 20, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, told = faults(), keep_freed_memory()
faults()
print(before, faults(), told)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    before, after, told = done.stdout.split()
    if told == "True":  # another C library need not know it
        assert int(after) < int(before) / 5


def test_what_a_call_costs_is_counted():
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert operations(lambda: left @ right) == 2 * 3 * 5 * 7
    if sys.platform.startswith("linux"):
        assert 4 < peak_memory(threading.stack_size) < 2000
