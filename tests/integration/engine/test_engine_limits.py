"""What an engine refuses, whom it sends away, and that it survives both."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from app.contracts.generation import EngineError
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, last_of, refusal_of, tokens_of
from tests.support.serial_engine import SerialEngine
from tests.support.tiny_model import CONTEXT_TOKENS
from worker.inference.engine import Ended, ModelFolder, Token, TokenEvent
from worker.inference.models.bases import is_out_of_memory

SMALLEST = 5e-324
HOSTILE: list[dict[str, Any]] = [
    {"temperature": SMALLEST},
    {"temperature": 1e-30},
    {"temperature": 10.0},
    {"temperature": 1.0, "top_k": 1_000_000},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_p": SMALLEST},
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.0, "repetition_penalty": SMALLEST},
    {"temperature": 0, "repetition_penalty": 1e-300},
    {"temperature": SMALLEST, "repetition_penalty": 10.0, "top_k": 1, "top_p": SMALLEST, "min_p": 1.0},
    {"temperature": 1.0, "seed": 2**63 - 1},
    {"max_new_tokens": 1},
]


def test_a_failure_that_nobody_foresaw_is_an_event_and_the_engine_goes_on(
    engine: SerialEngine, served_model: ServedModel
) -> None:
    nonsense: Any = ("no", "token")

    assert refusal_of(engine, a_request(served_model, prompt=nonsense)).code == "engine_failed"
    assert tokens_of(engine, a_request(served_model)) == reference(served_model.base, None, PROMPT, 12)


@pytest.mark.parametrize("fields", HOSTILE, ids=str)
def test_extreme_sampling_is_answered(engine: SerialEngine, served_model: ServedModel, fields: dict[str, Any]) -> None:
    event = last_of(engine, a_request(served_model, **{"max_new_tokens": 4, **fields}))

    assert isinstance(event, Ended)


@pytest.mark.parametrize(
    ("prompt", "code"), [((), "empty_prompt"), ((1, 99_999), "tokenizer_mismatch"), ((1, -1), "tokenizer_mismatch")]
)
def test_an_impossible_prompt_is_refused(
    engine: SerialEngine, served_model: ServedModel, prompt: tuple[int, ...], code: str
) -> None:
    assert refusal_of(engine, a_request(served_model, prompt=prompt)).code == code
    assert tokens_of(engine, a_request(served_model)) == reference(served_model.base, None, PROMPT, 12)


def test_what_does_not_fit_the_context_is_refused_with_what_would(
    engine: SerialEngine, served_model: ServedModel
) -> None:
    error = refusal_of(engine, a_request(served_model, prompt=(5,) * (CONTEXT_TOKENS - 2), max_new_tokens=3))

    assert (error.status, error.code, error.param) == (422, "context_length_exceeded", "max_new_tokens")
    assert "max_new_tokens can be at most 2." in error.message


def test_a_prompt_longer_than_the_context_is_refused_with_openais_sentence(
    engine: SerialEngine, served_model: ServedModel
) -> None:
    error = refusal_of(engine, a_request(served_model, prompt=(5,) * (CONTEXT_TOKENS + 1)))

    assert (error.status, error.code, error.param) == (422, "context_length_exceeded", "prompt")
    assert error.message == (
        f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your messages resulted in "
        f"{CONTEXT_TOKENS + 1} tokens. Please reduce the length of the messages."
    )


def test_the_context_can_be_filled_to_its_last_token(engine: SerialEngine, served_model: ServedModel) -> None:
    assert last_of(engine, a_request(served_model, prompt=(5,) * (CONTEXT_TOKENS - 2), max_new_tokens=2)) == Ended(
        "length", 2
    )


def test_a_base_without_weights_is_unavailable(engine: SerialEngine, served_model: ServedModel) -> None:
    nowhere = ModelFolder("nowhere", served_model.base.folder / "nowhere")

    error = refusal_of(engine, a_request(served_model, base=nowhere))

    assert (error.status, error.code) == (404, "model_unavailable")
    assert tokens_of(engine, a_request(served_model)) == reference(served_model.base, None, PROMPT, 12)


@pytest.fixture
def small_room(make_engine: Callable[..., SerialEngine], served_model: ServedModel) -> Iterator[SerialEngine]:
    """An engine with one place to wait."""
    engine = make_engine(places=1)
    yield engine
    engine.close()


Events = Any


async def busy(engine: SerialEngine, served_model: ServedModel) -> Events:
    """Begin an answer that goes on until it is closed."""
    events = engine.generate(a_request(served_model, base=served_model.endless_base, max_new_tokens=2000))
    assert isinstance(await anext(events), Token)
    return events


def test_who_finds_the_waiting_room_full_is_sent_away(small_room: SerialEngine, served_model: ServedModel) -> None:
    async def crowd() -> TokenEvent:
        running, waiting = await busy(small_room, served_model), small_room.generate(a_request(served_model))
        queued = asyncio.ensure_future(anext(waiting))
        await until(lambda: small_room.health().waiting == 1)
        third = await anext(small_room.generate(a_request(served_model)))
        await running.aclose()
        assert isinstance(await queued, Token)
        return third

    sent_away = asyncio.run(crowd())

    assert isinstance(sent_away, EngineError)
    assert (sent_away.status, sent_away.code) == (429, "engine_busy")


def test_who_leaves_the_waiting_room_leaves_a_place(small_room: SerialEngine, served_model: ServedModel) -> None:
    async def come_and_go() -> int:
        running = await busy(small_room, served_model)
        queued = asyncio.ensure_future(anext(small_room.generate(a_request(served_model))))
        await until(lambda: small_room.health().waiting == 1)
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        await running.aclose()
        return small_room.health().waiting

    assert asyncio.run(come_and_go()) == 0


def test_an_engine_that_closes_ends_every_answer_with_an_error(
    small_room: SerialEngine, served_model: ServedModel
) -> None:
    async def close() -> list[TokenEvent]:
        running, waiting = await busy(small_room, served_model), small_room.generate(a_request(served_model))
        queued = asyncio.ensure_future(anext(waiting))
        await until(lambda: small_room.health().waiting == 1)
        small_room.close()
        late = await anext(small_room.generate(a_request(served_model)))
        return [[event async for event in running][-1], await queued, late]

    assert [event.code for event in asyncio.run(close()) if isinstance(event, EngineError)] == ["engine_stopping"] * 3


def test_a_cpu_without_memory_is_told_from_other_failures() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**50, dtype=torch.uint8).fill_(1)

    assert is_out_of_memory(failure.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)
