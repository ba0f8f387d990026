"""One tiny world for all tests of the engine, and an engine a module."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.integration.engine.worlds import World, build_world
from worker.inference.bases import Placement
from worker.inference.serial import SerialEngine

ON_CPU = Placement("cpu", torch.float32)
JOIN_SECONDS = 30.0


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def make_engine() -> Iterator[Callable[..., SerialEngine]]:
    """Engines on the CPU; they are closed, and their threads ended, when the module's tests are over."""
    made: list[SerialEngine] = []

    def make(**options: Any) -> SerialEngine:
        made.append(SerialEngine(ON_CPU, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    assert all(engine.join(JOIN_SECONDS) for engine in made)


@pytest.fixture(scope="module")
def engine(make_engine: Callable[..., SerialEngine]) -> SerialEngine:
    return make_engine()
