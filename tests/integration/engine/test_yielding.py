"""An engine that steps aside for a training: nothing stays in memory, every answer has an end, and it comes back."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from transformers import LlamaForCausalLM

from app.contracts.generation import EngineError
from app.contracts.memory_lease import YieldOrder, YieldState, this_cpu
from tests.integration.engine.many_requests import Events, read
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.processes import HEADERS, EngineProcess
from tests.integration.engine.requests import a_request, an_order, last_of, tokens_of
from tests.support.waiting import wait_for
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.engine import Ended, Token
from worker.inference.models.bases import Placement
from worker.inference.server.memory_lease import MOST_HOLDS, RETRY_AFTER_SECONDS, MemoryLeases

ON_CPU = Placement("cpu", torch.float32)
MakeEngine = Callable[..., BatchingEngine]


@pytest.fixture
def make_batching() -> Iterator[MakeEngine]:
    made: list[BatchingEngine] = []

    def make(**limits: Any) -> BatchingEngine:
        made.append(BatchingEngine(ON_CPU, limits=BatchLimits(**limits)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert all(engine.join(30) for engine in made)


@pytest.fixture
def engine(make_batching: MakeEngine) -> BatchingEngine:
    return make_batching(answers=1)


def an_endless_request(served_model: ServedModel) -> Any:
    return a_request(served_model, base=served_model.endless_base, max_new_tokens=2000)


def a_hold(holder: str = "gpu0", *, job_id: str = "job-1", lease_seconds: float = 60) -> YieldOrder:
    return YieldOrder(holder=holder, job_id=job_id, lease_seconds=lease_seconds)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def refusal_of(events: Events) -> EngineError:
    assert isinstance(events[-1], EngineError), events
    return events[-1]


def models_in_memory() -> set[Any]:
    """Those with weights: what an adapter is held against has none."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) is LlamaForCausalLM]
    return {weakref.ref(model) for model in found if model.device.type != "meta"}


def test_nothing_of_a_model_stays_in_memory(engine: BatchingEngine, served_model: ServedModel) -> None:
    before = models_in_memory()
    tokens_of(engine, a_request(served_model, "small"))
    loaded = models_in_memory() - before

    async def step_aside() -> None:
        MemoryLeases(engine).hold(a_hold())
        await until(lambda: engine.is_away)

    asyncio.run(step_aside())

    assert len(loaded) == 1
    assert [model() for model in loaded] == [None]
    assert (engine.health().loaded_base, engine.health().loaded_adapters) == (None, [])


def test_it_comes_back_and_says_the_same(engine: BatchingEngine, served_model: ServedModel) -> None:
    before = [tokens_of(engine, a_request(served_model, name)) for name in ("base", "wide", "directed")]

    async def go_and_come() -> list[bool]:
        holds = MemoryLeases(engine)
        holds.hold(a_hold())
        await until(lambda: engine.is_away)
        return [holds.release("gpu0").is_away, holds.release("gpu0").is_away, holds.release("who").is_away]

    states = asyncio.run(go_and_come())

    assert states == [False] * 3
    assert engine.health().stepped_aside is None
    assert [tokens_of(engine, a_request(served_model, name)) for name in ("base", "wide", "directed")] == before


def test_whoever_waits_or_comes_is_sent_away_at_once_with_the_reason(
    engine: BatchingEngine, served_model: ServedModel
) -> None:
    async def run() -> tuple[EngineError, EngineError]:
        under_way = asyncio.ensure_future(read(engine, an_endless_request(served_model)))
        await until(lambda: engine.health().is_busy)
        waiting = asyncio.ensure_future(read(engine, an_endless_request(served_model)))
        await until(lambda: engine.health().waiting == 1)
        MemoryLeases(engine, grace_seconds=0.5).hold(a_hold())
        refusals = refusal_of(await waiting), refusal_of(await read(engine, a_request(served_model)))
        assert not under_way.done()
        await under_way
        return refusals

    sent_away, refused = asyncio.run(run())

    assert sent_away == refused
    assert (refused.status, refused.code) == (503, "engine_unavailable")
    assert "job-1 trains" in refused.message
    assert refused.retry_after_seconds == RETRY_AFTER_SECONDS
    assert engine.health().stepped_aside == refused.message


def test_answers_under_way_come_to_their_end_within_the_grace(
    engine: BatchingEngine, served_model: ServedModel
) -> None:
    async def run() -> Events:
        asking = asyncio.ensure_future(read(engine, a_request(served_model, max_new_tokens=30, ignore_eos=True)))
        await until(lambda: engine.health().is_busy)
        MemoryLeases(engine).hold(a_hold())
        return await asking

    events = asyncio.run(run())

    assert isinstance(events[-1], Ended)
    assert len(events) == 31


def test_answers_that_take_longer_end_with_the_reason(engine: BatchingEngine, served_model: ServedModel) -> None:
    async def run() -> Events:
        asking = asyncio.ensure_future(read(engine, an_endless_request(served_model)))
        await until(lambda: engine.health().is_busy)
        holds = MemoryLeases(engine, grace_seconds=0.2)
        assert not holds.hold(a_hold()).is_away
        await until(lambda: holds.hold(a_hold()).is_away)
        return await asking

    events = asyncio.run(run())

    assert "job-1 trains" in refusal_of(events).message
    assert all(isinstance(event, Token) for event in events[:-1])


@pytest.mark.parametrize("adapter", ["base", "wide", "directed"])
def test_a_model_or_an_adapter_that_is_being_read_is_let_go_of(
    make_batching: MakeEngine, served_model: ServedModel, adapter: str
) -> None:
    engine = make_batching()

    async def run() -> EngineError | None:
        asking = asyncio.ensure_future(read(engine, a_request(served_model, adapter)))
        await asyncio.sleep(0)
        MemoryLeases(engine, grace_seconds=0).hold(a_hold())
        last = (await asking)[-1]
        await until(lambda: engine.is_away)
        return last if isinstance(last, EngineError) else None

    error = asyncio.run(run())

    assert engine.health().loaded_base is None
    assert error is None or error.code == "engine_unavailable"


def test_a_hold_runs_out_when_nobody_renews_it(engine: BatchingEngine, served_model: ServedModel) -> None:
    async def run() -> float:
        holds = MemoryLeases(engine)
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            holds.hold(a_hold(lease_seconds=2))
            await asyncio.sleep(0.6)
        assert engine.health().stepped_aside is not None
        await until(lambda: engine.health().stepped_aside is None)
        return asyncio.get_running_loop().time() - began

    seconds = asyncio.run(run())

    assert 3.8 <= seconds < 10
    assert tokens_of(engine, a_request(served_model))


async def release(holds: MemoryLeases) -> YieldState:
    return holds.release("gpu0")


async def run_out(holds: MemoryLeases) -> YieldState:
    holds.hold(a_hold("gpu0", job_id="job-1", lease_seconds=0.1))
    await asyncio.sleep(0.2)
    return holds.hold(a_hold("gpu1", job_id="job-2"))


@pytest.mark.parametrize("leave", [release, run_out])
def test_it_comes_back_when_the_last_of_several_has_let_go(
    engine: BatchingEngine, leave: Callable[[MemoryLeases], Awaitable[YieldState]]
) -> None:
    async def run() -> list[YieldState]:
        holds = MemoryLeases(engine)
        holds.hold(a_hold("gpu0", job_id="job-1"))
        both = holds.hold(a_hold("gpu1", job_id="job-2"))
        one = await leave(holds)
        await until(lambda: engine.is_away)
        return [both, one, holds.release("gpu1")]

    both, one, none = asyncio.run(run())

    assert (both.held_for, one.held_for, none.held_for) == (["job-1", "job-2"], ["job-2"], [])
    assert not none.is_away
    assert engine.health().stepped_aside is None


def test_the_next_attempt_of_a_slot_goes_on_with_its_hold(engine: BatchingEngine, served_model: ServedModel) -> None:
    async def run() -> tuple[YieldState, str]:
        holds = MemoryLeases(engine)
        holds.hold(a_hold("gpu0", job_id="job-1"))
        state = holds.hold(a_hold("gpu0", job_id="job-2"))
        return state, refusal_of(await read(engine, a_request(served_model))).message

    state, message = asyncio.run(run())

    assert state.held_for == ["job-2"]
    assert "job-2 trains" in message


def test_an_engine_that_closes_while_it_is_away_ends(engine: BatchingEngine, served_model: ServedModel) -> None:
    async def run() -> None:
        MemoryLeases(engine).hold(a_hold())
        await until(lambda: engine.is_away)

    asyncio.run(run())
    engine.close()

    assert engine.join(30)
    assert isinstance(last_of(engine, a_request(served_model)), EngineError)


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    with EngineProcess() as started:
        yield started


def test_over_http_it_is_away_for_its_lease_and_no_longer(process: EngineProcess, served_model: ServedModel) -> None:
    with process.address.client(60) as http:
        order = an_order(served_model).model_dump(mode="json")
        answered = http.post("/generate", json=order).status_code
        for _ in range(3):
            http.post("/yield", json=a_hold(lease_seconds=2).model_dump())
        wait_for("it is away", lambda: process.health().loaded_base is None)
        refused = http.post("/generate", json=order)
        place = process.health().place
        wait_for("it comes back", lambda: http.post("/generate", json=order).status_code == 200)

    assert answered == 200
    assert (refused.status_code, refused.json()["retry_after_seconds"]) == (503, RETRY_AFTER_SECONDS)
    assert place == this_cpu()


@pytest.mark.parametrize(
    ("path", "order", "param"),
    [
        ("/yield", {"holder": "gpu0", "job_id": "job-1", "lease_seconds": 0}, "lease_seconds"),
        ("/yield", {"holder": "gpu0", "job_id": "job-1", "lease_seconds": 1e9}, "lease_seconds"),
        ("/yield", {"holder": "", "job_id": "job-1", "lease_seconds": 1}, "holder"),
        ("/yield", {"holder": "gpu0", "lease_seconds": 1}, "job_id"),
        ("/resume", {"holder": "gpu0", "more": 1}, "more"),
    ],
)
def test_an_order_that_is_none_is_refused(process: EngineProcess, path: str, order: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{process.url}{path}", json=order, headers=HEADERS, trust_env=False)

    assert (answer.status_code, answer.json()["param"]) == (422, param)
    assert process.health().stepped_aside is None


def test_only_who_holds_the_engine_can_let_go_of_it(process: EngineProcess) -> None:
    with process.address.client(60) as http:
        http.post("/yield", json=a_hold(holder="mine", lease_seconds=30).model_dump())
        by_another = http.post("/resume", json={"holder": "yours"})
        held = process.health().stepped_aside
        by_me = http.post("/resume", json={"holder": "mine"})
        once_more = http.post("/resume", json={"holder": "mine"})

    assert (by_another.status_code, by_another.json()["code"]) == (409, "not_the_holder")
    assert "mine" not in by_another.text
    assert held is not None
    assert (by_me.status_code, by_me.json()["held_for"]) == (200, [])
    assert once_more.status_code == 200


def test_holds_are_bounded(process: EngineProcess) -> None:
    with process.address.client(60) as http:
        answers = [
            http.post("/yield", json=a_hold(holder=f"holder-{n}", lease_seconds=2).model_dump()).status_code
            for n in range(MOST_HOLDS + 1)
        ]
        renewed = http.post("/yield", json=a_hold(holder="holder-0", lease_seconds=1).model_dump()).status_code
        wait_for("it comes back by itself", lambda: process.health().stepped_aside is None)

    assert answers == [200] * MOST_HOLDS + [429]
    assert renewed == 200
