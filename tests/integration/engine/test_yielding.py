"""An engine that gives its memory to a training: it keeps no model, ends every answer, and comes back."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from transformers import LlamaForCausalLM

from app.contracts.generation import EngineError
from app.contracts.memory_lease import YieldOrder, YieldState, this_cpu
from tests.integration.engine.conftest import MakeBatching
from tests.integration.engine.many_requests import Events, read, until
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.processes import HEADERS, EngineProcess
from tests.integration.engine.requests import a_request, an_order, last_of, tokens_of
from tests.support.waiting import wait_for
from worker.inference.batching.engine import BatchingEngine
from worker.inference.engine import Ended, Refusal, Token, TokenRequest
from worker.inference.server.memory_lease import GRACE_SECONDS, MOST_HOLDS, RETRY_AFTER_SECONDS, MemoryLeases


@pytest.fixture
def engine(make_batching: MakeBatching) -> BatchingEngine:
    return make_batching(answers=1)


def an_endless_request(served_model: ServedModel) -> TokenRequest:
    return a_request(served_model, base=served_model.endless_base, max_new_tokens=2000)


def a_hold(holder: str = "gpu0", *, job_id: str = "job-1", lease_seconds: float = 60) -> YieldOrder:
    return YieldOrder(holder=holder, job_id=job_id, lease_seconds=lease_seconds)


async def step_aside(engine: BatchingEngine) -> MemoryLeases:
    """The leases, once the engine has freed its memory for one of them."""
    leases = MemoryLeases(engine)
    leases.hold(a_hold())
    await until(lambda: engine.is_away)
    return leases


def refusal_of(events: Events) -> EngineError:
    assert isinstance(events[-1], EngineError), events
    return events[-1]


def models_in_memory() -> set[Any]:
    """Those with weights: the model with which an adapter is validated has none."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) is LlamaForCausalLM]
    return {weakref.ref(model) for model in found if model.device.type != "meta"}


def test_nothing_of_a_model_stays_in_memory(engine: BatchingEngine, served_model: ServedModel) -> None:
    before = models_in_memory()
    tokens_of(engine, a_request(served_model, "small"))
    loaded = models_in_memory() - before

    asyncio.run(step_aside(engine))

    assert len(loaded) == 1
    assert [model() for model in loaded] == [None]
    assert (engine.health().loaded_base, engine.health().loaded_adapters) == (None, [])


def test_it_comes_back_and_answers_as_before(engine: BatchingEngine, served_model: ServedModel) -> None:
    requests = [a_request(served_model, name) for name in ("base", "wide", "directed")]
    before = [tokens_of(engine, request) for request in requests]

    async def go_and_come() -> list[bool]:
        leases = await step_aside(engine)
        return [leases.release(holder).is_away for holder in ("gpu0", "gpu0", "another")]

    assert asyncio.run(go_and_come()) == [False] * 3
    assert engine.health().stepped_aside is None
    assert [tokens_of(engine, request) for request in requests] == before


def test_requests_that_wait_or_come_are_refused_at_once_with_the_reason(
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

    waiting, refused = asyncio.run(run())

    assert waiting == refused
    assert (refused.status, refused.code) == (503, "engine_unavailable")
    assert "job-1 trains" in refused.message
    assert refused.retry_after_seconds == RETRY_AFTER_SECONDS
    assert engine.health().stepped_aside == refused.message


async def answer_beside_a_hold(engine: BatchingEngine, request: TokenRequest, grace_seconds: float) -> Events:
    """The events of an answer during which a training takes the memory."""
    asking = asyncio.ensure_future(read(engine, request))
    await until(lambda: engine.health().is_busy)
    leases = MemoryLeases(engine, grace_seconds=grace_seconds)
    assert not leases.hold(a_hold()).is_away
    await until(lambda: leases.hold(a_hold()).is_away)
    return await asking


def test_answers_under_way_come_to_their_end_within_the_grace(
    engine: BatchingEngine, served_model: ServedModel
) -> None:
    request = a_request(served_model, max_new_tokens=30, ignore_eos=True)

    events = asyncio.run(answer_beside_a_hold(engine, request, GRACE_SECONDS))

    assert events[-1] == Ended("length", 30)
    assert len(events) == 31


def test_answers_that_take_longer_end_with_the_reason(engine: BatchingEngine, served_model: ServedModel) -> None:
    events = asyncio.run(answer_beside_a_hold(engine, an_endless_request(served_model), 0.2))

    assert "job-1 trains" in refusal_of(events).message
    assert all(isinstance(event, Token) for event in events[:-1])


@pytest.mark.parametrize("adapter", ["base", "wide", "directed"])
def test_a_model_or_an_adapter_that_is_being_read_is_unloaded(
    make_batching: MakeBatching, served_model: ServedModel, adapter: str
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


def test_a_hold_ends_when_nobody_renews_it(engine: BatchingEngine, served_model: ServedModel) -> None:
    async def run() -> float:
        leases = MemoryLeases(engine)
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            leases.hold(a_hold(lease_seconds=1.5))
            await asyncio.sleep(0.5)
        assert engine.health().stepped_aside is not None
        await until(lambda: engine.health().stepped_aside is None)
        return asyncio.get_running_loop().time() - began

    assert 2.9 <= asyncio.run(run()) < 10
    assert tokens_of(engine, a_request(served_model))


async def release(leases: MemoryLeases) -> YieldState:
    return leases.release("gpu0")


async def run_out(leases: MemoryLeases) -> YieldState:
    leases.hold(a_hold("gpu0", job_id="job-1", lease_seconds=0.1))
    await asyncio.sleep(0.2)
    return leases.hold(a_hold("gpu1", job_id="job-2"))


@pytest.mark.parametrize("leave", [release, run_out])
def test_it_comes_back_when_the_last_of_several_holds_has_ended(
    engine: BatchingEngine, leave: Callable[[MemoryLeases], Awaitable[YieldState]]
) -> None:
    async def run() -> list[YieldState]:
        leases = MemoryLeases(engine)
        leases.hold(a_hold("gpu0", job_id="job-1"))
        both = leases.hold(a_hold("gpu1", job_id="job-2"))
        one = await leave(leases)
        await until(lambda: engine.is_away)
        return [both, one, leases.release("gpu1")]

    both, one, none = asyncio.run(run())

    assert (both.held_for, one.held_for, none.held_for) == (["job-1", "job-2"], ["job-2"], [])
    assert not none.is_away
    assert engine.health().stepped_aside is None


def test_the_next_attempt_of_a_slot_goes_on_with_its_hold(engine: BatchingEngine, served_model: ServedModel) -> None:
    async def run() -> tuple[YieldState, str]:
        leases = MemoryLeases(engine)
        leases.hold(a_hold("gpu0", job_id="job-1"))
        state = leases.hold(a_hold("gpu0", job_id="job-2"))
        return state, refusal_of(await read(engine, a_request(served_model))).message

    state, message = asyncio.run(run())

    assert state.held_for == ["job-2"]
    assert "job-2 trains" in message


def test_an_engine_that_closes_while_it_is_away_ends(engine: BatchingEngine, served_model: ServedModel) -> None:
    asyncio.run(step_aside(engine))
    engine.close()

    assert engine.join(30)
    assert isinstance(last_of(engine, a_request(served_model)), EngineError)


def test_over_http_it_is_away_for_its_lease_and_no_longer(
    engine_process: EngineProcess, served_model: ServedModel
) -> None:
    with engine_process.address.client(60) as http:
        order = an_order(served_model).model_dump(mode="json")
        answered = http.post("/generate", json=order).status_code
        for _ in range(3):
            http.post("/yield", json=a_hold(lease_seconds=2).model_dump())
        wait_for("it is away", lambda: engine_process.health().loaded_base is None)
        refused = http.post("/generate", json=order)
        wait_for("it comes back", lambda: http.post("/generate", json=order).status_code == 200)

    assert answered == 200
    assert (refused.status_code, refused.json()["retry_after_seconds"]) == (503, RETRY_AFTER_SECONDS)
    assert engine_process.health().place == this_cpu()


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
def test_an_invalid_order_is_refused(
    engine_process: EngineProcess, path: str, order: dict[str, Any], param: str
) -> None:
    answer = httpx.post(f"{engine_process.url}{path}", json=order, headers=HEADERS, trust_env=False)

    assert (answer.status_code, answer.json()["param"]) == (422, param)
    assert engine_process.health().stepped_aside is None


def test_only_a_holder_can_release_the_engine(engine_process: EngineProcess) -> None:
    with engine_process.address.client(60) as http:
        http.post("/yield", json=a_hold(holder="mine", lease_seconds=30).model_dump())
        by_another = http.post("/resume", json={"holder": "yours"})
        held = engine_process.health().stepped_aside
        by_me = http.post("/resume", json={"holder": "mine"})
        once_more = http.post("/resume", json={"holder": "mine"})

    assert (by_another.status_code, by_another.json()["code"]) == (409, "not_the_holder")
    assert "mine" not in by_another.text
    assert held is not None
    assert (by_me.status_code, by_me.json()["held_for"]) == (200, [])
    assert once_more.status_code == 200


def test_the_number_of_holds_is_limited(engine: BatchingEngine) -> None:
    async def run() -> tuple[Refusal, list[str]]:
        leases = MemoryLeases(engine)
        for number in range(MOST_HOLDS):
            leases.hold(a_hold(f"holder-{number}"))
        with pytest.raises(Refusal) as refused:
            leases.hold(a_hold("one more"))
        renewed = leases.hold(a_hold("holder-0", job_id="job-2"))
        return refused.value, renewed.held_for

    refused, held_for = asyncio.run(run())

    assert refused.error.status == 429
    assert held_for == ["job-1", "job-2"]
