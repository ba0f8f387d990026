"""Every request gets the answer of its own model, token by token that of plain transformers and PEFT."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from app.contracts.generation import EngineError
from tests.integration.engine.many_requests import read
from tests.integration.engine.model_caches import ADAPTERS, ServedModel, expected
from tests.integration.engine.requests import a_request, events_of, last_of, right_answers, tokens_of
from tests.support.serial_engine import SerialEngine
from worker.inference.engine import Ended, Token

RESPONDERS = ("base", *ADAPTERS)
MakeEngine = Callable[..., SerialEngine]


def test_the_base_and_its_adapters_answer_differently(served_model: ServedModel) -> None:
    assert len(set(map(tuple, right_answers(served_model, *RESPONDERS)))) == len(RESPONDERS)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("responder", RESPONDERS)
def test_a_greedy_answer_is_that_of_generate(
    engine: SerialEngine, served_model: ServedModel, responder: str, use_cache: bool
) -> None:
    request = a_request(served_model, responder, use_cache=use_cache)

    assert tokens_of(engine, request) == expected(request)


def test_interleaved_requests_of_many_threads_are_never_mixed_up(
    engine: SerialEngine, served_model: ServedModel
) -> None:
    prompts = [(1, 87 + n, 85, 201) for n in range(2)]
    requests = [a_request(served_model, name, prompt=prompt) for prompt in prompts for name in RESPONDERS] * 2

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(partial(tokens_of, engine), requests))

    assert found == [expected(request) for request in requests]


def overflow(engine: SerialEngine, served_model: ServedModel) -> None:
    failed = last_of(engine, a_request(served_model, "wild"))
    assert isinstance(failed, EngineError)
    assert failed.code == "model_not_finite"


def leave_early(engine: SerialEngine, served_model: ServedModel) -> None:
    (event,) = asyncio.run(read(engine, a_request(served_model, "wide", max_new_tokens=500), leave_after=1))
    assert isinstance(event, Token)


@pytest.mark.parametrize("end", [overflow, leave_early])
@pytest.mark.parametrize("following", RESPONDERS)
def test_an_answer_that_ends_early_leaves_nothing_of_its_adapter(
    engine: SerialEngine, served_model: ServedModel, following: str, end: Callable[..., None]
) -> None:
    end(engine, served_model)

    assert tokens_of(engine, a_request(served_model, following)) == expected(a_request(served_model, following))


def test_an_adapter_that_had_to_make_room_comes_back_right(make_engine: MakeEngine, served_model: ServedModel) -> None:
    engine = make_engine(max_adapters=2)
    names = (*ADAPTERS, *ADAPTERS, "base", "small", "wide", "biased")

    answers = [tokens_of(engine, a_request(served_model, name)) for name in names]

    assert answers == right_answers(served_model, *names)
    assert engine.health().loaded_adapters == ["adapter-biased@v1", "adapter-wide@v1"]


def test_another_base_replaces_the_first(make_engine: MakeEngine, served_model: ServedModel) -> None:
    engine = make_engine()
    of_another, of_an_adapter = a_request(served_model, base=served_model.other_base), a_request(served_model, "small")
    tokens_of(engine, of_an_adapter)

    assert tokens_of(engine, of_another) == expected(of_another)
    assert (engine.health().loaded_base, engine.health().loaded_adapters) == ("base-1", [])
    assert tokens_of(engine, of_an_adapter) == expected(of_an_adapter)


def test_one_seed_gives_one_answer(engine: SerialEngine, served_model: ServedModel) -> None:
    request = a_request(served_model, "small", temperature=1.0, seed=7, max_new_tokens=30)

    assert tokens_of(engine, request) == tokens_of(engine, request)


def test_another_seed_gives_another_answer(engine: SerialEngine, served_model: ServedModel) -> None:
    answers = {tuple(tokens_of(engine, a_request(served_model, temperature=1.0, seed=seed))) for seed in range(4)}

    assert len(answers) == 4


def test_the_global_random_state_is_not_touched(engine: SerialEngine, served_model: ServedModel) -> None:
    before = torch.random.get_rng_state()

    tokens_of(engine, a_request(served_model, temperature=1.0))

    assert torch.equal(before, torch.random.get_rng_state())


def test_a_seed_decides_whatever_is_asked_at_the_same_time(engine: SerialEngine, served_model: ServedModel) -> None:
    request = a_request(served_model, temperature=1.0, seed=3)
    alone = tokens_of(engine, request)
    others = (a_request(served_model, "wide", temperature=1.0), a_request(served_model, temperature=2.0))

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(partial(tokens_of, engine), (others[0], request, others[1], request)))

    assert found[1] == found[3] == alone


@pytest.mark.parametrize("place", [0, 4, 11])
def test_an_end_token_ends_the_answer_and_is_counted(
    engine: SerialEngine, served_model: ServedModel, place: int
) -> None:
    usual = expected(a_request(served_model, "wide"))
    end = usual[place]
    first = usual.index(end)

    events = events_of(engine, a_request(served_model, "wide", eos_ids=frozenset({end, 511})))

    assert events == [*(Token(token) for token in usual[:first]), Ended("stop", first + 1)]


def test_an_answer_without_an_end_token_is_cut(engine: SerialEngine, served_model: ServedModel) -> None:
    assert last_of(engine, a_request(served_model, max_new_tokens=5)) == Ended("length", 5)
