"""What users brought to fine-tuning services, in files of our own: the job that reads one, and what must come of it.

The ids are those of the user reports; a letter behind one tells variants apart.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.stack import MODEL

Place = tuple[int | None, int | None, str | None]


@dataclass(frozen=True)
class Case:
    """A file and the job that reads it."""

    id: str
    content: bytes
    filename: str = "rows.jsonl"
    model: str = MODEL
    max_seq_length: int = 512
    dataset: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def spec(self, file_id: str) -> dict[str, Any]:
        return {
            "model": {"model_name": self.model, "max_seq_length": self.max_seq_length, "load_in_4bit": False},
            "dataset": {"source": {"file": file_id}, **self.dataset},
            "training": {"max_steps": 1, **self.training},
        }


@dataclass(frozen=True)
class Accepted(Case):
    """`learned`: the decoded spans with loss, row by row. `holds` and `lacks`: texts that some, or no, row has.

    `reported`: codes of fixes, warnings, findings and reasons to leave out, with the records that they name.
    `told`: texts that the report has.
    """

    learned: Sequence[Sequence[str]] = ()
    holds: Sequence[str] = ()
    lacks: Sequence[str] = ()
    reported: Mapping[str, Sequence[int]] = field(default_factory=dict)
    told: Sequence[str] = ()


@dataclass(frozen=True)
class Refused(Case):
    """`places` are (record, line, field) of all that is named; `says` are texts that the answer has."""

    code: str = ""
    places: Sequence[Place] = ()
    says: Sequence[str] = ()


@dataclass(frozen=True)
class FailedCheck(Refused):
    """Only the model's tokenizer and template can tell: the job fails while it is validating."""

    param: str = "dataset.source"


def lines(*rows: Any, ascii_only: bool = False) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def said(*turns: str, **columns: Any) -> dict[str, Any]:
    """A row of OpenAI messages, from turns such as `user: Hi`."""
    return {"messages": [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns], **columns}


def shared(*turns: str, **columns: Any) -> dict[str, Any]:
    """A row of ShareGPT, from turns such as `human: Hi`."""
    parts = [dict(zip(("from", "value"), turn.split(": ", 1), strict=True)) for turn in turns]
    return {"conversations": parts, **columns}


def a_tool(name: str) -> dict[str, Any]:
    known = {"type": "object", "properties": {"planet": {"type": "string"}}}
    return {"name": name, "description": "Counts moons", "parameters": known}


def a_bomb() -> bytes:
    """Some 30 KB that unpack to 30 MiB."""
    return gzip.compress(b'{"text": "' + b"0" * (30 * 2**20) + b'"}\n', 9)
