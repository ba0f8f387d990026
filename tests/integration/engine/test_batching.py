"""Many adapters in one batch: every answer is, token by token, the one that plain PEFT gives it alone."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.integration.engine.conftest import MakeBatching
from tests.integration.engine.many_requests import answer_tokens, ask_all, tokens_of_all
from tests.integration.engine.model_caches import ALL_LINEAR, ServedModel, build_tiny_adapter, expected
from tests.integration.engine.requests import PROMPT, a_request, last_of, tokens_of
from worker.inference.batching.engine import BatchingEngine
from worker.inference.engine import AdapterFolder, Ended, TokenRequest

PLAIN: dict[str, dict[str, Any]] = {
    "two layers": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "all layers": {"r": 8, "lora_alpha": 4, "target_modules": list(ALL_LINEAR)},
    "rank stabilised": {"r": 6, "lora_alpha": 24, "use_rslora": True, "target_modules": ["up_proj", "down_proj"]},
    "ranks by layer": {
        "r": 3,
        "target_modules": ["q_proj", "o_proj", "down_proj"],
        "rank_pattern": {"q_proj": 7, "layers.1.mlp.down_proj": 2},
        "alpha_pattern": {"o_proj": 30},
    },
    "one layer": {"r": 1, "lora_alpha": 2, "target_modules": ["k_proj"], "layers_to_transform": [1]},
}


RESPONDERS = ("base", *PLAIN)
LONG_PROMPT = tuple(range(10, 74))


@pytest.fixture(scope="module")
def plain_model(served_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """The base with the adapters of PLAIN."""
    folder = tmp_path_factory.mktemp("plain")
    made = {
        name: build_tiny_adapter(folder / name, served_model.base.folder, seed=seed, **config)
        for seed, (name, config) in enumerate(PLAIN.items(), start=20)
    }
    adapters = {name: AdapterFolder(f"adapter-{name}@v1", path) for name, path in made.items()}
    return replace(served_model, adapters=adapters)


def mixed_requests(served_model: ServedModel, names: Sequence[str], count: int) -> list[TokenRequest]:
    """Prompts of 1 to 70 tokens, answers of 1 to 20, responders in turn, in random order."""
    dice = random.Random(1)
    requests = []
    for number in range(count):
        prompt = tuple(dice.choices(range(3, 500), k=dice.randint(1, 70)))
        name = names[number % len(names)]
        requests.append(a_request(served_model, name, prompt=prompt, max_new_tokens=dice.randint(1, 20)))
    dice.shuffle(requests)
    return requests


LIMITS: tuple[dict[str, int], ...] = (
    {"chunk_tokens": 7},
    {"chunk_tokens": 512},
    {"adapters": 1},
    {"adapters": 2},
    {"cache_tokens": 96},
)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_a_base_and_five_adapters_at_once_answer_as_each_does_alone(
    make_batching: MakeBatching, plain_model: ServedModel, limits: dict[str, int]
) -> None:
    """Also with less memory than all of them need: then they take turns."""
    engine = make_batching(**limits)
    requests = mixed_requests(plain_model, RESPONDERS, 30)

    answers = ask_all(engine, requests, arriving_within=0.1)

    assert [answer_tokens(events) for events in answers] == [expected(request) for request in requests]
    assert all(isinstance(events[-1], Ended) for events in answers)
    assert len(engine.health().loaded_adapters) == min(len(PLAIN), limits.get("adapters", len(PLAIN)))


def test_no_answer_is_that_of_another_adapter(
    make_batching: MakeBatching, served_model: ServedModel, tmp_path: Path
) -> None:
    """Adapters so strong that the smallest part of one changes whatever it touches."""
    strong = {}
    for seed in range(4):
        folder = tmp_path / str(seed)
        build_tiny_adapter(folder, served_model.base.folder, seed=seed, strength=1000.0, **PLAIN["all layers"])
        strong[str(seed)] = AdapterFolder(f"adapter-strong-{seed}@v1", folder)
    requests = [a_request(replace(served_model, adapters=strong), name) for name in ("base", *strong)]
    right = [expected(request) for request in requests]
    assert len(set(map(tuple, right))) == len(requests)

    assert tokens_of_all(make_batching(), requests * 8) == right * 8


def answer_and_cached(engine: BatchingEngine, request: TokenRequest) -> tuple[list[int], int]:
    """An answer, and the tokens of its prompt that were computed before."""
    (events,) = ask_all(engine, [request])
    assert isinstance(events[-1], Ended)
    return answer_tokens(events), events[-1].cached_tokens


def test_a_beginning_is_shared_within_an_adapter_and_never_beyond(
    make_batching: MakeBatching, plain_model: ServedModel
) -> None:
    engine = make_batching()

    for last, cached in ((80, 0), (81, len(LONG_PROMPT))):
        for name in RESPONDERS:
            request = a_request(plain_model, name, prompt=(*LONG_PROMPT, last))
            assert answer_and_cached(engine, request) == (expected(request), cached)


def test_a_new_version_of_an_adapter_finds_nothing_of_the_old_one(
    make_batching: MakeBatching, plain_model: ServedModel
) -> None:
    engine = make_batching()
    for name in ("two layers", "all layers"):
        request = a_request(plain_model, name, prompt=LONG_PROMPT)
        version = replace(request, adapter=replace(plain_model.adapters[name], name=f"adapter-x@{name}"))

        assert answer_and_cached(engine, version) == (expected(request), 0)


def test_a_whole_prompt_that_is_known_still_gives_scores(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    engine, request = make_batching(), a_request(served_model, prompt=LONG_PROMPT[:48])

    answers = [answer_and_cached(engine, request) for _ in range(2)]

    assert answers == [(expected(request), 0), (expected(request), 32)]


def test_an_answer_goes_on_from_where_another_ended(make_batching: MakeBatching, served_model: ServedModel) -> None:
    engine, prompt = make_batching(), LONG_PROMPT[:30]
    answer = tokens_of(engine, a_request(served_model, prompt=prompt, max_new_tokens=40))
    following = a_request(served_model, prompt=(*prompt, *answer, 5))

    whole_blocks = (len(prompt) + len(answer) - 1) // 16 * 16
    assert answer_and_cached(engine, following) == (expected(following), whole_blocks)


def test_an_adapter_keeps_its_slot_while_it_answers(make_batching: MakeBatching, plain_model: ServedModel) -> None:
    long = a_request(plain_model, "all layers", max_new_tokens=120)
    short = [a_request(plain_model, name) for name in ("two layers", "one layer", "rank stabilised") * 3]
    requests = [long, *short]

    assert tokens_of_all(make_batching(adapters=2), requests) == [expected(request) for request in requests]


def test_the_log_probabilities_are_those_of_the_merged_weights(
    make_batching: MakeBatching, plain_model: ServedModel
) -> None:
    requests = [a_request(plain_model, name, logprobs=5, max_new_tokens=6) for name in RESPONDERS]

    answers = ask_all(make_batching(chunk_tokens=4), requests)

    for request, events in zip(requests, answers, strict=True):
        scores = merged_logprobs(request, [*PROMPT, *answer_tokens(events)])
        for place, event in enumerate(events[:-1], start=len(PROMPT) - 1):
            for token, logprob in event.top:
                assert abs(scores[place, token].item() - logprob) < 1e-4


def merged_logprobs(request: TokenRequest, tokens: list[int]) -> Any:
    """Log-probabilities [tokens, vocabulary] of the request's base with its adapter merged into the weights."""
    model = AutoModelForCausalLM.from_pretrained(request.base.folder)
    if request.adapter is not None:
        model = PeftModel.from_pretrained(model, request.adapter.folder).merge_and_unload()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens])).logits[0].log_softmax(dim=-1)


SAMPLED: list[dict[str, Any]] = [
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.4, "seed": 2**63 - 1},
    {"temperature": 1.3, "top_k": 50, "seed": 4},
    {"temperature": 1.3, "top_p": 0.8, "min_p": 0.02, "seed": 5},
    {"temperature": 1.0, "repetition_penalty": 1.4, "presence_penalty": 0.5, "seed": 6},
    {"temperature": 0, "logit_bias": {7: 0.05, 99: -100}},
]


def test_a_seed_gives_one_answer_alone_and_in_any_batch(make_batching: MakeBatching, plain_model: ServedModel) -> None:
    requests = [
        a_request(plain_model, name, max_new_tokens=20, **fields)
        for fields in SAMPLED
        for name in ("base", "all layers")
    ]
    engine = make_batching()
    alone = [tokens_of(engine, request) for request in requests]
    backwards = [*reversed(requests), *mixed_requests(plain_model, ("base", "two layers"), 8)]

    together = tokens_of_all(make_batching(chunk_tokens=5), backwards)

    assert together[: len(requests)] == alone[::-1]
    assert len(set(map(tuple, alone))) > len(SAMPLED)


def test_an_end_token_at_the_last_place_is_a_stop(make_batching: MakeBatching, served_model: ServedModel) -> None:
    usual = expected(a_request(served_model))
    first = usual.index(usual[-1]) + 1
    request = a_request(served_model, max_new_tokens=first, eos_ids=frozenset({usual[-1]}))

    assert last_of(make_batching(), request) == Ended("stop", first)


def test_an_idle_engine_uses_no_cpu_time(make_batching: MakeBatching, served_model: ServedModel) -> None:
    engine = make_batching()
    tokens_of(engine, a_request(served_model))

    before = time.process_time()
    time.sleep(0.5)

    assert time.process_time() - before < 0.2
