"""What an engine leaves of a GPU's memory when it has stepped aside."""

import asyncio
from pathlib import Path

import pytest

from app.contracts.generation import Sampling
from app.contracts.memory_lease import YieldOrder
from worker.hardware import measure_gpu

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
# What libraries keep for themselves, 32 MiB a stream for products alone; the tiny model's cache is larger.
LEFT_BYTES = 96 * 2**20


def test_an_engine_that_is_away_has_let_go_of_the_gpu_that_a_worker_measures(base: Path) -> None:
    from tests.integration.engine.requests import tokens_of
    from worker.inference.batching.engine import BatchingEngine
    from worker.inference.batching.host import BatchLimits
    from worker.inference.engine import ModelFolder, TokenRequest
    from worker.inference.models.bases import Placement
    from worker.inference.server.memory_lease import MemoryLeases

    engine = BatchingEngine(Placement("cuda:0", torch.bfloat16), limits=BatchLimits(cache_tokens=10**6))
    request = TokenRequest(ModelFolder("tiny", base), None, [1, 2, 3], frozenset(), Sampling(temperature=0))

    async def go_and_come() -> int:
        holds = MemoryLeases(engine)
        holds.hold(YieldOrder(holder="gpu0", job_id="job-1", lease_seconds=60))
        async with asyncio.timeout(60):
            while not engine.is_away:
                await asyncio.sleep(0.01)
        left = engine.health().memory_bytes or 0
        holds.release("gpu0")
        return left

    tokens = tokens_of(engine, request)
    held = engine.health()
    left = asyncio.run(go_and_come())
    gpu = measure_gpu()

    assert gpu is not None
    assert held.place == gpu.uuid
    assert left < LEFT_BYTES < (held.memory_bytes or 0)
    assert tokens_of(engine, request) == tokens
    engine.close()
    assert engine.join(30)
