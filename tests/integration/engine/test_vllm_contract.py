"""What holds for every engine holds for vLLM: the recorded protocol always, the real server where TEST_VLLM is set."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from typing import Any

import pytest

from tests.integration.engine import test_engine_answers as answers
from tests.integration.engine import test_engine_bundles as bundles
from tests.integration.engine import test_engine_choosing as choosing
from tests.integration.engine import test_engine_formats as formats
from tests.integration.engine import test_engine_limits as limits
from tests.integration.engine import test_engine_text as text
from tests.integration.engine import test_proving as proving
from tests.integration.engine.asking import PROMPT, a_request, events_of, tokens_of
from tests.integration.engine.vllms import PROGRAM, a_server, engine_at, real, recorded
from tests.integration.engine.worlds import World, reference
from worker.inference.engine import Ended, Token
from worker.inference.vllm.engine import VllmEngine

test_a_seed_of_the_order_decides_and_not_the_company = answers.test_a_seed_of_the_order_decides_and_not_the_company
test_an_answer_without_an_end_token_is_cut = answers.test_an_answer_without_an_end_token_is_cut
test_an_end_token_ends_the_answer_and_is_counted = answers.test_an_end_token_ends_the_answer_and_is_counted
test_another_seed_gives_another_answer = answers.test_another_seed_gives_another_answer
test_one_seed_gives_one_answer = answers.test_one_seed_gives_one_answer
test_a_damaged_bundle_is_rejected = bundles.test_a_damaged_bundle_is_rejected
test_a_stop_token_ends_the_answer_and_is_not_told = choosing.test_a_stop_token_ends_the_answer_and_is_not_told
test_an_end_token_that_is_ignored_is_a_token_like_others = (
    choosing.test_an_end_token_that_is_ignored_is_a_token_like_others
)
test_log_probabilities_are_those_of_a_plain_forward = choosing.test_log_probabilities_are_those_of_a_plain_forward
test_a_format_binds_its_own_answer_only = formats.test_a_format_binds_its_own_answer_only
test_a_json_object_is_one = formats.test_a_json_object_is_one
test_a_limit_cuts_a_format_and_says_so = formats.test_a_limit_cuts_a_format_and_says_so
test_a_schema_that_cannot_be_compiled_is_refused = formats.test_a_schema_that_cannot_be_compiled_is_refused
test_every_answer_is_of_the_schema = formats.test_every_answer_is_of_the_schema
test_tokens_that_the_tokenizer_lacks_are_refused_by_their_field = (
    formats.test_tokens_that_the_tokenizer_lacks_are_refused_by_their_field
)
test_a_failure_that_nobody_foresaw_is_an_event_and_the_engine_goes_on = (
    limits.test_a_failure_that_nobody_foresaw_is_an_event_and_the_engine_goes_on
)
test_an_impossible_prompt_is_refused = limits.test_an_impossible_prompt_is_refused
test_the_context_can_be_filled_to_its_last_token = limits.test_the_context_can_be_filled_to_its_last_token
test_what_does_not_fit_the_context_is_refused_with_what_would = (
    limits.test_what_does_not_fit_the_context_is_refused_with_what_would
)
test_a_stop_string_ends_the_answer_before_itself = text.test_a_stop_string_ends_the_answer_before_itself
test_the_text_of_a_chat_is_that_of_transformers = text.test_the_text_of_a_chat_is_that_of_transformers
test_usage_counts_the_tokens = text.test_usage_counts_the_tokens
test_a_proof_leaves_the_answers_of_others_as_they_were = proving.test_a_proof_leaves_the_answers_of_others_as_they_were
test_an_adapter_that_overflows_is_not_proved = proving.test_an_adapter_that_overflows_is_not_proved
test_an_engine_that_is_full_says_nothing_of_the_adapter = (
    proving.test_an_engine_that_is_full_says_nothing_of_the_adapter
)
test_another_adapter_is_not_proved = proving.test_another_adapter_is_not_proved
test_bfloat16_in_the_trainer_is_within_what_the_bases_explain = (
    proving.test_bfloat16_in_the_trainer_is_within_what_the_bases_explain
)
test_the_adapter_that_was_trained_is_proved = proving.test_the_adapter_that_was_trained_is_proved

SPEAKERS = ("base", "small", "wide")


@pytest.fixture(scope="module")
def world(proved_world: World) -> World:
    return proved_world


@pytest.fixture(scope="module", params=["recorded", "real"])
def url(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    if request.param == "real" and PROGRAM is None:
        pytest.skip("TEST_VLLM names no vLLM")
    with recorded(a_server(world)) if request.param == "recorded" else real(world.base.folder) as url:
        yield url


@pytest.fixture(scope="module")
def make_engine(url: str) -> Iterator[Callable[..., VllmEngine]]:
    """A real server may be an old one: base and adapters are answered in turns then."""
    with ExitStack() as made:
        yield lambda **options: made.enter_context(engine_at(url, **{"allow_old": True, **options}))


@pytest.fixture(scope="module")
def engine(make_engine: Callable[..., VllmEngine]) -> VllmEngine:
    return make_engine()


@pytest.mark.parametrize("speaker", SPEAKERS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_greedy_answer_is_that_of_generate(engine: VllmEngine, world: World, speaker: str, use_cache: bool) -> None:
    answer = tokens_of(engine, a_request(world, speaker, use_cache=use_cache))

    assert answer == reference(world.base, world.adapter(speaker), PROMPT, 12)


def test_interleaved_requests_of_many_threads_are_never_mixed_up(engine: VllmEngine, world: World) -> None:
    prompts = [(1, 87 + n, 85, 201) for n in range(4)]
    asked = [(speaker, prompt) for prompt in prompts for speaker in SPEAKERS] * 5

    with ThreadPoolExecutor(16) as threads:
        requests = [a_request(world, speaker, prompt=prompt) for speaker, prompt in asked]
        answers = list(threads.map(lambda request: tokens_of(engine, request), requests))

    assert answers == [reference(world.base, world.adapter(speaker), prompt, 12) for speaker, prompt in asked]


@pytest.mark.parametrize("next_speaker", SPEAKERS)
def test_a_reader_who_leaves_leaves_no_adapter_behind(engine: VllmEngine, world: World, next_speaker: str) -> None:
    async def leave_early() -> None:
        async with aclosing(engine.generate(a_request(world, "wide", max_new_tokens=500))) as events:
            assert isinstance(await anext(events), Token)

    asyncio.run(leave_early())

    expected = reference(world.base, world.adapter(next_speaker), PROMPT, 12)
    assert tokens_of(engine, a_request(world, next_speaker)) == expected


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
def test_extreme_sampling_is_answered(engine: VllmEngine, world: World, fields: dict[str, Any]) -> None:
    events = events_of(engine, a_request(world, **{"max_new_tokens": 4, **fields}))

    assert isinstance(events[-1], Ended)
