"""A refusal names the field, what was found and what would be right."""

import ast
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from app.contracts.spec import JobSpec
from app.errors import InvalidRequest
from app.generate.schemas import GenerateRequest
from app.openai.schemas import ChatRequest, CompletionRequest
from app.web.validation import expectation, invalid_request
from tests import ROOT
from tests.support.sentences import reads_well
from tests.support.specs import a_body


def refusal_of(body: dict[str, Any], kind: type[BaseModel] = JobSpec) -> InvalidRequest:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(body)
    return invalid_request(refused.value.errors(), kind, body)  # type: ignore[arg-type]


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
    for body in (a_body(model={"hf_token": "hf_CANARY"}), {**a_body(), "token": "hf_CANARY"}):
        assert "PUT /secrets/hf" in str(refusal_of(body).details[0].expected)


@pytest.mark.parametrize(("name", "known"), [("max_new_token", "max_new_tokens"), ("min_token", "min_tokens")])
def test_a_number_of_tokens_is_not_taken_for_a_secret(name: str, known: str) -> None:
    (problem,) = refusal_of({"model": "org/model", "prompt": "x", name: 5}, GenerateRequest).details

    assert problem.expected == f"no such field; did you mean {known}?"


def test_all_that_is_wrong_is_said_in_one_answer() -> None:
    refusal = refusal_of(a_body(lora={"r": 0, "bias": "x"}, training={"max_steps": -2}))

    assert [problem.field for problem in refusal.details] == ["lora.r", "lora.bias", "training.max_steps"]


def test_a_field_below_a_source_is_named_without_pydantics_tag() -> None:
    refusal = refusal_of(a_body(dataset={"source": {"file": "nope"}}))

    assert refusal.param == "dataset.source.file"


@pytest.mark.parametrize(
    ("groups", "param", "found"),
    [
        ({"model": {"load_in_4bit": True, "load_in_8bit": True}}, "model.load_in_4bit", "True"),
        ({"model": {"load_in_8bit": True, "full_finetuning": True}}, "model.load_in_8bit", "True"),
        ({"model": {"chat_template": "nope"}}, "model.chat_template", "'nope'"),
        ({"dataset": {"instruction_part": "### Q"}}, "dataset.response_part", "nothing"),
        ({"dataset": {"response_part": "### A"}}, "dataset.instruction_part", "nothing"),
        (
            {"dataset": {"instruction_part": "Q", "response_part": "A", "train_on": "all"}},
            "dataset.instruction_part",
            "'Q'",
        ),
        ({"dataset": {"eval_source": {"path": "x"}, "eval_fraction": 0.1}}, "dataset.eval_source", "an object of 1"),
        ({"training": {"max_steps": 1, "num_train_epochs": 2}}, "training.max_steps", "1"),
        ({"training": {"fp16": True, "bf16": True}}, "training.fp16", "True"),
        ({"training": {"eval_steps": 5}}, "training.eval_steps", "5"),
        ({"training": {"eval_strategy": "epoch"}}, "training.eval_strategy", "'epoch'"),
        ({"training": {"eval_on_start": True}}, "training.eval_on_start", "True"),
        ({"training": {"load_best_model_at_end": True}}, "training.load_best_model_at_end", "True"),
        ({"training": {"save_strategy": "no", "save_steps": 5}}, "training.save_steps", "5"),
        (
            {"dataset": {"train_on": "all"}, "training": {"assistant_only_loss": True}},
            "training.assistant_only_loss",
            "True",
        ),
        ({"lora": {"rank_pattern": {"lm_head": 4}}}, "lora.rank_pattern.lm_head", "4"),
        ({"lora": {"alpha_pattern": {"qkv": 4}}}, "lora.alpha_pattern.qkv", "4"),
        ({"training": {"warmup_steps": 5, "warmup_ratio": 0.1}}, "training.warmup_steps", "5"),
        ({"training": {"lr_scheduler_kwargs": {"power": 2}}}, "training.lr_scheduler_kwargs.power", "2"),
        (
            {"dataset": {"instruction_part": "a", "response_part": "b"}, "training": {"method": "cpt"}},
            "dataset.response_part",
            "'b'",
        ),
        ({"model": {"load_in_4bit": True}, "lora": {"loftq_config": {}}}, "lora.loftq_config", "an object of 0"),
    ],
)
def test_a_rule_over_several_fields_names_one_of_them(groups: dict[str, Any], param: str, found: str) -> None:
    problem = refusal_of(a_body(**groups)).details[0]

    assert (problem.field, problem.found) == (param, found)
    assert str(problem.expected).startswith(("null", "false", "nothing", "a text"))


def test_a_mapping_the_wrong_way_round_is_answered_with_the_right_one() -> None:
    refusal = refusal_of(a_body(dataset={"columns": {"question": "prompt", "answer": "completion"}}))

    assert [problem.field for problem in refusal.details] == ["dataset.columns.question", "dataset.columns.answer"]
    assert str(refusal.details[0].expected).endswith('did you mean {"prompt": "question", "completion": "answer"}?')


@pytest.mark.parametrize("columns", [{"question": "ask"}, {"question": 7}, {"question": None, "prompt": "a"}])
def test_a_mapping_of_unknown_parts_is_answered_with_the_rule(columns: dict[str, Any]) -> None:
    expected = str(refusal_of(a_body(dataset={"columns": columns})).details[0].expected)

    assert "'prompt', 'completion'" in expected
    assert expected.endswith('columns maps part -> column, such as {"prompt": "question", "completion": "answer"}')


def test_a_wrong_key_is_named_without_pydantics_mark() -> None:
    refusal = refusal_of({**a_body(), "labels": {"": "x"}})

    assert (refusal.param, refusal.details[0].found) == ("labels.", "the key ''")


CHAT: dict[str, Any] = {"model": "org/model", "messages": [{"role": "user", "content": "x"}]}
SECRET = [{"role": "user", "content": "secret\0"}]
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}]
REFUSED: dict[type[BaseModel], list[tuple[dict[str, Any], str]]] = {
    GenerateRequest: [
        ({"messages": []}, "messages: found a list of 0, expected at least 1 item"),
        ({"model": None}, "body: found an object of 1, expected exactly one of adapter and model"),
        (
            {"response_format": {"type": "x"}},
            "response_format.type: found 'x', expected one of 'text', 'json_object', 'json_schema'",
        ),
        ({"response_format": {}}, "response_format.type: found nothing, expected a value: this field is required"),
        ({"max_tokens": 3, "max_new_tokens": 4}, "max_new_tokens: found 4, expected nothing beside max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs: found 2, expected logprobs: true beside it"),
        ({"adapter": "../x"}, "adapter: found '../x', expected to match pattern '^[A-Za-z0-9._@-]+$'"),
        (
            {"messages": SECRET},
            "messages.0.content: found a NUL, or half a character, expected text of whole characters, without NUL",
        ),
    ],
    ChatRequest: [
        (
            {"max_tokens": 2, "max_completion_tokens": 3},
            "max_tokens: found 2, expected nothing beside max_completion_tokens",
        ),
        ({"top_logprobs": 2}, "top_logprobs: found 2, expected nothing where logprobs is not true"),
        (
            {"messages": PARTS},
            "messages.0.content.1.type: found 'image_url', expected 'text': no other parts are read here",
        ),
        ({"reasoning_effort": "high"}, "reasoning_effort: found 'high', expected 'medium'"),
        ({"functions": []}, "functions: found the key 'functions', expected tools instead"),
        ({"prediction": {}}, "prediction: found the key 'prediction', expected none: it is not supported here"),
        ({"stop": ["x"] * 17}, "stop: found a list of 17, expected at most 16 items"),
        ({"n": "x"}, "n: found 'x', expected a valid integer"),
        ({"n": "9" * 5000}, f"n: found '{'9' * 199}… (5002 characters), expected a smaller whole number"),
    ],
    CompletionRequest: [
        ({"prompt": "x", "best_of": 3, "messages": None}, "best_of: found 3, expected n (1): all answers are returned"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [(kind, fields, message) for kind in REFUSED for fields, message in REFUSED[kind]],
    ids=lambda value: str(value)[:40],
)
def test_what_was_found_and_what_would_be_right_read_as_one_sentence(
    kind: type[BaseModel], fields: dict[str, Any], message: str
) -> None:
    body = {name: value for name, value in {**CHAT, **fields}.items() if value is not None}

    assert refusal_of(body, kind).message == message


REQUESTS = ("contracts/answers", "contracts/base", "contracts/chat", "contracts/continuing", "contracts/spec")


def rules() -> Iterator[str]:
    """What the validators of requests say, each value in it as `x`."""
    app = ROOT / "app"
    for name in (*REQUESTS, "generate/schemas", "openai/schemas"):
        for node in ast.walk(ast.parse((app / f"{name}.py").read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ValueError":
                parts = getattr(node.args[0], "values", node.args)
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts)


@pytest.mark.parametrize("rule", sorted(rule for rule in set(rules()) if " " in rule))
def test_every_rule_reads_well_behind_expected(rule: str) -> None:
    """It is `should …`, or `min_tokens should …` with the name of its field."""
    name, should, rest = rule.partition("should ")

    assert should
    assert " " not in name.rstrip()
    assert reads_well(expectation(should + rest))
