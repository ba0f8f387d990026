"""What the tests on a GPU share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    import torch

    from tests.support.serial_engine import SerialEngine
    from worker.inference.models.bases import Placement

    engine = SerialEngine(Placement("cuda:0", torch.bfloat16))
    yield engine
    engine.close()
    assert engine.join(30)
