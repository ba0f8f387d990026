"""The first good records of an upload, as a job with default settings reads them, shortened for storage."""

import json
from collections.abc import Iterator
from typing import Any

from app.contracts.base import Contract
from app.contracts.records import ChatRecord, CompletionRecord, Message, Record
from app.datasets.rows import Place

RECORDS_SHOWN = 3
CHARACTERS_SHOWN = 500
# Measured as ASCII JSON, which a database may store. Three records stay below 20 KB.
BYTES_PER_RECORD = 6500


class PreviewTurn(Contract):
    """One message. `trained`: whether it carries loss. Cut texts end in `… (12345 characters)`, their full length."""

    role: str
    content: str
    tool_calls: list[dict[str, Any]] | None = None
    trained: bool


class PreviewRecord(Contract):
    """One record. A pair has two turns, `prompt` and `completion`; raw text has one turn, `text`."""

    record: int
    line: int | None
    kind: str
    turns: list[PreviewTurn]
    turns_left_out: int


class Preview:
    """A sink for records that keeps the first few."""

    def __init__(self) -> None:
        self.records: list[PreviewRecord] = []

    def keep(self, record: Record, place: Place) -> None:
        if len(self.records) < RECORDS_SHOWN:
            self.records.append(_shown(record, place))


def _shown(record: Record, place: Place) -> PreviewRecord:
    turns, count, size = list[PreviewTurn](), 0, 0
    for turn in _turns(record):
        count += 1
        size += len(json.dumps(turn.model_dump()))
        if size <= BYTES_PER_RECORD:
            turns.append(turn)
    return PreviewRecord(
        record=place.number, line=place.line, kind=record.kind, turns=turns, turns_left_out=count - len(turns)
    )


def _turns(record: Record) -> Iterator[PreviewTurn]:
    match record:
        case ChatRecord():
            yield from (_turn(message) for message in record.messages)
        case CompletionRecord():
            yield PreviewTurn(role="prompt", content=_clip(record.prompt), trained=False)
            yield PreviewTurn(role="completion", content=_clip(record.completion), trained=True)
        case _:
            yield PreviewTurn(role="text", content=_clip(record.text), trained=True)


def _turn(message: Message) -> PreviewTurn:
    calls = [_call(call) for call in message.tool_calls] if message.tool_calls else None
    content = _clip(message.content)
    return PreviewTurn(role=message.role, content=content, tool_calls=calls, trained=message.carries_loss)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Returns the call. Long arguments are replaced by the beginning of their JSON text."""
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    if len(arguments) <= CHARACTERS_SHOWN:
        return call
    return {**call, "function": {**function, "arguments": _clip(arguments)}}


def _clip(text: str) -> str:
    return text if len(text) <= CHARACTERS_SHOWN else f"{text[:CHARACTERS_SHOWN]}… ({len(text)} characters)"
