"""A refusal names the field, what was found and what would be right."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.contracts.spec import JobSpec
from app.errors import InvalidRequest
from app.validation import invalid_request
from tests.unit.specs import a_body


def refusal_of(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate(body)
    return invalid_request(refused.value.errors(), JobSpec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "field", "nearest"),
    [
        ({"lora_r": 64}, "lora_r", "lora.r"),
        ({"learning_rate": 1}, "learning_rate", "training.learning_rate"),
        ({"training": {"learning-rate": 1e-5}}, "training.learning-rate", "training.learning_rate"),
        ({"training": {"num-epochs": 3}}, "training.num-epochs", "training.num_train_epochs"),
        ({"lora": {"alpha": 3}}, "lora.alpha", "lora.lora_alpha"),
        ({"model": {"model_name": "a/b", "max_length": 3}}, "model.max_length", "model.max_seq_length"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_known_one(body: dict[str, Any], field: str, nearest: str) -> None:
    problem = refusal_of({**a_body(), **body}).details[0]

    assert (problem.field, problem.code) == (field, "unknown_field")
    assert problem.expected is not None
    assert nearest in problem.expected


def test_the_value_of_an_unknown_key_is_never_echoed() -> None:
    refusal = refusal_of({**a_body(), "hf_token": "hf_CANARY"})

    assert "CANARY" not in str(refusal.body("r"))


def test_a_token_in_the_spec_is_answered_with_where_it_belongs() -> None:
    assert "HF_TOKEN" in str(refusal_of(a_body(model={"token": "hf_CANARY"})).details[0].expected)


def test_all_that_is_wrong_is_said_in_one_answer() -> None:
    refusal = refusal_of(a_body(lora={"r": 0, "bias": "x"}, training={"max_steps": -2}))

    assert [problem.field for problem in refusal.details] == ["lora.r", "lora.bias", "training.max_steps"]


def test_a_field_below_a_source_is_named_without_pydantics_tag() -> None:
    refusal = refusal_of(a_body(dataset={"source": {"file": "nope"}}))

    assert refusal.param == "dataset.source.file"
