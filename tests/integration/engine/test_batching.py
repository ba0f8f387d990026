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
from tests.integration.engine.many_requests import Events, answer_tokens, ask_all, tokens_of_all
from tests.integration.engine.model_caches import ALL_LINEAR, ServedModel, build_tiny_adapter, expected
from tests.integration.engine.requests import PROMPT, a_request, tokens_of
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


@pytest.fixture(scope="module")
def adapters(served_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterFolder]:
    folder = tmp_path_factory.mktemp("plain")
    made = {
        name: build_tiny_adapter(folder / name, served_model.base.folder, seed=seed, **config)
        for seed, (name, config) in enumerate(PLAIN.items(), start=20)
    }
    return {name: AdapterFolder(f"adapter-{name}@v1", path) for name, path in made.items()}


def asked(
    served_model: ServedModel, adapter: AdapterFolder | None, prompt: Sequence[int], tokens: int = 12
) -> TokenRequest:
    return replace(a_request(served_model, prompt=tuple(prompt), max_new_tokens=tokens), adapter=adapter)


def mixed_requests(
    served_model: ServedModel, responders: Sequence[AdapterFolder | None], count: int
) -> list[TokenRequest]:
    """Prompts of 1 to 70 tokens, answers of 1 to 20, responders in turn, in random order."""
    dice = random.Random(1)
    requests = [
        asked(
            served_model,
            responders[n % len(responders)],
            dice.choices(range(3, 500), k=dice.randint(1, 70)),
            dice.randint(1, 20),
        )
        for n in range(count)
    ]
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
    make_batching: MakeBatching, served_model: ServedModel, adapters: dict[str, AdapterFolder], limits: dict[str, int]
) -> None:
    """Also with less memory than all of them need: then they take turns."""
    engine = make_batching(**limits)
    requests = mixed_requests(served_model, [None, *adapters.values()], 30)

    answers = ask_all(engine, requests, arriving_within=0.1)

    assert [answer_tokens(events) for events in answers] == [expected(request) for request in requests]
    assert all(isinstance(events[-1], Ended) for events in answers)
    assert len(engine.health().loaded_adapters) == min(len(adapters), limits.get("adapters", len(adapters)))


def test_no_answer_is_that_of_another_adapter(
    make_batching: MakeBatching, served_model: ServedModel, tmp_path: Path
) -> None:
    """Adapters so strong that the smallest part of one changes whatever it touches."""
    strong: list[AdapterFolder | None] = [None]
    for seed in range(4):
        path = build_tiny_adapter(
            tmp_path / str(seed), served_model.base.folder, seed=seed, strength=1000.0, **PLAIN["all layers"]
        )
        strong.append(AdapterFolder(f"adapter-strong-{seed}@v1", path))
    requests = [asked(served_model, adapter, PROMPT) for adapter in strong]
    right = [expected(request) for request in requests]
    assert len(set(map(tuple, right))) == len(strong)

    assert tokens_of_all(make_batching(), requests * 8) == right * 8


def cached(events: Events) -> int:
    last = events[-1]
    assert isinstance(last, Ended)
    return last.cached_tokens


def test_a_beginning_is_shared_within_an_adapter_and_never_beyond(
    make_batching: MakeBatching, served_model: ServedModel, adapters: dict[str, AdapterFolder]
) -> None:
    engine, shared = make_batching(), [*range(10, 74)]
    responders = [None, *adapters.values()]
    first = [asked(served_model, responder, [*shared, 80]) for responder in responders]
    second = [asked(served_model, responder, [*shared, 81]) for responder in responders]

    rounds = [[ask_all(engine, [request])[0] for request in requests] for requests in (first, second)]

    for requests, answers in zip((first, second), rounds, strict=True):
        assert [answer_tokens(events) for events in answers] == [expected(request) for request in requests]
    assert [cached(events) for events in rounds[0]] == [0] * len(responders)
    assert [cached(events) for events in rounds[1]] == [64] * len(responders)


def test_a_new_version_of_an_adapter_finds_nothing_of_the_old_one(
    make_batching: MakeBatching, served_model: ServedModel, adapters: dict[str, AdapterFolder]
) -> None:
    engine, prompt = make_batching(), [*range(10, 60)]
    old, new = (replace(adapters[name], name=f"adapter-x@{name}") for name in ("two layers", "all layers"))
    ask_all(engine, [asked(served_model, old, prompt)])

    answer = ask_all(engine, [asked(served_model, new, prompt)])[0]

    assert (answer_tokens(answer), cached(answer)) == (expected(asked(served_model, new, prompt)), 0)


def test_a_whole_prompt_that_is_known_still_gives_scores(
    make_batching: MakeBatching, served_model: ServedModel
) -> None:
    engine, prompt = make_batching(), [*range(10, 58)]

    answers = [ask_all(engine, [asked(served_model, None, prompt)])[0] for _ in range(2)]

    assert answer_tokens(answers[1]) == answer_tokens(answers[0]) == expected(asked(served_model, None, prompt))
    assert cached(answers[1]) == 32


def test_an_answer_goes_on_from_where_another_ended(make_batching: MakeBatching, served_model: ServedModel) -> None:
    engine, prompt = make_batching(), [*range(10, 40)]
    answer = answer_tokens(ask_all(engine, [asked(served_model, None, prompt, 40)])[0])
    following = asked(served_model, None, [*prompt, *answer, 5])

    events = ask_all(engine, [following])[0]

    assert answer_tokens(events) == expected(following)
    assert cached(events) == (len(prompt) + len(answer) - 1) // 16 * 16


def test_an_adapter_keeps_its_slot_while_it_answers(
    make_batching: MakeBatching, served_model: ServedModel, adapters: dict[str, AdapterFolder]
) -> None:
    engine = make_batching(adapters=2)
    long = asked(served_model, adapters["all layers"], PROMPT, 120)
    short = [asked(served_model, adapters[name], PROMPT) for name in ("two layers", "one layer", "rank stabilised") * 3]

    assert tokens_of_all(engine, [long, *short]) == [expected(request) for request in (long, *short)]


def test_the_log_probabilities_are_those_of_the_merged_weights(
    make_batching: MakeBatching, served_model: ServedModel, adapters: dict[str, AdapterFolder]
) -> None:
    engine = make_batching(chunk_tokens=4)
    responders = [None, *adapters.values()]
    requests = [
        replace(a_request(served_model, logprobs=5, max_new_tokens=6), adapter=responder) for responder in responders
    ]

    answers = ask_all(engine, requests)

    for responder, events in zip(responders, answers, strict=True):
        scores = merged_logprobs(served_model, responder, [*PROMPT, *answer_tokens(events)])
        for place, event in enumerate(events[:-1], start=len(PROMPT) - 1):
            for token, logprob in event.top:
                assert abs(scores[place, token].item() - logprob) < 1e-4


def merged_logprobs(served_model: ServedModel, adapter: AdapterFolder | None, tokens: list[int]) -> Any:
    """Log-probabilities [tokens, vocabulary] of the base with the adapter merged into its weights."""
    model = AutoModelForCausalLM.from_pretrained(served_model.base.folder)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
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


def test_a_seed_gives_one_answer_alone_and_in_any_batch(
    make_batching: MakeBatching, served_model: ServedModel, adapters: dict[str, AdapterFolder]
) -> None:
    requests = [
        replace(a_request(served_model, max_new_tokens=20, **fields), adapter=responder)
        for fields in SAMPLED
        for responder in (None, adapters["all layers"])
    ]
    engine = make_batching()
    alone = [tokens_of(engine, request) for request in requests]
    backwards = [*reversed(requests), *mixed_requests(served_model, [None, adapters["two layers"]], 8)]

    together = tokens_of_all(make_batching(chunk_tokens=5), backwards)

    assert together[: len(requests)] == alone[::-1]
    assert len(set(map(tuple, alone))) > len(SAMPLED)


def test_an_end_token_at_the_last_place_is_a_stop(make_batching: MakeBatching, served_model: ServedModel) -> None:
    usual = expected(asked(served_model, None, PROMPT))
    first = usual.index(usual[-1]) + 1
    request = replace(asked(served_model, None, PROMPT, first), eos_ids=frozenset({usual[-1]}))

    assert ask_all(make_batching(), [request])[0][-1] == Ended("stop", first)


def test_an_idle_engine_uses_no_cpu_time(make_batching: MakeBatching, served_model: ServedModel) -> None:
    engine = make_batching()
    tokens_of(engine, a_request(served_model))

    before = time.process_time()
    time.sleep(0.5)

    assert time.process_time() - before < 0.2
