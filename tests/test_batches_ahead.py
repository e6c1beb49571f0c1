"""Batches that are made ahead are the same, and nothing is left behind."""

from __future__ import annotations

import threading

import pytest

from arra.training.ahead import Ahead


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("arra-batches")]


def test_the_next_step_is_made_while_the_present_one_runs():
    made, ready = [], threading.Event()

    def make(step):
        made.append((step, threading.current_thread() is threading.main_thread()))
        if step == 4:
            ready.set()
        return [step]

    ahead = Ahead(make, range(3, 6))
    assert ahead.take(3) == [3]
    assert ready.wait(10)  # without being asked for
    assert [ahead.take(step) for step in (4, 5)] == [[4], [5]]
    ahead.close()
    assert made == [(3, True), (4, False), (5, False)]  # and nothing beyond the last step
    assert not workers()


def test_an_error_reaches_the_step_that_it_belongs_to():
    def make(step):
        if step == 1:
            raise ValueError("damaged shard")
        return []

    ahead = Ahead(make, range(3))
    assert ahead.take(0) == []
    with pytest.raises(ValueError, match="damaged shard"):
        ahead.take(1)
    ahead.close()
    assert not workers()


def test_closing_waits_for_what_is_being_made():
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def make(step):
        if step == 1:
            begun.set()
            go_on.wait(10)
            ended.append(step)
        return []

    ahead = Ahead(make, range(5))
    ahead.take(0)
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    ahead.close()
    assert ended == [1]
    assert not workers()
