"""The batching engine when clients leave, when requests fail, and with models that no batch can hold."""

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from app.contracts.generation import EngineError
from bench.serve import soak
from bench.serving import build_workload
from tests.integration.engine.conftest import ON_CPU, MakeBatching
from tests.integration.engine.families import FAMILIES, build_family
from tests.integration.engine.many_requests import Events, answer_tokens, ask_all, is_idle, read, tokens_of_all, until
from tests.integration.engine.model_caches import ServedModel, expected
from tests.integration.engine.requests import PROMPT, a_request, last_of, right_answers, tokens_of
from tests.support.waiting import wait_for
from worker.inference.batching.engine import BatchingEngine
from worker.inference.engine import Ended, ModelFolder, Token

LEAVING: dict[str, dict[str, Any]] = {
    "while an adapter is read": {"adapter": "wide", "after": 0, "prompt": PROMPT},
    "while the prompt is read": {"adapter": "base", "after": 0, "prompt": (5,) * 1500},
    "at the first token": {"adapter": "small", "after": 1, "prompt": PROMPT},
    "in the middle": {"adapter": "wide", "after": 5, "prompt": PROMPT},
    "at the last token": {"adapter": "small", "after": 12, "prompt": PROMPT},
}


@pytest.mark.parametrize("moment", LEAVING)
def test_a_client_who_leaves_frees_everything_and_disturbs_nobody(
    make_batching: MakeBatching, served_model: ServedModel, moment: str
) -> None:
    engine, case = make_batching(chunk_tokens=8), LEAVING[moment]
    tokens_of(engine, a_request(served_model))
    leaver = a_request(served_model, case["adapter"], prompt=case["prompt"])

    async def come_and_go() -> list[Events]:
        stayers = [asyncio.ensure_future(read(engine, a_request(served_model, name))) for name in ("base", "small")]
        leaving = asyncio.ensure_future(read(engine, leaver, leave_after=case["after"] or None))
        if case["after"]:
            await leaving
        else:
            await until(lambda: engine.health().is_busy)
            await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        answers = await asyncio.gather(*stayers)
        await until(lambda: is_idle(engine))
        return list(answers)

    answers = asyncio.run(come_and_go())

    assert [answer_tokens(events) for events in answers] == right_answers(served_model, "base", "small")


def test_a_client_who_leaves_the_queue_is_never_answered(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    engine = make_batching(answers=1)
    request = a_request(served_model, base=served_model.endless_base, max_new_tokens=1500)

    async def queue_up() -> int:
        endless = engine.generate(request)
        assert isinstance(await anext(endless), Token)
        queued = [asyncio.ensure_future(read(engine, request)) for _ in range(5)]
        await until(lambda: engine.health().waiting == 5)
        for task in queued:
            task.cancel()
        await asyncio.gather(*queued, return_exceptions=True)
        waiting = engine.health().waiting
        await endless.aclose()
        await until(lambda: is_idle(engine))
        return waiting

    assert asyncio.run(queue_up()) == 0


def broken_grammar(step: str) -> Any:
    """A grammar that fails at one of its steps."""
    grammar = Mock()
    grammar.begin.return_value = grammar
    grammar.restrict.side_effect = lambda scores: scores
    getattr(grammar, step).side_effect = RuntimeError(f"broken at {step}")
    return grammar


NONSENSE: Any = ("no", "token")
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": ()}, "empty_prompt"),
    "a token that the model does not have": ({"prompt": (1, 99_999)}, "tokenizer_mismatch"),
    "a token below 0": ({"prompt": (1, -1)}, "tokenizer_mismatch"),
    "longer than the model": ({"prompt": (5,) * 2040}, "context_length_exceeded"),
    "longer than the cache": ({"prompt": (5,) * 500}, "context_length_exceeded"),
    "a bias for no token": ({"logit_bias": {99_999: 1.0}}, "unknown_token"),
    "no tokens at all": ({"prompt": NONSENSE}, "engine_failed"),
    "an adapter that overflows": ({"adapter": "wild"}, "model_not_finite"),
    "a grammar that does not begin": ({"grammar": broken_grammar("begin")}, "engine_failed"),
    "a grammar that fails": ({"grammar": broken_grammar("restrict")}, "engine_failed"),
    "a grammar that does not go on": ({"grammar": broken_grammar("accept")}, "engine_failed"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_request_that_fails_fails_alone(make_batching: MakeBatching, served_model: ServedModel, case: str) -> None:
    engine = make_batching(cache_tokens=400)
    fields, code = HOSTILE[case]
    wishes = {name: value for name, value in fields.items() if name != "grammar"}
    hostile = replace(a_request(served_model, **wishes), grammar=fields.get("grammar"))
    innocent = [a_request(served_model, name) for name in ("base", "small", "wide")]

    answers = ask_all(engine, [innocent[0], hostile, innocent[1], hostile, innocent[2]])

    errors = [answers[place][-1] for place in (1, 3)]
    assert [error.code for error in errors if isinstance(error, EngineError)] == [code, code]
    assert [answer_tokens(answers[place]) for place in (0, 2, 4)] == right_answers(
        served_model, "base", "small", "wide"
    )
    assert is_idle(engine)


def test_a_request_that_exceeds_the_cache_is_refused_with_what_would_fit(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    engine = make_batching(cache_tokens=64)

    error = last_of(engine, a_request(served_model, max_new_tokens=57))

    assert isinstance(error, EngineError)
    assert (error.status, error.param) == (422, "max_new_tokens")
    assert "is 65 tokens in this engine's memory" in error.message
    assert "max_new_tokens can be at most 56" in error.message
    assert last_of(engine, a_request(served_model, base=served_model.endless_base, max_new_tokens=56)) == Ended(
        "length", 56
    )


POISON = 511


def fails_on_poison(_: Any, __: Any, given: dict[str, Any]) -> None:
    if (given["input_ids"] == POISON).any():
        raise RuntimeError("this token breaks the forward")


def model_of(engine: BatchingEngine) -> Any:
    host = engine._model_cache.host
    assert host is not None
    return host._model


def test_a_forward_that_fails_fails_only_the_request_at_fault(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    engine = make_batching()
    tokens_of(engine, a_request(served_model))
    model_of(engine).register_forward_pre_hook(fails_on_poison, with_kwargs=True)
    names = ("base", "small", "wide", "biased")
    innocent = [a_request(served_model, name) for name in names]
    poisoned = a_request(served_model, prompt=(*PROMPT, POISON))

    answers = ask_all(engine, [*innocent[:2], poisoned, *innocent[2:]])

    last = answers.pop(2)[-1]
    assert isinstance(last, EngineError)
    assert (last.status, last.code) == (500, "engine_failed")
    assert [answer_tokens(events) for events in answers] == right_answers(served_model, *names)
    assert is_idle(engine)


def test_an_engine_that_hangs_ends_its_answers_with_an_error(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    engine = make_batching(patience_seconds=0.5)
    wait_for("it is loaded, which may take longer", lambda: tokens_of(engine, a_request(served_model)))
    hook = model_of(engine).register_forward_pre_hook(lambda *_: time.sleep(1))

    error = last_of(engine, a_request(served_model))
    hook.remove()

    assert isinstance(error, EngineError)
    assert (error.status, error.code) == (504, "engine_stalled")
    asyncio.run(until(lambda: is_idle(engine)))
    assert tokens_of(engine, a_request(served_model)) == expected(a_request(served_model))


def test_an_engine_that_closes_ends_every_answer_with_an_error(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    engine = make_batching()

    async def close() -> list[Any]:
        running = [
            engine.generate(a_request(served_model, base=served_model.endless_base, max_new_tokens=1500))
            for _ in range(3)
        ]
        for events in running:
            await anext(events)
        engine.close()
        return [[event async for event in events][-1] for events in running]

    assert [event.code for event in asyncio.run(close())] == ["engine_stopping"] * 3


def test_requests_of_two_bases_are_answered_in_turn(make_batching: MakeBatching, served_model: ServedModel) -> None:
    requests = [a_request(served_model, base=base) for base in (served_model.base, served_model.other_base)] * 4

    assert tokens_of_all(make_batching(), requests) == [expected(request) for request in requests]


def test_adapters_that_no_batch_can_hold_are_answered_beside_those_that_one_can(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    names = ("small", "directed", "base", "headed", "wide", "directed")

    answers = tokens_of_all(make_batching(), [a_request(served_model, name) for name in names])

    assert answers == right_answers(served_model, *names)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_model_answers_as_it_does_alone(
    make_batching: MakeBatching, served_model: ServedModel, tmp_path: Path, family: str
) -> None:
    """A model that would answer otherwise in a batch is found out when it is loaded, and answers one at a time."""
    base = ModelFolder(family, build_family(family, tmp_path / "base"))
    dice = random.Random(3)
    prompts = [tuple(dice.choices(range(3, 200), k=length)) for length in (1, 9, 40, 60)]
    requests = [a_request(served_model, base=base, prompt=prompt) for prompt in prompts]
    engine = make_batching(chunk_tokens=16)

    assert tokens_of_all(engine, requests) == [expected(request) for request in requests]
    assert (engine.count_blocks()[1] > 0) == FAMILIES[family].is_batched


def test_a_soak_gives_no_wrong_answer_and_loses_no_block(tmp_path: Path) -> None:
    """Of one adapter more than there are slots."""
    outcome = soak(build_workload(tmp_path, "tiny", 4, ON_CPU), ON_CPU, 120)

    assert (outcome["wrong"], outcome["errors"]) == (0, 0)
    assert outcome["right"] + outcome["left"] == 120
    assert outcome["left"] > 20
    assert outcome["free_blocks"] == outcome["blocks"] > 0
