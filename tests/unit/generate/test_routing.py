"""Which engine gets an order, and when another one is asked instead."""

import asyncio
from collections import Counter

import pytest

from app.contracts.generation import (
    AdapterRef,
    EngineError,
    EngineEvent,
    GenerateOrder,
    TextDelta,
)
from app.contracts.order import BaseRef
from app.generate import routing
from app.generate.client import BrokenOff
from app.generate.routing import AWAY_SECONDS, EngineRouter
from app.processes.engine_ranking import ranked
from tests.support.scripted_engine import FINISH, SCRIPT, ScriptedEngine

NAMES = ("a:8100", "b:8100", "c:8100")
STOPPED = EngineError(status=503, code="engine_unavailable", message="the engine is not running")
TRAINS = EngineError(status=503, code="engine_unavailable", message="job-1 trains", retry_after_seconds=30)
BUSY = EngineError(status=429, code="engine_busy", message="512 requests are waiting already")
NO_BASE = EngineError(status=503, code="model_unavailable", message="the hub cannot be reached")
REFUSED = EngineError(status=422, code="empty_prompt", message="the prompt has no tokens")
BROKEN = BrokenOff(status=503, code="engine_unavailable", message="the engine broke off")
CUT = EngineError(status=503, code="engine_stopping", message="the engine stopped before the answer was complete")


def order_to(base: str, adapter: AdapterRef | None = None) -> GenerateOrder:
    return GenerateOrder(request_id="r", base=BaseRef(source=base, is_local=False), adapter=adapter, prompt="1")


def adapter(name: str, *, is_full: bool = False) -> AdapterRef:
    return AdapterRef(adapter_id=name, version="v1", path="/x", kind="full" if is_full else "lora")


class Engines:
    """Engines that answer, but for those that are told to refuse; and the clock of their router."""

    def __init__(self) -> None:
        self.by_name = {name: ScriptedEngine(SCRIPT) for name in NAMES}
        self.now = 0.0
        self.router = EngineRouter(self.by_name, clock=lambda: self.now)

    def refuse(self, name: str, *script: EngineEvent) -> None:
        self.by_name[name]._script = script

    def asked(self, order: GenerateOrder) -> tuple[list[str], list[EngineEvent]]:
        """The engines that got the order, in any order, and the answer."""
        before = {name: len(engine.orders) for name, engine in self.by_name.items()}
        answer = asyncio.run(self._answer(order))
        return [name for name, engine in self.by_name.items() if len(engine.orders) > before[name]], answer

    async def _answer(self, order: GenerateOrder) -> list[EngineEvent]:
        return [event async for event in self.router.generate(order)]


def test_all_adapters_of_a_base_are_asked_of_one_engine() -> None:
    engines = Engines()

    asked = {engines.asked(order_to("org/model", adapter(f"adapter-{n}")))[0][0] for n in range(20)}
    asked |= {engines.asked(order_to("org/model"))[0][0]}

    assert len(asked) == 1


def test_models_that_are_loaded_as_a_whole_are_spread() -> None:
    engines = Engines()

    bases = Counter(engines.asked(order_to(f"org/model-{n}"))[0][0] for n in range(60))
    full = Counter(engines.asked(order_to("org/model", adapter(f"adapter-{n}", is_full=True)))[0][0] for n in range(60))

    assert min(bases[name] for name in NAMES) > 5
    assert min(full[name] for name in NAMES) > 5


def test_an_engine_that_leaves_moves_only_its_own_bases() -> None:
    keys = [f"org/model-{n}" for n in range(100)]

    before = {key: ranked(NAMES, key) for key in keys}
    after = {key: ranked(NAMES[:2], key) for key in keys}

    assert all(after[key] == [name for name in before[key] if name != NAMES[2]] for key in keys)


@pytest.mark.parametrize("refusal", [STOPPED, TRAINS, BUSY, NO_BASE, CUT])
def test_the_next_engine_answers_for_one_that_cannot_at_present(refusal: EngineError) -> None:
    engines, order = Engines(), order_to("org/model")
    first, second, _ = ranked(NAMES, "org/model")
    engines.refuse(first, refusal)

    asked, answer = engines.asked(order)

    assert set(asked) == {first, second}
    assert answer == list(SCRIPT)


@pytest.mark.parametrize("refusal", [REFUSED, BROKEN])
def test_an_order_that_is_refused_or_broke_an_engine_is_given_to_no_other(refusal: EngineError) -> None:
    engines = Engines()
    first = ranked(NAMES, "org/model")[0]
    engines.refuse(first, refusal)

    assert engines.asked(order_to("org/model")) == ([first], [refusal])


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    engines = Engines()
    first = ranked(NAMES, "org/model")[0]
    engines.refuse(first, TextDelta(text="14"), CUT)

    assert engines.asked(order_to("org/model")) == ([first], [TextDelta(text="14"), CUT])


def test_an_engine_that_is_away_is_left_out_for_a_while_and_then_asked_again() -> None:
    engines, order = Engines(), order_to("org/model")
    first, second, _ = ranked(NAMES, "org/model")
    engines.refuse(first, STOPPED)
    engines.asked(order)
    engines.refuse(first, *SCRIPT)

    meanwhile = engines.asked(order)[0]
    engines.now += AWAY_SECONDS + 1

    assert (meanwhile, engines.asked(order)[0]) == ([second], [first])


@pytest.mark.parametrize("refusal", [BUSY, NO_BASE])
def test_a_refusal_that_is_about_one_order_leaves_no_engine_out(refusal: EngineError) -> None:
    engines, order = Engines(), order_to("org/model")
    first = ranked(NAMES, "org/model")[0]
    engines.refuse(first, refusal)
    engines.asked(order)
    engines.refuse(first, FINISH)

    assert engines.asked(order)[0] == [first]


def test_where_no_engine_answers_the_refusal_says_when_to_come_back() -> None:
    engines = Engines()
    for name in NAMES:
        engines.refuse(name, STOPPED)
    engines.refuse(ranked(NAMES, "org/model")[1], TRAINS)

    answers = [engines.asked(order_to("org/model")) for _ in range(2)]

    assert [sorted(asked) for asked, _ in answers] == [sorted(NAMES)] * 2
    assert [answer for _, answer in answers] == [[TRAINS], [TRAINS]]


def test_what_is_more_than_a_batch_goes_to_the_next_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MOST_AT_ONCE", 2)
    gate = asyncio.Event()
    engines = {name: ScriptedEngine(SCRIPT, gate) for name in NAMES}
    router, order = EngineRouter(engines), order_to("org/model")

    async def three() -> list[list[EngineEvent]]:
        async def one() -> list[EngineEvent]:
            return [event async for event in router.generate(order)]

        answers = [asyncio.create_task(one()) for _ in range(3)]
        while sum(len(engine.orders) for engine in engines.values()) < 3:
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*answers)

    assert asyncio.run(three()) == [list(SCRIPT)] * 3
    assert [len(engines[name].orders) for name in ranked(NAMES, "org/model")] == [2, 1, 0]
