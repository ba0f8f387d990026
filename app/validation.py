"""Turns pydantic's errors into the service's: the field, what was found, what would be right, the nearest name."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from app.errors import InvalidRequest, Problem

LONGEST_QUOTE = 200
SECRETS = ("token", "secret", "password", "api_key")
OBJECTS = {"model_type", "model_attributes_type", "dict_type"}
# Where pydantic puts the chosen member of a union into the path of an error.
TAGGED = (("dataset", "source"), ("dataset", "eval_source"))


def invalid_request(errors: Sequence[dict[str, Any]], body: type[BaseModel]) -> InvalidRequest:
    """One answer for all that is wrong with a request; `body` has the names that its fields could have had."""
    problems = [_problem(error, body) for error in errors]
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = f"{first.field}: found {first.found}, expected {first.expected}{more}"
    return InvalidRequest(message, param=first.field, details=problems)


def _problem(error: dict[str, Any], body: type[BaseModel]) -> Problem:
    path = _path(error["loc"]) or _path([error.get("ctx", {}).get("path", "body")])
    field = ".".join(path) or "body"
    if error["type"] == "extra_forbidden":
        known = nearest(path, body)
        expected = f"no such field; did you mean {known}?" if known else "no such field"
        if path[-1].lower().endswith(SECRETS):
            expected = "no secret: set HF_TOKEN in the environment of the workers and the engine"
        # The value of an unknown key may be a secret that landed in the wrong place: it is not echoed.
        return Problem(field=field, code="unknown_field", found=f"the key {path[-1]!r}", expected=expected)
    if error["type"] == "json_invalid":
        return Problem(field="body", code="invalid_json", found="no JSON", expected=_reason(error))
    found = "nothing" if error["type"] == "missing" else quote(error.get("input"))
    return Problem(field=field, code=error["type"], found=found, expected=_reason(error))


def _path(loc: Sequence[str | int]) -> list[str]:
    parts = [str(part)[:LONGEST_QUOTE] for part in loc]
    parts = parts[1:] if parts and parts[0] in ("body", "query", "path", "header") else parts
    if tuple(parts[:2]) in TAGGED and len(parts) > 3:
        return [*parts[:2], *parts[3:]]
    return parts


def _reason(error: dict[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"a JSON body ({error.get('ctx', {}).get('error', 'cannot be read')})"
    if error["type"] == "missing":
        return "a value: this field is required"
    if error["type"] in OBJECTS:
        is_raw = isinstance(error.get("input"), bytes)
        return "a JSON object, sent with the header content-type: application/json" if is_raw else "an object"
    reason: str = error["msg"].removeprefix("Value error, ")
    return re.sub(r"^(Input |String |List |Dictionary )?should (be )?", "", reason)


def quote(value: Any) -> str:
    """What was found, short enough to show: containers by their type and size only."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}… ({len(text)} characters)"


def nearest(path: Sequence[str], body: type[BaseModel]) -> str | None:
    """The known field whose name is closest to an unknown one: `lora_r` is `lora.r`."""
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
        for member in (field.annotation, *get_args(field.annotation)):
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from _leaves(member, (*prefix, name))
