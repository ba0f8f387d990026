"""Answers of random models that are JSON of the schema that was asked for, and nothing of it in their neighbours."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from app.contracts.answers import JsonSchema, PlainFormat, SchemaFormat
from app.contracts.generation import Finish
from tests.integration.engine.model_caches import ServedModel, reference
from tests.integration.engine.requests import PROMPT, a_request, an_order, answers_of, error_of, text_of, tokens_of
from tests.support.serial_engine import SerialEngine
from tests.tiers import examples
from worker.inference.text.grammar import GrammarMaker
from worker.inference.text.language import load_language

KIND = {"type": "object", "properties": {"kind": {"enum": ["a", "bé"]}}, "required": ["kind"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["count", "word", "parts", "is_done"],
    "properties": {
        "count": {"type": "integer", "minimum": -3, "maximum": 40},
        "word": {"type": "string", "minLength": 1, "maxLength": 6},
        "parts": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/kind"}},
        "is_done": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "$defs": {"kind": KIND},
}


def a_schema(definition: dict[str, Any]) -> SchemaFormat:
    return SchemaFormat(type="json_schema", json_schema=JsonSchema.model_validate({"schema": definition}))


def is_kept(answer: Any) -> bool:
    """Whether an answer is of SCHEMA, checked by hand."""
    return (
        answer.keys() == {"count", "word", "parts", "is_done"}
        and isinstance(answer["count"], int)
        and -3 <= answer["count"] <= 40
        and 1 <= len(answer["word"]) <= 6
        and len(answer["parts"]) <= 2
        and all(part["kind"] in ("a", "bé") for part in answer["parts"])
        and (answer["is_done"] is None or isinstance(answer["is_done"], bool))
    )


@pytest.mark.parametrize("adapter", ["base", "wide"])
def test_every_answer_is_of_the_schema(engine: SerialEngine, served_model: ServedModel, adapter: str) -> None:
    for seed in range(examples(12)):
        order = an_order(
            served_model,
            adapter=served_model.ref(adapter),
            response_format=a_schema(SCHEMA),
            temperature=1.5,
            seed=seed,
            max_new_tokens=400,
        )
        events = answers_of(engine, order)

        assert isinstance(events[-1], Finish)
        assert events[-1].reason == "stop"
        assert is_kept(json.loads(text_of(events))), text_of(events)


def test_a_json_object_is_one(engine: SerialEngine, served_model: ServedModel) -> None:
    order = an_order(
        served_model, response_format=PlainFormat(type="json_object"), max_new_tokens=400, temperature=1.0, seed=3
    )

    events = answers_of(engine, order)

    assert text_of(events).lstrip().startswith("{")
    assert isinstance(events[-1], Finish)
    if events[-1].reason == "stop":
        assert isinstance(json.loads(text_of(events)), dict)


def test_a_limit_cuts_a_format_and_says_so(engine: SerialEngine, served_model: ServedModel) -> None:
    events = answers_of(engine, an_order(served_model, response_format=a_schema(SCHEMA), max_new_tokens=3))

    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "length"


def test_a_stop_string_ends_a_format_before_itself(engine: SerialEngine, served_model: ServedModel) -> None:
    order = an_order(served_model, response_format=a_schema(SCHEMA), stop=('"word"',), max_new_tokens=400)

    events = answers_of(engine, order)

    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "stop"
    assert list(json.loads(text_of(events).rstrip(" ,\n") + "}")) == ["count"]


def test_a_format_binds_its_own_answer_only(engine: SerialEngine, served_model: ServedModel) -> None:
    bound = an_order(served_model, response_format=a_schema(SCHEMA), max_new_tokens=60, temperature=1.0, seed=1)

    with ThreadPoolExecutor(4) as threads:
        formats = [threads.submit(answers_of, engine, bound) for _ in range(3)]
        free = [threads.submit(tokens_of, engine, a_request(served_model)) for _ in range(3)]

    assert [each.result() for each in free] == [reference(served_model.base, None, PROMPT, 12)] * 3
    assert len({text_of(each.result()) for each in formats}) == 1


def test_more_scores_than_tokens_leave_the_rest_out(served_model: ServedModel) -> None:
    language = load_language(served_model.base.folder)
    grammar = asyncio.run(language.grammars.grammar_of(a_schema({"type": "integer"})))
    assert grammar is not None

    for size in (language.vocabulary + 64, language.vocabulary, language.vocabulary - 8):
        scores = grammar.begin().restrict(torch.zeros(1, size))

        allowed = {language.write([token]) for token in torch.isfinite(scores)[0].nonzero().flatten().tolist()}
        assert scores.shape == (1, size)
        assert allowed <= {"-", *(str(digit) for digit in range(10))}
        assert "7" in allowed


IMPOSSIBLE: list[dict[str, Any]] = [
    {"$ref": "#/$defs/nowhere"},
    {"type": "integer", "minimum": 5, "maximum": 3},
]


@pytest.mark.parametrize("definition", IMPOSSIBLE, ids=str)
def test_a_schema_that_cannot_be_compiled_is_refused(
    engine: SerialEngine, served_model: ServedModel, definition: dict[str, Any]
) -> None:
    error = error_of(answers_of(engine, an_order(served_model, response_format=a_schema(definition))))

    assert (error.status, error.code, error.param) == (422, "response_format_not_possible", "response_format")


def test_a_schema_that_nothing_satisfies_is_an_answer_of_4xx(engine: SerialEngine, served_model: ServedModel) -> None:
    error = error_of(answers_of(engine, an_order(served_model, response_format=a_schema({"$ref": "#"}))))

    assert (error.status, error.param) == (422, "response_format")
    assert tokens_of(engine, a_request(served_model)) == reference(served_model.base, None, PROMPT, 12)


def test_a_model_without_an_end_has_no_formats(served_model: ServedModel) -> None:
    maker = GrammarMaker(load_language(served_model.base.folder).renderer.tokenizer, frozenset())

    with pytest.raises(Exception, match="without an end token"):
        asyncio.run(maker.grammar_of(PlainFormat(type="json_object")))


@pytest.mark.parametrize("field", ["stop_token_ids", "logit_bias", "prompt_token_ids"])
def test_tokens_that_the_tokenizer_lacks_are_refused_by_their_field(
    engine: SerialEngine, served_model: ServedModel, field: str
) -> None:
    value: Any = {99_999: 1.0} if field == "logit_bias" else [99_999]
    input_of = {"prompt": None} if field == "prompt_token_ids" else {}

    error = error_of(answers_of(engine, an_order(served_model, **input_of, **{field: value})))

    assert (error.status, error.code) == (422, "unknown_token")
    assert error.param == ("prompt_token_ids" if field == "prompt_token_ids" else field)
