"""The engine that fuses requests: what comes out is what each request gets alone."""

from __future__ import annotations

import itertools
import random
import threading
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from arra.errors import InputError
from arra.generators.fast import FastStepper, NativeStepper
from arra.networks.decoding import native
from arra.networks.decoding.eager import EagerDecoder
from arra.networks.decoding.llama import llama_of
from arra.networks.decoding.native import NativeDecoder
from arra.samplers.ancestral import AncestralSampler
from arra.serving.engine import FusedEngine
from arra.serving.requests import Drawing, FairQueue, Full, Request
from arra.serving.slots import SlotTable
from arra.settings import GuidanceSchedule, SamplingConfig
from lm_kit import CAPTIONS, PADDED, SHAPE
from test_decoding import generator_of

SAMPLINGS = (
    SamplingConfig(2.5),
    SamplingConfig(1.0, top_k=5, temperature=0.7),
    SamplingConfig(3.0, "linear", top_p=0.8, temperature=1.3),
    SamplingConfig(1.0, temperature=0.0),
)


@pytest.fixture(scope="module")
def steppers():
    generator = generator_of(LlamaConfig(**{**SHAPE, "vocab_size": PADDED}))
    vocabulary = generator.config.vocabulary
    llama = llama_of(generator.lm, vocabulary.offset, vocabulary.codes)
    return {
        "native": NativeStepper(generator, NativeDecoder(llama, "fp32", 64)),
        "eager": FastStepper(generator, EagerDecoder(llama, "fp32", 64)),
    }


def requests(count: int, seed: int = 0) -> list[Request]:
    choose = random.Random(seed)
    return [
        Request(choose.choice([*CAPTIONS, None]), choose.randrange(1 << 40), s, f"client {i % 3}")
        for i, s in enumerate(choose.choices(SAMPLINGS, k=count))
    ]


def drawing(stepper: FastStepper, request: Request) -> Drawing:
    return Drawing(request, stepper.prompt_ids(request.caption), stepper.units)


def engine_of(stepper: FastStepper, **options) -> FusedEngine:
    return FusedEngine(stepper, stepper.prompt_ids(None), **{"prompt": 24, **options})


def served(stepper, wanted, engine, gaps) -> list[Drawing]:
    """The requests drawn by an engine, `gaps[i]` units between the arrivals of i and i + 1."""
    drawings, left = [drawing(stepper, request) for request in wanted], list(gaps)
    waiting = list(drawings)
    with torch.inference_mode():
        while waiting or engine.live or len(engine.queue):
            while waiting and (not left or left[0] <= 0):
                engine.submit([waiting.pop(0)])
                if left:
                    left.pop(0)
            engine.advance()
            if left:
                left[0] -= 1
    return drawings


@pytest.fixture(scope="module")
def alone(steppers):
    """Codes of request after request, each drawn by the sampler without company."""

    def codes(name: str, wanted: list[Request]) -> list[list[int]]:
        drawn = [
            AncestralSampler(r.sampling)(steppers[name], [r.caption], [r.seed]) for r in wanted
        ]
        return torch.cat(drawn).tolist()

    return codes


@pytest.fixture
def threaded():
    """Sets the number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


WAYS = [("native", "scattered"), ("native", "compacted"), ("native", "gaps")]
WAYS += [("eager", "compacted"), ("eager", "gaps")]


@pytest.mark.parametrize(("name", "placement"), WAYS)
@pytest.mark.parametrize(("slots", "joins"), [(2, 0), (7, 1), (9, 0), (40, 0)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_request_gets_the_codes_it_gets_alone(
    steppers, alone, threaded, name, placement, slots, joins, threads
):
    threaded(threads)
    wanted = requests(12, seed=slots)
    gaps = random.Random(slots).choices(range(4), k=11)
    engine = engine_of(steppers[name], slots=slots, joins=joins, placement=placement)
    drawings = served(steppers[name], wanted, engine, gaps)
    assert [d.codes.tolist() for d in drawings] == alone(name, wanted)
    assert {d.state for d in drawings} == {"drawn"}
    assert engine.table.free == slots


@pytest.mark.parametrize(("name", "placement"), WAYS)
def test_the_rows_that_are_computed_are_those_of_requests(steppers, name, placement):
    wanted = requests(12)
    engine = engine_of(steppers[name], slots=9, placement=placement)
    drawings = served(steppers[name], wanted, engine, [1] * 11)
    # the first unit comes with the prompt
    needed = sum((d.units - 1) * (2 if d.request.sampling.guided else 1) for d in drawings)
    assert engine.work.rows - engine.work.wasted == needed
    assert engine.work.units == sum(d.units for d in drawings)
    assert (engine.work.wasted > 0) == (placement == "gaps")
    assert (engine.work.moves > 0) == (placement == "compacted")


def test_prompts_that_are_long_together_are_read_in_parts(steppers, alone, monkeypatch):
    monkeypatch.setattr(native, "_CHUNK", 7)
    wanted = requests(12, seed=4)
    engine = engine_of(steppers["native"], slots=30)
    drawings = served(steppers["native"], wanted, engine, [0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0])
    assert [d.codes.tolist() for d in drawings] == alone("native", wanted)


def test_all_at_once_is_one_static_batch(steppers):
    wanted = [Request(CAPTIONS[0], seed, SAMPLINGS[0]) for seed in range(4)]
    engine = engine_of(steppers["native"], slots=8)
    served(steppers["native"], wanted, engine, [0] * 3)
    assert engine.work.steps == steppers["native"].units - 1
    assert engine.work.rows == 8 * engine.work.steps


def test_one_place_serves_one_after_the_other(steppers):
    wanted = [Request(CAPTIONS[0], seed, SAMPLINGS[0]) for seed in range(3)]
    engine = engine_of(steppers["native"], slots=2)
    drawings = served(steppers["native"], wanted, engine, [])
    assert engine.work.steps == 3 * (steppers["native"].units - 1)
    assert [d.began for d in drawings] == sorted(d.began for d in drawings)


def test_who_is_not_wanted_leaves_before_the_next_unit(steppers, alone):
    wanted = requests(6, seed=3)
    stepper = steppers["native"]
    engine = engine_of(stepper, slots=6)
    drawings = [drawing(stepper, request) for request in wanted]
    states: list[str] = []
    drawings[0].listen(lambda one: states.append(one.state))
    with torch.inference_mode():
        engine.submit(drawings)
        engine.advance()
        drawings[0].unwanted = drawings[5].unwanted = True
        while engine.advance():
            pass
    assert drawings[0].state == drawings[5].state == "cancelled"
    assert drawings[0].unit == 1
    assert states[-1] == "cancelled"
    assert [d.codes.tolist() for d in drawings[1:5]] == alone("native", wanted[1:5])
    assert engine.table.free == 6


def test_how_pictures_are_drawn_is_said_anew_only_where_it_changes(steppers, alone, monkeypatch):
    told, say = [], NativeStepper.choices
    monkeypatch.setattr(NativeStepper, "choices", lambda s, c: told.append(len(c)) or say(s, c))
    units = steppers["native"].units
    for number, times in ((0, 2), (2, units)):  # at the prompt and after it, or at every unit
        wanted = [Request(CAPTIONS[0], 4, SAMPLINGS[number])]
        told.clear()
        (drawn,) = served(steppers["native"], wanted, engine_of(steppers["native"]), [])
        assert told == [1] * times
        assert [drawn.codes.tolist()] == alone("native", wanted)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("schedule", get_args(GuidanceSchedule))
def test_what_is_steady_has_one_scale(schedule, share):
    config = SamplingConfig(3.0, schedule, guidance_from=share)
    scales = {config.scale(unit, 9) for unit in range(9)}
    assert config.steady == (len(scales) == 1)


def test_an_error_is_that_of_those_it_struck(steppers, monkeypatch):
    stepper = steppers["native"]
    engine = engine_of(stepper, slots=4)
    first, second = (drawing(stepper, Request(None, seed, SAMPLINGS[0])) for seed in (1, 2))
    with torch.inference_mode():
        engine.submit([first])
        engine.advance()
        with monkeypatch.context() as patched:
            patched.setattr(engine, "_pass", lambda *_: 1 / 0)
            engine.advance()
        assert first.state == "failed"
        assert isinstance(first.error, ZeroDivisionError)
        engine.submit([second])
        while engine.advance():
            pass
    assert second.state == "drawn"


def test_what_ends_by_itself_leaves_at_once(steppers):
    stepper = steppers["native"]
    request = Request(CAPTIONS[1], 5, SAMPLINGS[1])
    whole = AncestralSampler(request.sampling)(stepper, [request.caption], [request.seed])[0]
    at = next(i for i in range(1, len(whole)) if whole[i] not in whole[:i])
    stepper.end = int(whole[at])
    try:
        engine = engine_of(stepper, slots=4)
        (drawn,) = served(stepper, [request], engine, [])
        sampled = AncestralSampler(request.sampling)(stepper, [request.caption], [request.seed])[0]
    finally:
        stepper.end = None
    assert torch.equal(drawn.codes, sampled)
    assert engine.work.units == at + 1
    assert (drawn.codes[at:] == int(whole[at])).all()


def test_what_does_not_fit_is_refused(steppers):
    engine = engine_of(steppers["native"], slots=4, queue=2)
    long = Drawing(Request(None), [1] * 25, 9)
    with pytest.raises(InputError, match="25 tokens"):
        engine.submit([long])
    waiting = [drawing(steppers["native"], request) for request in requests(3)]
    with pytest.raises(Full, match="2 may"):
        engine.submit(waiting)
    assert len(engine.queue) == 0
    with pytest.raises(InputError, match="slots 0"):
        engine_of(steppers["native"], slots=0)
    with pytest.raises(InputError, match="two slots"):
        engine_of(steppers["native"], slots=1).submit(
            [drawing(steppers["native"], Request(None, 1, SAMPLINGS[0]))]
        )
    with pytest.raises(InputError, match="side by side"):
        engine_of(steppers["eager"], placement="scattered")


# ---- the queue -----------------------------------------------------------------------------------


def test_clients_take_turns():
    queue = FairQueue(10)
    names = ["a", "a", "a", "a", "b", "b", "c"]
    drawings = [Drawing(Request(None, n, client=c), [], 1) for n, c in enumerate(names)]
    queue.push(drawings)
    drawings[1].unwanted = True
    assert queue.withdraw() == [drawings[1]]
    order = [queue.pop().request for _ in range(len(queue))]
    assert [(r.client, r.seed) for r in order] == [
        *(("a", 0), ("b", 4), ("c", 6), ("a", 2), ("b", 5), ("a", 3))
    ]
    assert queue.peek() is None


def test_many_threads_push_and_nothing_is_lost():
    queue = FairQueue(1000)

    def push(client: str) -> None:
        for seed in range(100):
            queue.push([Drawing(Request(None, seed, client=client), [], 1)])

    threads = [threading.Thread(target=push, args=(f"c{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    found = []
    while any(thread.is_alive() for thread in threads) or len(queue):
        if queue.peek() is not None:
            found.append(queue.pop().request)
    assert len(found) == 400
    for client in ("c0", "c3"):
        assert [r.seed for r in found if r.client == client] == list(range(100))


# ---- the table of slots --------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_gaps_close_by_the_fewest_moves(taken):
    table, content = SlotTable(len(taken)), {}
    for _ in taken:
        table.join()
    for slot, kept in enumerate(taken):
        if not kept:
            table.leave(slot)
        else:
            content[slot] = f"what was at {slot}"
    count = sum(taken)
    best = max((sum(taken[s : s + count]) for s in range(len(taken) - count + 1)), default=0)
    before = set(table.taken)
    moves = table.compact()
    assert len(moves) == count - best
    assert len(set(moves.values())) == len(moves)
    assert set(moves) <= before
    assert not set(moves.values()) & before
    assert table.gaps == []
    after = {moves.get(slot, slot): text for slot, text in content.items()}
    assert sorted(after) == table.taken == list(table.range)
    assert set(after.values()) == set(content.values())


@given(st.lists(st.integers(0, 7), max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_range_holds_what_is_taken(actions):
    table, here = SlotTable(6), set()
    for action in actions:
        if action == 7:
            moves = table.compact()
            here = {moves.get(slot, slot) for slot in here}
        elif action in here:
            table.leave(action)
            here.remove(action)
        elif table.free:
            here.add(table.join())
        assert table.taken == sorted(here)
        assert table.free == 6 - len(here)
        expected = range(min(here), max(here) + 1) if here else range(0)
        assert table.range == expected
        assert sorted([*table.gaps, *here]) == list(expected)


def test_a_full_or_empty_place_is_refused():
    table = SlotTable(2)
    with pytest.raises(InputError, match="not taken"):
        table.leave(0)
    assert [table.join(), table.join()] == [0, 1]
    with pytest.raises(InputError, match="all 2"):
        table.join()


def test_every_history_of_four_slots_keeps_its_content():
    """All orders in which three drawings join and leave, with closing of gaps in between."""
    for order in itertools.permutations(range(3)):
        table = SlotTable(4)
        place = {who: table.join() for who in range(3)}
        for who in order:
            table.leave(place.pop(who))
            moves = table.compact()
            place = {other: moves.get(slot, slot) for other, slot in place.items()}
            assert sorted(place.values()) == table.taken == list(table.range)
