"""The engine on a GPU: packs of fixed shapes, graphs and the attention kernel give the answers of PEFT alone."""

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.integration.engine.worlds import build_world

    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def speakers(world: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The base, and adapters of different ranks on different layers."""
    from tests.integration.engine.test_batching import PLAIN
    from tests.integration.engine.worlds import build_tiny_adapter
    from worker.inference.engine import AdapterFolder

    folder = tmp_path_factory.mktemp("plain")
    return [None] + [
        AdapterFolder(f"adapter-{name}@v1", build_tiny_adapter(folder / name, world.base.folder, seed=seed, **config))
        for seed, (name, config) in enumerate(PLAIN.items(), start=20)
    ]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    from worker.inference.bases import Placement
    from worker.inference.batching.engine import BatchingEngine
    from worker.inference.batching.host import BatchLimits

    engine = BatchingEngine(Placement("cuda:0", torch.float32), places=500, limits=BatchLimits(**request.param))
    yield engine
    free, total = engine.count_blocks()
    engine.close()
    assert engine.join(30)
    assert free == total


@pytest.mark.parametrize(
    "engine", [{"chunk_tokens": 7}, {}, {"answers": 5, "adapters": 3}], ids=["chunks", "whole", "few"], indirect=True
)
def test_a_base_and_five_adapters_at_once_answer_as_each_does_alone(
    engine: Any, world: Any, speakers: list[Any]
) -> None:
    from tests.integration.engine.crowds import ask_all, told_tokens
    from tests.integration.engine.test_batching import expected, mixed_requests

    requests = mixed_requests(world, speakers, 36)

    answers = ask_all(engine, requests, arriving_within=0.5)

    assert [told_tokens(events) for events in answers] == [expected(request) for request in requests]
    assert engine.health().answers == "in_batches"


@pytest.mark.parametrize("engine", [{}], ids=["whole"], indirect=True)
def test_a_seed_gives_the_same_answer_alone_and_in_company(engine: Any, world: Any, speakers: list[Any]) -> None:
    from dataclasses import replace

    from tests.integration.engine.crowds import ask_all, told_tokens
    from tests.integration.engine.test_batching import mixed_requests

    requests = [
        replace(one, sampling=one.sampling.model_copy(update={"temperature": 0.9, "seed": number}))
        for number, one in enumerate(mixed_requests(world, speakers, 12))
    ]

    alone = [told_tokens(ask_all(engine, [one])[0]) for one in requests]

    assert [told_tokens(events) for events in ask_all(engine, requests)] == alone


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(24, 8, 128), (4, 4, 24), (24, 2, 64), (32, 1, 16)])
def test_the_kernel_gives_the_attention_of_plain_torch(
    heads: int, key_heads: int, size: int, softcap: float | None, window: int | None
) -> None:
    from tests.integration.engine.attentions import both_attentions
    from worker.inference.batching.plan import Scoring

    asked = [(0, 1), (700, 1), (3, 1), (0, 33), (640, 50), (70, 2)]

    found, wanted = both_attentions(asked, heads, key_heads, size, Scoring(0.2, softcap, window), device="cuda:0")

    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
