"""Several worlds in memory: each is loaded once while there is room, none reaches another, and all can be let go."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.contracts.generation import EngineError
from tests.integration.engine.many_requests import answer_tokens, ask_all
from tests.integration.engine.merged import biased_model
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, last_of, tokens_of
from tests.support.waiting import wait_for
from worker.inference.batching.blocks import BlockPool
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.batching.memory import Memory, weight_bytes
from worker.inference.batching.model_cache import ModelCache
from worker.inference.batching.model_cache import ServedModel as Wanted
from worker.inference.models.bases import Placement

__all__ = ["biased_model"]
pytestmark = pytest.mark.filterwarnings("ignore:.*have invalid shape", "ignore:.*tie_word_embeddings")
ON_CPU = Placement("cpu", torch.float32)
TURNS = ("base", "all biases", "directions", "plain", "all biases", "base", "directions", "base")
MERGED = ("all biases", "directions")
ASIDE = EngineError(status=503, code="engine_unavailable", message="a training needs the memory")


class Measured(Memory):
    """A device on which every world takes one piece, of so many."""

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


MakeEngine = Callable[[int], BatchingEngine]


@pytest.fixture
def make_roomy(biased_model: ServedModel) -> Iterator[MakeEngine]:
    """Engines with memory for so many worlds, the same amount staying free."""
    made: list[BatchingEngine] = []

    def make(model_cache: int) -> BatchingEngine:
        memory = Measured(2 * model_cache - 1, weight_bytes(biased_model.base.folder, torch.float32))
        memory.engine = BatchingEngine(ON_CPU, limits=BatchLimits(adapters=4), memory=memory)
        made.append(memory.engine)
        return memory.engine

    yield make
    for engine in made:
        engine.close()
    assert all(engine.join(30) for engine in made)


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
def test_whoever_takes_turns_answers_as_peft_does_alone(
    make_roomy: MakeEngine, biased_model: ServedModel, room: int
) -> None:
    engine = make_roomy(room)

    one_by_one = [tokens_of(engine, a_request(biased_model, name)) for name in TURNS]
    at_once = [answer_tokens(events) for events in ask_all(engine, [a_request(biased_model, name) for name in TURNS])]

    right = [reference(biased_model.base, biased_model.adapter(name), PROMPT, 12) for name in TURNS]
    assert one_by_one == at_once == right
    assert len(engine.health().in_memory) == room


def test_each_is_loaded_once_where_there_is_room(make_roomy: MakeEngine, biased_model: ServedModel) -> None:
    engine, hosts = make_roomy(3), {}
    for name in ("base", *MERGED):
        tokens_of(engine, a_request(biased_model, name))
        hosts[name] = engine._model_cache.host

    for name in (*MERGED, "base"):
        tokens_of(engine, a_request(biased_model, name))
        assert engine._model_cache.host is hosts[name]

    assert engine.health().in_memory == [name_of(biased_model, name) for name in ("base", "directions", "all biases")]


def test_nothing_of_one_lies_where_something_of_another_does(make_roomy: MakeEngine, biased_model: ServedModel) -> None:
    engine, places = make_roomy(3), []
    for name in ("base", *MERGED):
        tokens_of(engine, a_request(biased_model, name))
        found = (tensor for tensor in tensors_of(engine._model_cache.host) if tensor.numel() > 0)
        places.append({tensor.untyped_storage().data_ptr() for tensor in found})

    assert all(len(each) > 30 for each in places)
    assert not places[0] & places[1] | places[0] & places[2] | places[1] & places[2]


def test_the_one_that_answered_longest_ago_makes_room(make_roomy: MakeEngine, biased_model: ServedModel) -> None:
    engine = make_roomy(2)
    tokens_of(engine, a_request(biased_model, "all biases"))
    tokens_of(engine, a_request(biased_model))
    tokens_of(engine, a_request(biased_model, "all biases"))
    kept, gone = (
        weakref.ref(loaded.host._model) for loaded in reversed(engine._model_cache._loaded.values()) if loaded.host
    )

    tokens_of(engine, a_request(biased_model, "directions"))

    gc.collect()
    assert (gone(), kept() is not None) == (None, True)
    assert engine.health().in_memory == [name_of(biased_model, name) for name in ("directions", "all biases")]


def test_an_engine_that_steps_aside_lets_go_of_all(make_roomy: MakeEngine, biased_model: ServedModel) -> None:
    engine = make_roomy(3)
    for name in ("base", *MERGED):
        tokens_of(engine, a_request(biased_model, name))
    models = [weakref.ref(loaded.host._model) for loaded in engine._model_cache._loaded.values() if loaded.host]

    engine.step_aside(ASIDE)
    wait_for("it is away", lambda: engine.is_away, 30)

    gc.collect()
    assert [model() for model in models] == [None] * 3
    assert engine.health().in_memory == []


def out_of_memory(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many loads of a model fail as they do on a GPU that is full."""
    left, usual = [None] * times, AutoModelForCausalLM.from_pretrained

    def load(*args: Any, **options: Any) -> Any:
        if left:
            left.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)


def test_what_does_not_fit_in_company_is_loaded_alone(
    make_roomy: MakeEngine, biased_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_roomy(3)
    tokens_of(engine, a_request(biased_model))
    right = reference(biased_model.base, biased_model.adapter("directions"), PROMPT, 12)
    out_of_memory(1, monkeypatch)

    answer = tokens_of(engine, a_request(biased_model, "directions"))

    assert answer == right
    assert engine.health().in_memory == [name_of(biased_model, "directions")]


def test_what_never_fits_is_refused_by_name_and_the_next_request_is_answered(
    make_roomy: MakeEngine, biased_model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_roomy(3)
    right = reference(biased_model.base, None, PROMPT, 12)
    tokens_of(engine, a_request(biased_model))
    out_of_memory(2, monkeypatch)

    error = last_of(engine, a_request(biased_model, "directions"))

    assert isinstance(error, EngineError)
    assert (error.status, error.code) == (503, "engine_out_of_memory")
    assert tokens_of(engine, a_request(biased_model)) == right


def test_a_request_that_company_leaves_no_room_for_is_answered_without_it(biased_model: ServedModel) -> None:
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


def test_what_a_model_takes_is_told_by_its_files(biased_model: ServedModel) -> None:
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
