"""What an engine on a CPU keeps for later requests: it grows with use, is bounded for all models, and is given back."""

import pytest
import torch

from tests.integration.engine.conftest import MakeBatching
from tests.integration.engine.model_caches import ServedModel, expected
from tests.integration.engine.requests import a_request, tokens_of
from tests.support.waiting import wait_for
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.loading import AdapterCache
from worker.inference.batching.lora import LoraWeights
from worker.inference.batching.memory import Memory
from worker.inference.batching.tensors import Zeros

CPU = torch.device("cpu")
LONG_PROMPT = tuple(range(5, 105))


def cache_of(engine: BatchingEngine) -> tuple[int, int]:
    """The bytes in use and their bound."""
    health = engine.health()
    assert health.cache_bytes is not None
    assert health.max_cache_bytes is not None
    return health.cache_bytes, health.max_cache_bytes


def block_bytes(engine: BatchingEngine) -> int:
    host = engine._model_cache.host
    assert host is not None
    return host.cache_bytes // host.blocks.used


def test_the_cache_grows_with_use(make_batching: MakeBatching, served_model: ServedModel) -> None:
    engine = make_batching()
    assert cache_of(engine)[0] == 0

    tokens_of(engine, a_request(served_model))
    small, bound = cache_of(engine)
    tokens_of(engine, a_request(served_model, prompt=LONG_PROMPT))

    assert 0 < small < cache_of(engine)[0] < bound <= 2**30


def test_all_models_together_stay_within_one_bound(make_batching: MakeBatching, served_model: ServedModel) -> None:
    probe = make_batching()
    tokens_of(probe, a_request(served_model))
    engine = make_batching(cache_bytes=12 * block_bytes(probe))
    bases = (served_model.base, served_model.other_base, served_model.endless_base)

    for base in (*bases, *bases):
        request = a_request(served_model, base=base, prompt=LONG_PROMPT)
        assert tokens_of(engine, request) == expected(request)
        assert 7 * block_bytes(engine) <= cache_of(engine)[0] <= 12 * block_bytes(engine)

    assert len(engine.health().in_memory) == len(bases)


@pytest.mark.parametrize("responder", ["base", "wide"])
def test_what_an_idle_engine_kept_is_given_back_and_the_next_answer_is_right(
    make_batching: MakeBatching, served_model: ServedModel, responder: str
) -> None:
    engine, request = make_batching(idle_seconds=0.05), a_request(served_model, responder)
    tokens_of(engine, request)

    wait_for("the memory is given back", lambda: cache_of(engine)[0] == 0)

    assert engine.health().loaded_adapters == []
    assert engine.health().in_memory == [served_model.base.name]
    assert tokens_of(engine, request) == expected(request)


def test_zeros_take_memory_when_they_are_written_to_and_lose_it_when_they_are_reset() -> None:
    memory, size = Memory("cpu"), 2**26
    zeros = Zeros((size // 4,), torch.float32, CPU)
    untouched = memory.held()

    zeros.tensor[: size // 8] = 1
    half = memory.held() - untouched
    zeros.reset()

    assert size // 4 < half < 3 * size // 4
    assert memory.held() - untouched < size // 4
    assert not zeros.tensor.any()


def test_adapters_that_were_read_are_bounded_for_all_bases_and_no_base_finds_those_of_another() -> None:
    cache = AdapterCache(most_bytes=20)
    one, other = object(), object()

    def weights(name: str) -> LoraWeights:
        return LoraWeights(name, {}, 10)

    cache.put(one, weights("a"))
    cache.put(other, weights("b"))
    assert (cache.get(one, "a") is not None, cache.get(other, "a")) == (True, None)
    cache.put(other, weights("c"))

    kept = [(owner, name) for owner, name in ((one, "a"), (other, "b"), (other, "c")) if cache.get(owner, name)]
    assert kept == [(one, "a"), (other, "c")]
