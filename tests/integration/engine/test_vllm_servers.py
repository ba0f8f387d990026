"""vLLM servers that break off, die, come back, are too old or do not know this engine."""

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import pytest

from app.contracts.generation import EngineError
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.requests import a_request, events_of, refusal_of
from tests.integration.engine.vllm_server import KEY, Server
from tests.integration.engine.vllms import engine_at, is_small, is_well, recorded
from tests.support.waiting import wait_for
from worker.inference.engine import Token
from worker.inference.vllm.engine import VllmEngine
from worker.inference.vllm.server import VllmServer, is_old


@pytest.fixture
def served_model(proved_model: ServedModel) -> ServedModel:
    return proved_model


@pytest.mark.parametrize("how", ["cuts_after", "fails_after"])
def test_an_answer_that_breaks_off_ends_with_an_error(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel, how: str
) -> None:
    setattr(vllm_server, how, 3)

    *tokens, last = events_of(vllm_engine, a_request(served_model))

    assert [isinstance(event, Token) for event in tokens] == [True] * 3
    assert isinstance(last, EngineError)
    assert (last.status, last.code) == (503, "engine_unavailable")


def test_a_reader_who_leaves_ends_the_computing(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    async def leave_early() -> None:
        async with aclosing(
            vllm_engine.generate(a_request(served_model, max_new_tokens=2000, ignore_eos=True))
        ) as events:
            assert isinstance(await anext(events), Token)

    asyncio.run(leave_early())

    wait_for("nothing is computed", lambda: not vllm_server.active)
    assert not vllm_engine.health().is_busy


def test_a_dead_engine_behind_vllm_is_unavailable(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel
) -> None:
    wait_for("it is up", lambda: is_well(vllm_engine))
    vllm_server.is_dead = True

    assert refusal_of(vllm_engine, a_request(served_model)).status == 503
    wait_for("its health says so", lambda: not is_well(vllm_engine))


def test_a_server_that_was_away_is_asked_for_every_proof_again(vllm_server: Server, served_model: ServedModel) -> None:
    with recorded(vllm_server) as url, engine_at(url) as engine:
        assert is_small(engine, served_model)
        assert engine.health().loaded_adapters == ["adapter-small@v1"]
        vllm_server.version = "0.32.0"  # one that must not be used, as good as away
        vllm_server.is_dead = True
        wait_for("it is noticed", lambda: not is_well(engine))
        vllm_server.version, vllm_server.is_dead = "0.33.0", False
        before = len(vllm_server.asked)

        assert is_small(engine, served_model)

    assert any("logprob_token_ids" in body for body in vllm_server.asked[before:])


def test_no_server_is_unavailable_and_a_new_one_is_found(vllm_server: Server, served_model: ServedModel) -> None:
    with recorded(vllm_server) as url:
        pass

    with engine_at(url) as engine:
        error = refusal_of(engine, a_request(served_model))

    assert (error.status, error.code) == (503, "engine_unavailable")


def test_a_wrong_key_is_named_and_no_key_is_logged(
    vllm_url: str, served_model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = VllmEngine(VllmServer(vllm_url, "another key"))
    try:
        error = refusal_of(engine, a_request(served_model))
    finally:
        engine.close()
        engine.join(30.0)

    assert error.status == 503
    assert "VLLM_API_KEY" in error.message
    assert "another key" not in caplog.text + error.message
    assert KEY not in caplog.text


def test_an_old_version_is_refused_with_the_reason(
    vllm_engine: VllmEngine, vllm_server: Server, served_model: ServedModel, vllm_url: str
) -> None:
    vllm_server.version = "0.32.0"

    with engine_at(vllm_url) as late:
        error = refusal_of(late, a_request(served_model))

    assert error.status == 503
    assert "version 0.32.0, at least 0.33 is needed: before, adapters leaked into the base's answers" in error.message


@pytest.mark.parametrize(
    ("version", "old"), [("0.32.9", True), ("0.33.0rc1", False), ("1.0", False), ("dev", True), ("0.100.0+cpu", False)]
)
def test_versions_are_numbers(version: str, old: bool) -> None:
    assert is_old(version) is old


def test_an_engine_that_closes_ends_every_answer_with_an_error(vllm_url: str, served_model: ServedModel) -> None:
    async def close() -> list[Any]:
        with engine_at(vllm_url) as engine:
            running = engine.generate(a_request(served_model, max_new_tokens=2000, ignore_eos=True))
            assert isinstance(await anext(running), Token)
            engine.close()
            return [[event async for event in running][-1], await anext(engine.generate(a_request(served_model)))]

    assert [event.code for event in asyncio.run(close())] == ["engine_stopping"] * 2
