"""JSON schemas that can be enforced exactly. A keyword that would be enforced only in part is refused by name.

The keywords here are those that xgrammar 0.2 enforces; it silently ignores others. `pattern` is not one of them: it
allows a quote inside a string, and a short ambiguous one costs half a second for every token.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from app.contracts.compile_cost import MAX_ALTERNATIVES, MAX_COMPILE_COST, alternatives_of, compile_cost_of

# Within these bounds a schema usually compiles within seconds and megabytes; the engine stops the others.
MAX_CHARACTERS = 32_768
MAX_DEPTH = 32
MAX_PROPERTIES = 256
MAX_REPEATS = 10_000

TYPES = {"string", "integer", "number", "boolean", "null", "object", "array"}
COMMENTS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"}
COMMENTS |= {"$schema", "$id", "$comment", "$defs", "definitions"}
# A schema with one of these keywords may only have comments as well, and `type` with `enum` or `const`.
ALONE = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
OF_STRINGS = {"format", "minLength", "maxLength"}
OF_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
OF_OBJECTS = {"properties", "required", "additionalProperties"}
OF_ARRAYS = {"items", "prefixItems", "minItems", "maxItems"}
KNOWN = COMMENTS | set(ALONE) | OF_STRINGS | OF_NUMBERS | OF_OBJECTS | OF_ARRAYS | {"type"}
OWNERS = {"string": OF_STRINGS, "integer": OF_NUMBERS, "number": OF_NUMBERS, "object": OF_OBJECTS, "array": OF_ARRAYS}
# Only the shape of these is enforced, not the calendar: the 31st of April is accepted.
FORMATS = ("date", "time", "date-time", "uuid", "uri")
MAPPINGS = ("properties", "$defs", "definitions")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLES = ("items", "additionalProperties")
SIZES = ("minLength", "maxLength", "minItems", "maxItems")


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema. Raises ValueError with the place and the keyword that cannot be enforced."""
    try:
        _check(schema)
    except ValueError as error:
        raise ValueError(f"should be a schema that can be kept: {error}") from None
    return schema


def _check(schema: dict[str, Any]) -> None:
    if depth(schema, MAX_DEPTH) > MAX_DEPTH:
        raise ValueError(f"nested at most {MAX_DEPTH} deep")
    if len(json.dumps(schema)) > MAX_CHARACTERS:
        raise ValueError(f"with at most {MAX_CHARACTERS} characters")
    properties = 0
    for place, part in _parts(schema, ""):
        _check_part(place, part)
        properties += len(part["properties"]) if isinstance(part.get("properties"), dict) else 0
    if properties > MAX_PROPERTIES:
        raise ValueError(f"with at most {MAX_PROPERTIES} properties, not {properties}")
    found = compile_cost(schema)
    if found > MAX_COMPILE_COST:
        raise ValueError(
            f"this one takes too long to prepare ({found} steps, at most {MAX_COMPILE_COST}): give strings fewer "
            "different lengths, numbers fewer ranges, and set additionalProperties to false"
        )
    alternatives = alternatives_of(part for _, part in _parts(schema, ""))
    if alternatives > MAX_ALTERNATIVES:
        raise ValueError(
            f"with at most {MAX_ALTERNATIVES} alternatives of one type in anyOf and oneOf, not {alternatives}"
        )


def compile_cost(schema: dict[str, Any]) -> int:
    """Return how long a checked schema takes to compile, in steps of `app.contracts.compile_cost`."""
    return compile_cost_of(part for _, part in _parts(schema, ""))


def depth(value: Any, limit: int) -> int:
    """Return how deep containers are nested, counted up to one more than the limit."""
    found, level = 0, [value]
    while found <= limit:
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not inner:
            return found
        found, level = found + 1, [each for items in inner for each in items]
    return found


def _parts(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schema and every schema inside it, with its place."""
    if isinstance(schema, bool) and place.endswith("additionalProperties"):
        return
    if not isinstance(schema, dict):
        raise ValueError(f"{place or 'it'} should be a schema: an object")
    yield place, schema
    at = f"{place}." if place else ""
    for name, inner in _inner(schema, at):
        yield from _parts(inner, f"{at}{name}"[:200])


def _inner(schema: dict[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """Yield the direct subschemas of a schema, by name."""
    for name in MAPPINGS:
        if not isinstance(schema.get(name, {}), dict):
            raise ValueError(f"{at}{name} should be an object of schemas")
        yield from ((f"{name}.{key}", value) for key, value in schema.get(name, {}).items())
    for name in LISTS:
        if not isinstance(schema.get(name, []), list):
            raise ValueError(f"{at}{name} should be a list of schemas")
        yield from ((f"{name}.{index}", value) for index, value in enumerate(schema.get(name, [])))
    yield from ((name, schema[name]) for name in SINGLES if name in schema)


def _check_part(place: str, part: dict[str, Any]) -> None:
    at = f"{place}: " if place else ""
    unknown = next((word for word in part if word not in KNOWN), None)
    if unknown is not None:
        raise ValueError(f"{at}{unknown[:100]!r} cannot be kept by a response format: leave it out")
    for word in ALONE:
        if word in part:
            _check_alone(at, word, part)
            return
    _check_type(at, part)
    _check_sizes(at, part)
    _check_names(at, part)


def _check_alone(at: str, word: str, part: dict[str, Any]) -> None:
    allowed = COMMENTS | {word} | ({"type"} if word in ("enum", "const") else set())
    beside = next((other for other in part if other not in allowed), None)
    if beside is not None:
        raise ValueError(f"{at}{beside!r} cannot be kept beside {word!r}")
    if word == "allOf" and len(part[word]) != 1:
        raise ValueError(f"{at}'allOf' of several schemas cannot be kept: write them as one")
    if word == "oneOf" and "discriminator" not in part:
        raise ValueError(f"{at}'oneOf' cannot be kept without a discriminator: use 'anyOf'")
    if word == "$ref" and not re.fullmatch(r"#(/.*)?", str(part[word])):
        raise ValueError(f"{at}'$ref' should lead to a place of this schema, such as '#/$defs/item'")
    values = part["enum"] if word == "enum" else [part["const"]] if word == "const" else []
    if "type" in part and not all(_is_of(value, part["type"]) for value in values):
        raise ValueError(f"{at}{word!r} has a value that is no {part['type']}")


def _is_of(value: Any, kind: Any) -> bool:
    kinds = kind if isinstance(kind, list) else [kind]
    python = {"string": str, "integer": int, "number": int | float, "null": type(None), "object": dict, "array": list}
    if isinstance(value, bool):
        return "boolean" in kinds
    return any(isinstance(value, python[each]) for each in kinds if each in python)


def _check_type(at: str, part: dict[str, Any]) -> None:
    kind = part.get("type")
    if isinstance(kind, list) or kind is None:
        kinds = kind or []
        beside = next((word for word in part if word not in COMMENTS | {"type"}), None)
        is_object = kind is None and "properties" in part and part.keys() <= COMMENTS | OF_OBJECTS
        if beside is not None and not is_object:
            raise ValueError(f"{at}{beside!r} cannot be kept without a single type: write the types as anyOf")
    else:
        kinds = [kind]
    unknown = next((each for each in kinds if not isinstance(each, str) or each not in TYPES), None)
    if unknown is not None:
        raise ValueError(f"{at}'type' should be one of {', '.join(sorted(TYPES))}")
    if isinstance(kind, str):
        stray = next((word for word in part if word not in COMMENTS | {"type"} | OWNERS.get(kind, set())), None)
        if stray is not None:
            raise ValueError(f"{at}{stray!r} says nothing about the type {kind!r}: leave it out")


def _check_names(at: str, part: dict[str, Any]) -> None:
    """Check `required` and `format`. xgrammar ignores required properties that are not described."""
    required = part.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError(f"{at}'required' should be a list of names")
    stray = next((name for name in required if name not in part.get("properties", {})), None)
    if stray is not None:
        raise ValueError(f"{at}'required' has {stray[:100]!r}, which should stand in 'properties' too")
    if part.get("format", FORMATS[0]) not in FORMATS:
        raise ValueError(f"{at}'format' should be one of {', '.join(FORMATS)}")


def _check_sizes(at: str, part: dict[str, Any]) -> None:
    for word in SIZES:
        size = part.get(word, 0)
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_REPEATS:
            raise ValueError(f"{at}{word!r} should be a whole number up to {MAX_REPEATS}")
    if "format" in part and {"minLength", "maxLength"} & part.keys():
        raise ValueError(f"{at}'format' cannot be kept beside a length")
