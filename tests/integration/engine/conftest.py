"""Tiny models for all tests of the engine, and the engines that answer with them.

A test that uses `engine` or `make_engine` holds for both kinds of engine, unless its module says otherwise.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from app.processes.garbage import exclude_from_collections
from tests.integration.engine.many_requests import has_only_free_blocks
from tests.integration.engine.merged import build_biased_model
from tests.integration.engine.model_caches import ServedModel, build_served_model
from tests.integration.engine.probes import a_bundle
from tests.integration.engine.vllm_server import Server
from tests.integration.engine.vllms import answering, build_proved_model, engine_at, recorded
from tests.support.serial_engine import SerialEngine
from tests.support.waiting import wait_for
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.batching.memory import Memory
from worker.inference.models.bases import Placement
from worker.inference.vllm.engine import VllmEngine

ON_CPU = Placement("cpu", torch.float32)
JOIN_SECONDS = 30.0
AnEngine = SerialEngine | BatchingEngine
MakeBatching = Callable[..., BatchingEngine]


@pytest.fixture(scope="session", autouse=True)
def _fast_collections() -> None:
    """As in an engine process: whatever unloads a model collects garbage."""
    exclude_from_collections()


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return build_served_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def biased_model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return build_biased_model(tmp_path_factory.mktemp("biased"))


@pytest.fixture
def bundle(served_model: ServedModel, tmp_path: Path) -> Path:
    """A copy of the adapter "small", with its probe."""
    return a_bundle(served_model, "small", tmp_path / "bundle")


@pytest.fixture
def placement() -> Placement:
    """Where the engines of `make_batching` compute. The tests on a GPU replace it."""
    return ON_CPU


@pytest.fixture
def make_batching(placement: Placement) -> Iterator[MakeBatching]:
    """Batching engines with the given limits. After the test all their blocks become free, and their threads end."""
    made: list[BatchingEngine] = []

    def make(
        *, patience_seconds: float = 300.0, idle_seconds: float = 60.0, memory: Memory | None = None, **limits: int
    ) -> BatchingEngine:
        engine = BatchingEngine(
            placement,
            limits=BatchLimits(**limits),
            patience_seconds=patience_seconds,
            memory=memory,
            idle_seconds=idle_seconds,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        wait_for("every block is free", partial(has_only_free_blocks, engine))
        engine.close()
    assert all(engine.join(JOIN_SECONDS) for engine in made)


@pytest.fixture(scope="module", params=["batching", "serial"])
def make_engine(request: pytest.FixtureRequest) -> Iterator[Callable[..., AnEngine]]:
    """Engines on the CPU; they are closed, and their threads ended, when the module's tests are over."""
    made: list[AnEngine] = []

    def make(*, max_adapters: int = 8, **options: Any) -> AnEngine:
        if request.param == "serial":
            made.append(SerialEngine(ON_CPU, max_adapters=max_adapters, **options))
        else:
            made.append(BatchingEngine(ON_CPU, limits=BatchLimits(adapters=max_adapters), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert all(engine.join(JOIN_SECONDS) for engine in made)


@pytest.fixture(scope="module")
def engine(make_engine: Callable[..., AnEngine]) -> AnEngine:
    return make_engine()


@pytest.fixture(scope="session")
def proved_model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return build_proved_model(tmp_path_factory.mktemp("proved"))


@pytest.fixture(scope="session")
def vllm_answering(proved_model: ServedModel) -> Iterator[SerialEngine]:
    """What answers in the servers that speak vLLM's protocol."""
    with answering(proved_model) as engine:
        yield engine


@pytest.fixture
def vllm_server(proved_model: ServedModel, vllm_answering: SerialEngine) -> Server:
    """What a test may change of the server behind `vllm_url` while it runs."""
    return Server(proved_model.base, vllm_answering)


@pytest.fixture
def vllm_url(vllm_server: Server) -> Iterator[str]:
    with recorded(vllm_server) as url:
        yield url


@pytest.fixture
def vllm_engine(vllm_url: str) -> Iterator[VllmEngine]:
    with engine_at(vllm_url) as engine:
        yield engine
