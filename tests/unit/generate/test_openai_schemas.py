"""A schema that would be kept only in part is refused, with the word that would be lost."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from app.contracts.answers import JsonSchema
from app.contracts.schemas import MAX_DEPTH, check_schema, depth

COUNTED: dict[str, Any] = {"type": "string", "maxLength": 10}
LONG, LONGER = ({"type": "string", "maxLength": length} for length in (1000, 1001))
KEPT: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    {"type": ["string", "null"]},
    {"enum": ["a", 1, None]},
    {"const": "a", "type": "string"},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "x"},
    {"type": "object", "properties": {"pattern": {"type": "string"}}, "required": ["pattern"]},
    {"$defs": {"a": {"type": "integer", "minimum": 1}}, "$ref": "#/$defs/a"},
    {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
    {"type": "string", "format": "date-time"},
    {"properties": {f"p{n}": {"type": "string", "maxLength": 200} for n in range(200)}},
    {"type": "string", "maxLength": 10_000},
    {"properties": {f"p{n}": {"type": "integer", "minimum": n} for n in range(256)}},
    {"properties": {f"p{n}": {} for n in range(256)}},
    {"properties": {f"p{n}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for n in range(256)}},
    {"anyOf": [{"const": n} for n in range(500)]},
    {"oneOf": [{"type": "object"}], "discriminator": {"propertyName": "kind"}},
    {"properties": {"a": {"type": "integer"}}},
]
LOST: list[tuple[dict[str, Any], str]] = [
    ({"not": {"type": "string"}}, "'not' cannot be kept"),
    ({"type": "integer", "multipleOf": 7}, "'multipleOf' cannot be kept"),
    ({"type": "string", "pattern": "a+"}, "'pattern' cannot be kept"),
    (
        {"properties": {f"p{n}": {"type": "string", "maxLength": 100 + n} for n in range(9)}},
        "takes too long to prepare",
    ),
    ({"properties": {f"p{n}": {"type": "string", "format": "uri"} for n in range(255)} | {"q": COUNTED}}, "too long"),
    ({"properties": {f"p{n}": {} for n in range(250)}, "additionalProperties": LONG, "$defs": {"a": LONGER}}, "too l"),
    ({"anyOf": [{"type": "array", "minItems": n} for n in range(65)]}, "at most 64 alternatives of one type"),
    ({"type": "object", "properties": {"a": {"uniqueItems": True}}}, "properties.a: 'uniqueItems'"),
    ({"allOf": [{}, {}]}, "'allOf' of several"),
    ({"oneOf": [{}, {}]}, "'oneOf' cannot be kept without"),
    ({"$ref": "http://x/y"}, r"'\$ref' should lead to a place of this schema"),
    ({"anyOf": [{}], "type": "object"}, "'type' cannot be kept beside 'anyOf'"),
    ({"enum": ["a"], "type": "integer"}, "'enum' has a value that is no integer"),
    ({"type": "robot"}, "'type' should be one of"),
    ({"type": ["string", "null"], "maxLength": 3}, "'maxLength' cannot be kept without a single type"),
    ({"type": "string", "minimum": 3}, "'minimum' says nothing about the type 'string'"),
    ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "'required' has 'b'"),
    ({"type": "object", "required": "b"}, "'required' should be a list of names"),
    ({"minItems": 2}, "'minItems' cannot be kept without a single type"),
    ({"type": "string", "format": "email"}, "'format' should be one of"),
    ({"type": "string", "format": "uuid", "maxLength": 3}, "'format' cannot be kept beside a length"),
    ({"type": "string", "maxLength": 10**6}, "'maxLength' should be a whole number up to"),
    ({"type": "array", "minItems": -1}, "'minItems' should be a whole number"),
    ({"properties": {f"p{place}": {} for place in range(300)}}, "at most 256 properties"),
    ({"properties": []}, "properties should be an object of schemas"),
    ({"anyOf": {}}, "anyOf should be a list of schemas"),
    ({"type": "array", "items": True}, "items should be a schema"),
    ({"enum": ["x" * 40_000]}, "at most 32768 characters"),
]


@pytest.mark.parametrize("schema", KEPT, ids=str)
def test_what_can_be_kept_is_taken(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == schema


@pytest.mark.parametrize(("schema", "reason"), LOST, ids=lambda each: str(each)[:60])
def test_what_would_be_lost_is_refused_by_its_word(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_schema(schema)


def test_a_hundred_thousand_levels_are_counted_no_further_than_needed() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"anyOf": [deep]}

    assert depth(deep, MAX_DEPTH) == MAX_DEPTH + 1
    with pytest.raises(ValidationError, match="nested at most"):
        JsonSchema(schema=deep)  # type: ignore[call-arg]


class Item(BaseModel):
    name: str
    count: int | None = None


class Order(BaseModel):
    items: list[Item]
    note: str = ""


def test_the_schema_of_a_pydantic_model_is_taken() -> None:
    assert check_schema(Order.model_json_schema())


def test_a_schema_crosses_to_the_engine_as_it_came() -> None:
    sent = JsonSchema.model_validate({"name": "x", "schema": {"type": "object"}})

    assert JsonSchema.model_validate_json(sent.model_dump_json()) == sent
