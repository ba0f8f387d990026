"""Whatever an engine hangs in, whoever asked hears of it in time, and the engine goes on.

The same of the batching engine is in test_batching_failures.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from app.contracts.generation import EngineError
from tests.integration.engine.conftest import ON_CPU
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, last_of, tokens_of
from tests.integration.engine.vllm_server import Server
from tests.integration.engine.vllms import answering, engine_at, recorded
from tests.support.serial_engine import SerialEngine
from tests.support.waiting import wait_for
from worker.inference.engine import Engine

PATIENCE_SECONDS = 0.5
Watched = tuple[Engine, Callable[[], Any]]


@contextmanager
def serial(_: ServedModel) -> Iterator[Watched]:
    with closing(SerialEngine(ON_CPU, patience_seconds=PATIENCE_SECONDS)) as engine:
        yield engine, lambda: model_of(engine)


@contextmanager
def vllm(served_model: ServedModel) -> Iterator[Watched]:
    with (
        answering(served_model) as behind,
        recorded(Server(served_model.base, behind)) as url,
        engine_at(url, patience_seconds=PATIENCE_SECONDS) as engine,
    ):
        yield engine, lambda: model_of(behind)


def model_of(engine: SerialEngine) -> Any:
    return engine._resident and engine._resident.model


@pytest.mark.parametrize("kind", [serial, vllm])
def test_an_answer_that_stands_still_ends_with_an_error(
    proved_model: ServedModel, kind: Callable[[ServedModel], Any]
) -> None:
    with kind(proved_model) as (engine, model):
        request = a_request(proved_model)
        expected = reference(proved_model.base, None, PROMPT, 12)
        wait_for("it is loaded, which may take longer than the patience", lambda: tokens_of(engine, request))
        hook = model().register_forward_pre_hook(lambda *_: time.sleep(1.5))

        error = last_of(engine, request)
        hook.remove()

        assert isinstance(error, EngineError)
        assert (error.status, error.code) == (504, "engine_stalled")
        wait_for("it answers again", lambda: tokens_of(engine, request) == expected)
