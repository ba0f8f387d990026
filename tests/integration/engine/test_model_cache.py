"""Several models in memory: each is loaded once while there is room, none reaches another, all can be unloaded."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.contracts.generation import EngineError
from tests.integration.engine.conftest import ON_CPU, MakeBatching
from tests.integration.engine.many_requests import tokens_of_all
from tests.integration.engine.model_caches import ServedModel, expected
from tests.integration.engine.requests import a_request, last_of, tokens_of
from tests.support.waiting import wait_for
from worker.inference.batching.blocks import BlockPool
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchHost, BatchLimits
from worker.inference.batching.memory import Memory, weight_bytes
from worker.inference.batching.model_cache import ModelCache
from worker.inference.batching.model_cache import ServedModel as Wanted

pytestmark = pytest.mark.filterwarnings("ignore:.*have invalid shape", "ignore:.*tie_word_embeddings")
ORDER = ("base", "all biases", "directions", "plain", "all biases", "base", "directions", "base")
MERGED = ("all biases", "directions")
ASIDE = EngineError(status=503, code="engine_unavailable", message="a training needs the memory")


class Measured(Memory):
    """A device with so many pieces of memory, one for each model of an engine."""

    def __init__(self, pieces: int, piece: int) -> None:
        super().__init__("cpu")
        self._pieces, self._piece = pieces, piece
        self.engine: BatchingEngine | None = None

    def _taken(self) -> int:
        return 0 if self.engine is None else len(self.engine.health().in_memory)

    def free(self) -> int:
        return (self._pieces - self._taken()) * self._piece

    def held(self) -> int:
        return self._taken() * self._piece


MakeRoomy = Callable[[int], BatchingEngine]


@pytest.fixture
def make_roomy(make_batching: MakeBatching, biased_model: ServedModel) -> MakeRoomy:
    """Engines with memory for so many models; the same amount stays free."""

    def make(models: int) -> BatchingEngine:
        memory = Measured(2 * models - 1, weight_bytes(biased_model.base.folder, torch.float32))
        memory.engine = make_batching(memory=memory, adapters=4)
        return memory.engine

    return make


@pytest.fixture
def full(make_roomy: MakeRoomy, biased_model: ServedModel) -> BatchingEngine:
    """An engine with three models, the most that it has room for."""
    engine = make_roomy(3)
    for name in ("base", *MERGED):
        tokens_of(engine, a_request(biased_model, name))
    return engine


def hosts_of(engine: BatchingEngine) -> list[BatchHost]:
    """Of the models in memory, that which answered longest ago first."""
    return [loaded.host for loaded in engine._model_cache._loaded.values() if loaded.host is not None]


def name_of(served_model: ServedModel, responder: str) -> str:
    merged = f" with {served_model.adapters[responder].name} merged into it" if responder in MERGED else ""
    return f"{served_model.base.name}{merged}"


def tensors_of(thing: Any) -> Iterator[Any]:
    """All that an object holds in its own attributes, however deep."""
    seen, left = set(), [thing]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | str | bytes):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple | set):
            left += one
        elif type(one).__module__.startswith(("worker.inference", "transformers.models", "torch.nn")):
            left += vars(one).values() if hasattr(one, "__dict__") else ()


@pytest.mark.parametrize("room", [1, 2, 3])
def test_models_that_take_turns_answer_as_peft_does_alone(
    make_roomy: MakeRoomy, biased_model: ServedModel, room: int
) -> None:
    engine, requests = make_roomy(room), [a_request(biased_model, name) for name in ORDER]

    one_by_one = [tokens_of(engine, request) for request in requests]
    at_once = tokens_of_all(engine, requests)

    assert one_by_one == at_once == [expected(request) for request in requests]
    assert len(engine.health().in_memory) == room


def test_each_is_loaded_once_where_there_is_room(full: BatchingEngine, biased_model: ServedModel) -> None:
    hosts = dict(zip(("base", *MERGED), hosts_of(full), strict=True))

    for name in (*MERGED, "base"):
        tokens_of(full, a_request(biased_model, name))
        assert full._model_cache.host is hosts[name]

    assert full.health().in_memory == [name_of(biased_model, name) for name in ("base", "directions", "all biases")]


def test_models_share_no_memory(full: BatchingEngine) -> None:
    places = []
    for host in hosts_of(full):
        found = (tensor for tensor in tensors_of(host) if tensor.numel() > 0)
        places.append({tensor.untyped_storage().data_ptr() for tensor in found})

    assert all(len(each) > 30 for each in places)
    assert len(set().union(*places)) == sum(map(len, places))


def test_the_model_that_answered_longest_ago_makes_room(make_roomy: MakeRoomy, biased_model: ServedModel) -> None:
    engine = make_roomy(2)
    for name in ("all biases", "base", "all biases"):
        tokens_of(engine, a_request(biased_model, name))
    gone, kept = (weakref.ref(host._model) for host in hosts_of(engine))

    tokens_of(engine, a_request(biased_model, "directions"))

    gc.collect()
    assert (gone(), kept() is not None) == (None, True)
    assert engine.health().in_memory == [name_of(biased_model, name) for name in ("directions", "all biases")]


def test_an_engine_that_steps_aside_unloads_all(full: BatchingEngine) -> None:
    models = [weakref.ref(host._model) for host in hosts_of(full)]

    full.step_aside(ASIDE)
    wait_for("it is away", lambda: full.is_away)

    gc.collect()
    assert [model() for model in models] == [None] * 3
    assert full.health().in_memory == []


def out_of_memory(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many loads of a model fail as they do on a GPU that is full."""
    left, usual = [None] * times, AutoModelForCausalLM.from_pretrained

    def load(*args: Any, **options: Any) -> Any:
        if left:
            left.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)


def test_a_model_that_does_not_fit_beside_others_is_loaded_alone(
    make_roomy: MakeRoomy, biased_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, request = make_roomy(3), a_request(biased_model, "directions")
    tokens_of(engine, a_request(biased_model))
    right = expected(request)
    out_of_memory(1, monkeypatch)

    assert tokens_of(engine, request) == right
    assert engine.health().in_memory == [name_of(biased_model, "directions")]


def test_a_model_that_never_fits_is_refused_by_name_and_the_next_request_is_answered(
    make_roomy: MakeRoomy, biased_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, request = make_roomy(3), a_request(biased_model)
    right = expected(request)
    tokens_of(engine, request)
    out_of_memory(2, monkeypatch)

    error = last_of(engine, a_request(biased_model, "directions"))

    assert isinstance(error, EngineError)
    assert (error.status, error.code) == (503, "engine_out_of_memory")
    assert tokens_of(engine, request) == right


def test_a_request_for_which_other_models_leave_no_room_is_answered_without_them(biased_model: ServedModel) -> None:
    memory = Measured(9, weight_bytes(biased_model.base.folder, torch.float32))
    model_cache = ModelCache(ON_CPU, BatchLimits(), lambda *_: None, lambda: None, memory)
    served_model = Wanted(biased_model.base, None)
    fitting, cramped, hopeless = (a_request(biased_model, max_new_tokens=most) for most in (20, 300, 2048))
    assert model_cache.of(a_request(biased_model, "directions")).merged is not None
    model_cache.enter(model_cache.of(a_request(biased_model, "directions")))
    model_cache.enter(served_model)
    assert model_cache.host is not None
    model_cache.host.blocks = BlockPool(9, 16)

    assert [model_cache.is_too_cramped_for(request) for request in (fitting, cramped, hopeless)] == [False, True, False]
    model_cache.enter(served_model, is_only=True)

    assert model_cache.names == [served_model.name]
    assert not model_cache.is_too_cramped_for(cramped)
    model_cache.unload_all()


def test_the_memory_of_a_model_is_known_from_its_files(biased_model: ServedModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(biased_model.base.folder)
    numbers = sum(weights.numel() for weights in model.parameters())

    assert weight_bytes(biased_model.base.folder, torch.float32) == 4 * numbers
    assert weight_bytes(biased_model.base.folder, torch.bfloat16) == 2 * numbers


def test_memory_is_measured() -> None:
    memory = Memory("cpu")
    free, held = memory.free(), memory.held()
    block = torch.ones(2**25)  # 128 MiB

    assert memory.held() - held > 2**26
    assert free > 0
    del block
