"""One tiny world for all tests of the engine, and an engine a module: every test holds for both kinds of engine."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from app.processes.garbage import exclude_from_collections
from tests.integration.engine.model_caches import ServedModel, build_served_model
from tests.integration.engine.vllm_server import Server
from tests.integration.engine.vllms import a_server, build_proved_model, engine_at, recorded
from tests.support.serial_engine import SerialEngine
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.models.bases import Placement
from worker.inference.vllm.engine import VllmEngine

ON_CPU = Placement("cpu", torch.float32)
JOIN_SECONDS = 30.0


@pytest.fixture(scope="session", autouse=True)
def _fast_collections() -> None:
    """As in an engine process: whatever unloads a model collects garbage."""
    exclude_from_collections()


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return build_served_model(tmp_path_factory.mktemp("world"))


AnEngine = SerialEngine | BatchingEngine


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


@pytest.fixture
def vllm_server(proved_model: ServedModel) -> Server:
    """What a test may change of the server behind `vllm_url` while it runs."""
    return a_server(proved_model)


@pytest.fixture
def vllm_url(vllm_server: Server) -> Iterator[str]:
    with recorded(vllm_server) as url:
        yield url


@pytest.fixture
def vllm_engine(vllm_url: str) -> Iterator[VllmEngine]:
    with engine_at(vllm_url) as engine:
        yield engine
