"""Reads the answers of a service that may be older or newer than this command.

Fields that are not known here are ignored, and missing ones have their defaults. A missing field without a default, or
a value of another type, raises `UnreadableAnswer` with the name of the field.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from app.cli.errors import UnreadableAnswer

Answer = TypeVar("Answer", bound=BaseModel)
UNKNOWN = "unknown"
PING = "ping"


class JsonObject(dict[str, Any]):
    """An object of an answer."""

    def __missing__(self, name: str) -> NoReturn:
        raise UnreadableAnswer(f"{name} is missing")


def parse(text: str | bytes) -> Any:
    """Parse JSON. Raises `json.JSONDecodeError`."""
    return json.loads(text, object_hook=JsonObject)


def read_answer(model: type[Answer], answer: Any) -> Answer:
    """Read the answer as one of the service's response models.

    A value that only a newer version knows becomes `unknown` in `answer` itself, where the model has such a value.
    """
    try:
        return model.model_validate(answer, extra="ignore", by_name=True)
    except ValidationError as error:
        problems = error.errors()
        newer = [each["loc"] for each in problems if repr(UNKNOWN) in each.get("ctx", {}).get("expected", "")]
        if not newer:
            raise UnreadableAnswer(_describe(problems[0])) from error
    for place in newer:
        _replace(answer, place, UNKNOWN)
    return read_answer(model, answer)


def _describe(problem: Any) -> str:
    from app.web.validation import expectation, quote  # slow to import: it knows every field of a job

    place = ".".join(map(str, problem["loc"])) or "it"
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: found {quote(problem['input'])}, expected {expectation(problem['msg'])}"


def _replace(answer: Any, place: Sequence[int | str], value: str) -> None:
    for step in place[:-1]:
        answer = answer[step]
    answer[place[-1]] = value


def server_sent_events(chunks: Iterable[bytes]) -> Iterator[tuple[str, JsonObject]]:
    """Server-sent events with JSON data, as (event, data). A comment only shows that the service is there: it is PING.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    kind, data = "message", ""
    for line in _lines(chunks):
        name, _, value = line.partition(":")
        match name:
            case "" if line:
                yield PING, JsonObject()
            case "event":
                kind = value.removeprefix(" ")
            case "data":
                data += value.removeprefix(" ") + "\n"
            case "":
                if data:
                    yield kind, parse(data)
                kind, data = "message", ""


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines that end in LF or CRLF. (`str.splitlines` would also cut inside JSON, at U+2028.)"""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()
