"""What holds for every engine holds for vLLM: the recorded protocol always, the real server where TEST_VLLM is set.

The tests that are imported run here once more, with the fixtures of this module.
"""

# ruff: noqa: F401

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from typing import Any

import pytest

from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, events_of, tokens_of
from tests.integration.engine.test_engine_answers import (
    test_a_seed_decides_whatever_is_asked_at_the_same_time,
    test_an_answer_without_an_end_token_is_cut,
    test_an_end_token_ends_the_answer_and_is_counted,
    test_another_seed_gives_another_answer,
    test_one_seed_gives_one_answer,
)
from tests.integration.engine.test_engine_bundles import (
    test_a_damaged_bundle_is_rejected,
)
from tests.integration.engine.test_engine_choosing import (
    test_a_stop_token_ends_the_answer_and_is_not_told,
    test_an_end_token_that_is_ignored_is_a_token_like_others,
    test_log_probabilities_are_those_of_a_plain_forward,
)
from tests.integration.engine.test_engine_formats import (
    test_a_format_binds_its_own_answer_only,
    test_a_json_object_is_one,
    test_a_limit_cuts_a_format_and_says_so,
    test_a_schema_that_cannot_be_compiled_is_refused,
    test_every_answer_is_of_the_schema,
    test_tokens_that_the_tokenizer_lacks_are_refused_by_their_field,
)
from tests.integration.engine.test_engine_limits import (
    test_a_failure_that_nobody_foresaw_is_an_event_and_the_engine_goes_on,
    test_an_impossible_prompt_is_refused,
    test_the_context_can_be_filled_to_its_last_token,
    test_what_does_not_fit_the_context_is_refused_with_what_would,
)
from tests.integration.engine.test_engine_text import (
    test_a_stop_string_ends_the_answer_before_itself,
    test_the_text_of_a_chat_is_that_of_transformers,
    test_usage_counts_the_tokens,
)
from tests.integration.engine.test_proving import (
    test_a_proof_leaves_the_answers_of_others_as_they_were,
    test_an_adapter_that_overflows_is_not_proved,
    test_an_engine_that_is_full_says_nothing_of_the_adapter,
    test_another_adapter_is_not_proved,
    test_bfloat16_in_the_trainer_is_within_what_the_bases_explain,
    test_the_adapter_that_was_trained_is_proved,
)
from tests.integration.engine.vllm_server import Server
from tests.integration.engine.vllms import PROGRAM, engine_at, real, recorded
from tests.support.serial_engine import SerialEngine
from worker.inference.engine import Ended, Token
from worker.inference.vllm.engine import VllmEngine

MODELS = ("base", "small", "wide")


@pytest.fixture(scope="module")
def served_model(proved_model: ServedModel) -> ServedModel:
    return proved_model


@pytest.fixture(scope="module", params=["recorded", "real"])
def url(request: pytest.FixtureRequest, served_model: ServedModel, vllm_answering: SerialEngine) -> Iterator[str]:
    if request.param == "real" and PROGRAM is None:
        pytest.skip("TEST_VLLM names no vLLM")
    base = served_model.base
    with recorded(Server(base, vllm_answering)) if request.param == "recorded" else real(base.folder) as url:
        yield url


@pytest.fixture(scope="module")
def make_engine(url: str) -> Iterator[Callable[..., VllmEngine]]:
    with ExitStack() as made:
        yield lambda **options: made.enter_context(engine_at(url, **options))


@pytest.fixture(scope="module")
def engine(make_engine: Callable[..., VllmEngine]) -> VllmEngine:
    return make_engine()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_greedy_answer_is_that_of_generate(
    engine: VllmEngine, served_model: ServedModel, model: str, use_cache: bool
) -> None:
    answer = tokens_of(engine, a_request(served_model, model, use_cache=use_cache))

    assert answer == reference(served_model.base, served_model.adapter(model), PROMPT, 12)


def test_interleaved_requests_of_many_threads_are_never_mixed_up(engine: VllmEngine, served_model: ServedModel) -> None:
    prompts = [(1, 87 + n, 85, 201) for n in range(4)]
    asked = [(model, prompt) for prompt in prompts for model in MODELS] * 2

    with ThreadPoolExecutor(16) as threads:
        requests = [a_request(served_model, model, prompt=prompt) for model, prompt in asked]
        answers = list(threads.map(lambda request: tokens_of(engine, request), requests))

    assert answers == [reference(served_model.base, served_model.adapter(model), prompt, 12) for model, prompt in asked]


@pytest.mark.parametrize("next_model", MODELS)
def test_a_reader_who_leaves_leaves_no_adapter_behind(
    engine: VllmEngine, served_model: ServedModel, next_model: str
) -> None:
    async def leave_early() -> None:
        async with aclosing(engine.generate(a_request(served_model, "wide", max_new_tokens=500))) as events:
            assert isinstance(await anext(events), Token)

    asyncio.run(leave_early())

    expected = reference(served_model.base, served_model.adapter(next_model), PROMPT, 12)
    assert tokens_of(engine, a_request(served_model, next_model)) == expected


EXTREME: list[dict[str, Any]] = [
    {"temperature": 0.01},
    {"temperature": 2.0},
    {"temperature": 1.0, "top_k": 1_000_000},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_p": 5e-324},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.0, "repetition_penalty": 5e-324},
    {"temperature": 1.0, "seed": 2**63 - 1},
    {"logit_bias": {5: 100.0, 6: -100.0}},
    {"presence_penalty": 2.0, "frequency_penalty": -2.0},
    {"ignore_eos": True, "min_tokens": 4},
    {"max_new_tokens": 1},
]


@pytest.mark.parametrize("fields", EXTREME, ids=str)
def test_extreme_sampling_is_answered(engine: VllmEngine, served_model: ServedModel, fields: dict[str, Any]) -> None:
    events = events_of(engine, a_request(served_model, **{"max_new_tokens": 4, **fields}))

    assert isinstance(events[-1], Ended)
