"""Turns pydantic's errors into the service's: the field, what was found, what was expected, the nearest known name."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from app.contracts.methods import owner_of
from app.contracts.spec import Column
from app.errors import LONGEST_QUOTE, InvalidRequest, Problem

SECRETS = ("token", "secret", "password", "api_key")
NAMED = 'store it with PUT /secrets/hf, and name it: model.token "secret://hf"'
# What was found in a field for a secret may be one.
NOT_REPEATED = {"secret_reference": "another value", "secret_value": "another value"}
OBJECTS = {"model_type", "model_attributes_type", "dict_type"}
# Fields whose error paths contain the chosen member of a union.
TRAINING = ("training",)
TAGGED: tuple[tuple[str, ...], ...] = (
    ("dataset", "source"),
    ("dataset", "eval_source"),
    TRAINING,
    ("response_format",),
)
# OpenAI's fields that this service does not have, and the field to use instead, where the nearest name would mislead.
NOT_SUPPORTED: dict[str, str | None] = {
    "functions": "tools",
    "function_call": "tool_choice",
    "audio": None,
    "prediction": None,
    "suffix": None,
    "web_search_options": None,
}
# The parts of pydantic's messages before and after what was expected.
BEFORE_EXPECTED = re.compile(r"^(?:[A-Z][a-z]+ )?should (?:be |have )?")
AFTER_EXPECTED = re.compile(r"(?: after validation, not \w+|, (?:got|unable to parse) .*)$")
OTHERWISE = {"int_parsing_size": "a smaller whole number"}
NO_FILE = "Expected UploadFile"
# The last part of pydantic's path if the key of a dict is wrong.
KEY_IS_WRONG = "[key]"
COLUMNS = ["dataset", "columns"]
COLUMNS_RULE = 'columns maps part -> column, such as {"prompt": "question", "completion": "answer"}'


def invalid_request(errors: Sequence[dict[str, Any]], body: type[BaseModel], sent: Any = None) -> InvalidRequest:
    """Make one error of all that is wrong with a request.

    `body` is the model whose field names are suggested. `sent` is the request itself, used only for suggestions.
    """
    return InvalidRequest.of([_problem(error, body, sent) for error in errors])


def _problem(error: dict[str, Any], body: type[BaseModel], sent: Any) -> Problem:
    place = _path(error["loc"])
    # A rule of our own may have a path inside the value that pydantic names.
    inner = [name for name in error.get("ctx", {}).get("path", "").split(".") if name]
    path = [*place, *inner]
    field = ".".join(path) or "body"
    if error["type"] == "extra_forbidden":
        expected = _instead(path, body)
        if path[-1].lower().endswith(SECRETS) and isinstance(error.get("input"), str):
            expected = f"no secret: {NAMED}"
        # The value of an unknown key may be a secret in the wrong place, so it is not shown.
        return Problem(field=field, code="unknown_field", found=f"the key {path[-1]!r}", expected=expected)
    if error["type"] == "json_invalid":
        return Problem(field="body", code="invalid_json", found="no JSON", expected=_reason(error))
    if path[-1:] == [KEY_IS_WRONG]:
        return _wrong_key(path[:-1], error, sent)
    if error["type"] == "training_method":
        path, field = [*path, "method"], "training.method"
        error = {**error, "input": _at(error.get("input"), ["method"])}
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(path, error)
    if error["type"] == "value_error":
        return _broken_rule(path, error)
    value = _at(error.get("input"), inner)
    # Broken text is not shown, because it may be a secret in the wrong place.
    unquoted = {"missing": "nothing", "broken_text": "a NUL, or half a character", **NOT_REPEATED}
    is_whole_body = not path and error["type"] in OBJECTS  # which may hold a secret, without its content type
    found = "no object" if is_whole_body else unquoted.get(error["type"]) or quote(value)
    return Problem(field=field, code=error["type"], found=found, expected=_reason(error))


def _instead(path: list[str], body: type[BaseModel]) -> str:
    """Return what was expected instead of a field that does not exist."""
    if path[-1] in NOT_SUPPORTED:
        instead = NOT_SUPPORTED[path[-1]]
        return f"{instead} instead" if instead else "none: it is not supported here"
    method = owner_of(path[-1]) if path[:-1] == ["training"] else None
    if method is not None:
        return f"no such field: it is an argument of training.method {method!r}"
    known = nearest(path, body)
    return f"no such field; did you mean {known}?" if known else "no such field"


def _wrong_key(path: list[str], error: dict[str, Any], sent: Any) -> Problem:
    expected = _reason(error)
    if path[:-1] == COLUMNS:
        expected = f"{expected}: {COLUMNS_RULE}{_turned(_at(sent, COLUMNS))}"
    found = f"the key {quote(error.get('input'))}"
    return Problem(field=".".join(path), code=error["type"], found=found, expected=expected)


def _wrong_tag(path: list[str], error: dict[str, Any]) -> Problem:
    """Return the problem of a field that says which of several forms an object has."""
    context = error["ctx"]
    field = ".".join([*path, context["discriminator"].strip("'")])
    if "tag" not in context:
        return Problem(field=field, code="missing", found="nothing", expected="a value: this field is required")
    expected = f"one of {context['expected_tags']}"
    return Problem(field=field, code=error["type"], found=quote(context["tag"]), expected=expected)


def _turned(columns: Any) -> str:
    """Suggest the reversed mapping if the request maps columns to parts."""
    is_mapping = isinstance(columns, dict) and all(isinstance(part, str) for part in columns.values())
    turned = {part: column for column, part in columns.items()} if is_mapping else {}
    return f"; did you mean {json.dumps(turned)}?" if turned and turned.keys() <= set(get_args(Column)) else ""


def _broken_rule(path: list[str], error: dict[str, Any]) -> Problem:
    """Return the problem of a rule over several fields, whose message is `name should …` with one field's name."""
    rule, found = error["msg"].removeprefix("Value error, "), error.get("input")
    name, _, rest = rule.partition(" ")
    if rest.startswith("should "):
        path, found, rule = [*path, *name.split(".")], _at(found, name.split(".")), rest
    shown = "nothing" if found is None else quote(found)
    return Problem(field=".".join(path) or "body", code=error["type"], found=shown, expected=expectation(rule))


def _at(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _path(loc: Sequence[str | int]) -> list[str]:
    parts = [str(part)[:LONGEST_QUOTE] for part in loc]
    parts = parts[1:] if parts and parts[0] in ("body", "query", "path", "header") else parts
    tagged = next((each for each in TAGGED if tuple(parts[: len(each)]) == each), ())
    if tagged and len(parts) > len(tagged) + (tagged != TRAINING):
        return [*tagged, *parts[len(tagged) + 1 :]]
    return parts


def _reason(error: dict[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"a JSON body ({error.get('ctx', {}).get('error', 'cannot be read')})"
    if error["type"] == "missing":
        return "a value: this field is required"
    if error["type"] in OBJECTS:
        is_raw = isinstance(error.get("input"), bytes)
        return "a JSON object, sent with the header content-type: application/json" if is_raw else "an object"
    if error["type"] in OTHERWISE:
        return OTHERWISE[error["type"]]
    return expectation(error["msg"].removeprefix("Value error, "))


def expectation(rule: str) -> str:
    """Return a rule in the form that follows "expected": `should be at most 3` becomes `at most 3`."""
    if rule.startswith(NO_FILE):
        return "a file: a part of multipart/form-data with a filename"
    if rule.startswith("should be left out"):
        return rule.replace("should be left out", "nothing", 1)
    reason = AFTER_EXPECTED.sub("", BEFORE_EXPECTED.sub("", rule))
    reason = reason.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return f"to {reason}" if reason.startswith("match ") else reason


def quote(value: Any) -> str:
    """Return what was found in a short form. Of an object or a list only the type and the size are shown."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}… ({len(text)} characters)"


def nearest(path: Sequence[str], body: type[BaseModel]) -> str | None:
    """Return the known field whose name is closest to an unknown one, such as `lora.r` for `lora_r`."""
    names = _known_names(body)
    wanted = path[-1].replace("-", "_").lower()
    inside = {leaf: full for leaf, full in names.items() if full.startswith(".".join(path[:-1]))}
    for candidates in (inside, names):
        match = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.6)
        if match:
            return candidates[match[0]]
    return None


def _known_names(body: type[BaseModel]) -> dict[str, str]:
    names: dict[str, str] = {}
    for path in _leaves(body, ()):
        names.setdefault(path[-1], ".".join(path))
        names["_".join(path)] = ".".join(path)
    return names


def _leaves(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        for member in (field.annotation, *map(_unannotated, get_args(field.annotation))):
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from _leaves(member, (*prefix, name))


def _unannotated(member: Any) -> Any:
    """Return the type of a member of a union, which may be an `Annotated` one."""
    return get_args(member)[0] if hasattr(member, "__metadata__") else member
