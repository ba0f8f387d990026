"""What of a request reaches vLLM."""

from dataclasses import replace
from typing import Any

import pytest

from app.contracts.generation import Sampling
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.requests import a_request
from worker.inference.vllm.translate import completion_body


class SamplingOfTomorrow(Sampling):
    typical_p: float = 1.0


def test_a_field_that_the_contract_gets_is_sent_under_its_own_name(served_model: ServedModel) -> None:
    request = replace(a_request(served_model), sampling=SamplingOfTomorrow(typical_p=0.5))

    assert completion_body(request, "base-0")["typical_p"] == 0.5


def test_no_field_of_the_contract_is_lost(served_model: ServedModel) -> None:
    body = completion_body(a_request(served_model), "base-0")

    # Sent as `max_tokens`, found in the text by the caller of the engine, and sent as `cache_salt`.
    assert Sampling.model_fields.keys() - body.keys() == {"max_new_tokens", "stop", "use_cache"}


TRANSLATED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_new_tokens": 7}, {"max_tokens": 7}),
    ({"top_p": 0.0}, {"top_p": 1e-6}),
    ({"logprobs": None}, {"logprobs": 0}),
    ({"logprobs": 3}, {"logprobs": 3}),
    ({"stop_token_ids": (9, 7)}, {"stop_token_ids": [3, 7, 9]}),
    ({"ignore_eos": True, "min_tokens": 4}, {"ignore_eos": True, "min_tokens": 0, "stop_token_ids": []}),
    ({"ignore_eos": True, "min_tokens": 4, "stop_token_ids": (9,)}, {"min_tokens": 4, "stop_token_ids": [9]}),
]


@pytest.mark.parametrize(("fields", "sent"), TRANSLATED, ids=str)
def test_what_vllm_takes_otherwise_is_translated(
    served_model: ServedModel, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    body = completion_body(a_request(served_model, eos_ids=frozenset({3}), **fields), "base-0")

    assert sent.items() <= body.items()


def test_an_answer_that_may_not_be_cached_has_a_salt_of_its_own(served_model: ServedModel) -> None:
    request = a_request(served_model, use_cache=False)
    salts = {completion_body(request, "base-0")["cache_salt"] for _ in range(2)}

    assert len(salts) == 2
    assert "cache_salt" not in completion_body(a_request(served_model), "base-0")
