"""Whoever asks gets the answer of the model that was asked, token by token that of plain transformers and PEFT."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
import torch

from app.contracts.generation import EngineError
from tests.integration.engine.model_caches import ADAPTERS, ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, events_of, last_of, tokens_of
from tests.support.serial_engine import SerialEngine
from worker.inference.engine import Ended, Token

SPEAKERS = ("base", *ADAPTERS)
MakeEngine = Callable[..., SerialEngine]


def expected(
    served_model: ServedModel, responder: str, tokens: int = 12, prompt: tuple[int, ...] = PROMPT
) -> list[int]:
    return reference(served_model.base, served_model.adapter(responder), prompt, tokens)


def test_the_speakers_of_this_world_answer_differently(served_model: ServedModel) -> None:
    assert len({tuple(expected(served_model, responder)) for responder in SPEAKERS}) == len(SPEAKERS)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("responder", SPEAKERS)
def test_a_greedy_answer_is_that_of_generate(
    engine: SerialEngine, served_model: ServedModel, responder: str, use_cache: bool
) -> None:
    assert tokens_of(engine, a_request(served_model, responder, use_cache=use_cache)) == expected(
        served_model, responder
    )


def test_interleaved_requests_of_many_threads_are_never_mixed_up(
    engine: SerialEngine, served_model: ServedModel
) -> None:
    prompts = [(1, 87 + n, 85, 201) for n in range(4)]
    asked = [(responder, prompt) for prompt in prompts for responder in SPEAKERS] * 2

    with ThreadPoolExecutor(8) as threads:
        requests = [a_request(served_model, responder, prompt=prompt) for responder, prompt in asked]
        answers = list(threads.map(lambda request: tokens_of(engine, request), requests))

    assert answers == [expected(served_model, responder, prompt=prompt) for responder, prompt in asked]


@pytest.mark.parametrize("next_speaker", SPEAKERS)
def test_a_failure_while_an_adapter_answers_leaves_nothing_of_it(
    engine: SerialEngine, served_model: ServedModel, next_speaker: str
) -> None:
    failed = last_of(engine, a_request(served_model, "wild"))

    assert isinstance(failed, EngineError)
    assert failed.code == "model_not_finite"
    assert tokens_of(engine, a_request(served_model, next_speaker)) == expected(served_model, next_speaker)


@pytest.mark.parametrize("next_speaker", SPEAKERS)
def test_a_reader_who_leaves_leaves_no_adapter_behind(
    engine: SerialEngine, served_model: ServedModel, next_speaker: str
) -> None:
    async def leave_early() -> None:
        async with aclosing(engine.generate(a_request(served_model, "wide", max_new_tokens=500))) as events:
            assert isinstance(await anext(events), Token)

    asyncio.run(leave_early())

    assert tokens_of(engine, a_request(served_model, next_speaker)) == expected(served_model, next_speaker)


def test_an_adapter_that_had_to_make_room_comes_back_right(make_engine: MakeEngine, served_model: ServedModel) -> None:
    engine = make_engine(max_adapters=2)

    answers = [tokens_of(engine, a_request(served_model, responder)) for responder in (*ADAPTERS, *ADAPTERS, "base")]

    assert answers == [expected(served_model, responder) for responder in (*ADAPTERS, *ADAPTERS, "base")]
    for responder in ("small", "wide", "biased"):
        assert tokens_of(engine, a_request(served_model, responder)) == expected(served_model, responder)
    assert engine.health().loaded_adapters == ["adapter-biased@v1", "adapter-wide@v1"]


def test_another_base_replaces_the_first(make_engine: MakeEngine, served_model: ServedModel) -> None:
    engine = make_engine()
    tokens_of(engine, a_request(served_model, "small"))

    other = tokens_of(engine, a_request(served_model, base=served_model.other_base))

    assert other == reference(served_model.other_base, None, PROMPT, 12)
    assert (engine.health().loaded_base, engine.health().loaded_adapters) == ("base-1", [])
    assert tokens_of(engine, a_request(served_model, "small")) == expected(served_model, "small")


def test_one_seed_gives_one_answer(engine: SerialEngine, served_model: ServedModel) -> None:
    request = a_request(served_model, "small", temperature=1.0, seed=7, max_new_tokens=30)

    assert tokens_of(engine, request) == tokens_of(engine, request)


def test_another_seed_gives_another_answer(engine: SerialEngine, served_model: ServedModel) -> None:
    answers = {tuple(tokens_of(engine, a_request(served_model, temperature=1.0, seed=seed))) for seed in range(4)}

    assert len(answers) == 4


def test_the_global_dice_are_not_touched(engine: SerialEngine, served_model: ServedModel) -> None:
    before = torch.random.get_rng_state()

    tokens_of(engine, a_request(served_model, temperature=1.0))

    assert torch.equal(before, torch.random.get_rng_state())


def test_a_seed_of_the_order_decides_and_not_the_company(engine: SerialEngine, served_model: ServedModel) -> None:
    request = a_request(served_model, temperature=1.0, seed=3)
    alone = tokens_of(engine, request)

    with ThreadPoolExecutor(4) as threads:
        others = [
            a_request(served_model, "wide", temperature=1.0),
            request,
            a_request(served_model, temperature=2.0),
            request,
        ]
        answers = list(threads.map(lambda other: tokens_of(engine, other), others))

    assert answers[1] == answers[3] == alone


@pytest.mark.parametrize("place", [0, 4, 11])
def test_an_end_token_ends_the_answer_and_is_counted(
    engine: SerialEngine, served_model: ServedModel, place: int
) -> None:
    usual = expected(served_model, "wide")
    end = usual[place]
    first = usual.index(end)

    events = events_of(engine, a_request(served_model, "wide", eos_ids=frozenset({end, 511})))

    assert events == [*(Token(token) for token in usual[:first]), Ended("stop", first + 1)]


def test_an_answer_without_an_end_token_is_cut(engine: SerialEngine, served_model: ServedModel) -> None:
    assert last_of(engine, a_request(served_model, max_new_tokens=5)) == Ended("length", 5)
