"""Small datasets: written down, normalised, or refused."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.contracts.records import ChatRecord, Record
from app.contracts.spec import DatasetSpec
from app.datasets.check import DataReport, Place, normalise_file
from app.errors import InvalidDataset

LIMIT = 2**20


def a_dataset(**fields: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"source": {"file": f"file-{'a' * 24}"}, **fields})


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(*rows: dict[str, Any]) -> bytes:
    """A row group for every row."""
    return parquet_of(pa.Table.from_pylist(list(rows)), row_group_size=1)


def parquet_of(table: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def sharegpt(*turns: tuple[str, Any], **columns: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **columns}


def normalised(
    folder: Path, content: bytes, name: str = "rows.jsonl", limit: int = LIMIT, **fields: Any
) -> tuple[DataReport, list[Record]]:
    path, records = folder / "upload", list[Record]()
    path.write_bytes(content)

    def keep(record: Record, place: Place) -> None:
        records.append(record)

    report = normalise_file(path, a_dataset(**fields), filename=name, max_unpacked_bytes=limit, sink=keep)
    return report, records


def refused(
    folder: Path, content: bytes, name: str = "rows.jsonl", limit: int = LIMIT, **fields: Any
) -> InvalidDataset:
    with pytest.raises(InvalidDataset) as refusal:
        normalised(folder, content, name, limit, **fields)
    return refusal.value


def turns(record: Record) -> list[tuple[str, str]]:
    assert isinstance(record, ChatRecord)
    return [(message.role, message.content) for message in record.messages]


CALL = {"name": "get_weather", "arguments": {"city": "Lisbon"}}
ASKED = chat(("user", "Weather?"))["messages"][0]


def called(arguments: Any) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]}


def first_chat(folder: Path, *rows: Any, **fields: Any) -> ChatRecord:
    record = normalised(folder, lines(*rows), **fields)[1][0]
    assert isinstance(record, ChatRecord)
    return record
