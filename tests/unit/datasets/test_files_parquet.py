"""Parquet: every row group, in bounded memory, and what is no text in it is named or has no use."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.contracts.records import ChatRecord
from app.datasets.rows import LONGEST_RECORD
from tests.support.written_files import LIMIT, chat, lines, normalised, parquet, parquet_of, refused, turns

HI = [("user", "hi"), ("assistant", "hello")]
MEGABYTE = 2**20


def repeated(text: str, rows: int, **options: Any) -> bytes:
    """One text in a dictionary, and rows that only point at it."""
    indices = pa.array([0] * rows, pa.int32())
    table = pa.table({"text": pa.DictionaryArray.from_arrays(indices, pa.array([text]))})
    return parquet_of(table, dictionary_pagesize_limit=2**30, **options)


@contextmanager
def measured() -> Iterator[pa.MemoryPool]:
    """A pool of Arrow's memory that knows its peak from here on."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pool := pa.proxy_memory_pool(usual))
    yield pool
    pa.set_memory_pool(usual)


@pytest.mark.parametrize("store_schema", [True, False])
def test_a_text_that_a_dictionary_repeats_counts_every_time(tmp_path: Path, store_schema: bool) -> None:
    bomb = repeated("a" * MEGABYTE, 100_000, store_schema=store_schema)

    with measured() as pool:
        refusal = refused(tmp_path, bomb, limit=20 * MEGABYTE, on_bad_row="drop")

    assert len(bomb) < 2 * MEGABYTE
    assert [(problem.code, problem.found) for problem in refusal.details] == [
        ("unpacked_size", f"a size of more than {20 * MEGABYTE} bytes in 21 records")
    ]
    assert pool.max_memory() < 40 * MEGABYTE


@pytest.mark.parametrize(("limit", "found"), [(20 * MEGABYTE, "a size of"), (2**40, "compressed bytes")])
def test_pages_that_unpack_too_well_are_refused_before_they_do(tmp_path: Path, limit: int, found: str) -> None:
    bomb = parquet_of(pa.table({"text": ["a" * 24 * MEGABYTE]}), compression="zstd", use_dictionary=False)

    with measured() as pool:
        refusal = refused(tmp_path, bomb, limit=limit)

    assert found in str(refusal.details[0].found)
    assert pool.max_memory() < 2 * MEGABYTE


def test_every_row_group_is_read_in_order(tmp_path: Path) -> None:
    rows = [chat(("user", f"{number}?"), ("assistant", f"{number}!")) for number in range(50)]

    _, records = normalised(tmp_path, parquet_of(pa.Table.from_pylist(rows), row_group_size=7), "x")

    assert [turns(record)[1][1] for record in records] == [f"{number}!" for number in range(50)]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.utf8())]
)
def test_text_comes_in_every_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    content = parquet_of(pa.table({"text": pa.array(["é", "b"], kind)}))

    assert normalised(tmp_path, content)[1] == normalised(tmp_path, lines({"text": "é"}, {"text": "b"}))[1]


def test_columns_of_other_types_have_no_use_and_do_no_harm(tmp_path: Path) -> None:
    columns = {
        "messages": pa.array([chat(*HI)["messages"]]),
        "nothing": pa.nulls(1),
        "price": pa.array([Decimal("1.50")]),
        "when": pa.array([2**62], pa.timestamp("ns")),
        "never": pa.array([2**62], pa.timestamp("ms")),
        "blob": pa.array([b"\xff"]),
        "tags": pa.array([{"a": datetime(2026, 1, 1, tzinfo=UTC)}]),
    }

    report, records = normalised(tmp_path, parquet_of(pa.table(columns)))

    assert turns(records[0]) == HI
    assert report.ignored_keys == ["blob", "never", "price", "tags", "when"]


@pytest.mark.parametrize("unit", ["ns", "ms"])
def test_times_beside_the_turns_do_no_harm(tmp_path: Path, unit: str) -> None:
    turn = pa.struct({"role": pa.string(), "content": pa.string(), "at": pa.timestamp(unit)})
    messages = [[{"role": role, "content": text, "at": 2**62 + 1} for role, text in HI]]

    report, records = normalised(tmp_path, parquet_of(pa.table({"messages": pa.array(messages, pa.list_(turn))})))

    assert turns(records[0]) == HI
    assert report.ignored_keys == ["messages[].at"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (pa.array([6]), "a number (6)"),
        (pa.array([Decimal("1.50")]), "a Decimal"),
        (pa.array([b"x"]), "a bytes"),
        (pa.array([0], pa.timestamp("us")), "a datetime"),
        (pa.array([2**62], pa.timestamp("ms")), "a TimestampScalar"),
        (pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())), "a list of 1"),
        (pa.array([[("a", 2**62)]], pa.map_(pa.string(), pa.timestamp("ms"))), "a MapScalar"),
        (pa.array([None], pa.string()), "null"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, answer: pa.Array, found: str) -> None:
    table = pa.table({"prompt": ["a"], "completion": answer})

    problem = refused(tmp_path, parquet_of(table)).details[0]

    assert (problem.record, problem.field, problem.found) == (1, "completion", found)


BROKEN_TEXT = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\5\0\0\0"), pa.py_buffer(b"acaf\xe9"))
TOO_LONG = pa.table({"text": ["x", "a" * (LONGEST_RECORD + 1)]})
TOO_MUCH = pa.table({"text": ["a" * 10_000] * 50})
A_NUMBER = pa.Table.from_pylist([{"messages": [{"role": "assistant", "content": 6}]}])
# A file, how large it may be unpacked, the record and the field that are refused, and the code.
REFUSED: dict[str, tuple[Any, int, int | None, str | None, str]] = {
    "a value longer than a record": (TOO_LONG, 2**40, 2, None, "record_too_long"),
    "row groups that are too large together": (TOO_MUCH, 100_000, None, "file", "unpacked_size"),
    "a number in a turn": (A_NUMBER, LIMIT, 1, "messages[0].content", "wrong_type"),
    "text that is not UTF-8": (pa.table({"text": BROKEN_TEXT}), LIMIT, 2, "text", "invalid_unicode"),
    "two columns of one name": (pa.table([["a"], ["b"]], names=["text", "text"]), LIMIT, None, None, "invalid_header"),
    "no rows": (pa.table({"text": pa.array([], pa.string())}), LIMIT, None, None, "empty"),
}


@pytest.mark.parametrize(("table", "limit", "record", "field", "code"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_its_place(
    tmp_path: Path, table: pa.Table, limit: int, record: int | None, field: str | None, code: str
) -> None:
    content = parquet_of(table, compression=None, row_group_size=1)

    problem = refused(tmp_path, content, limit=limit).details[0]

    assert (problem.record, problem.field, problem.code) == (record, field, code)


@pytest.mark.parametrize("keep", [slice(0, -20), slice(0, 4), slice(0, 100)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: slice, pack: Any) -> None:
    assert refused(tmp_path, pack(parquet({"text": "x"})[keep])).details[0].code == "invalid_parquet"


def test_arguments_lose_the_keys_of_other_rows(tmp_path: Path) -> None:
    calls = [{"function": {"name": "f", "arguments": arguments}} for arguments in ({"x": 1}, {"text": "q"})]
    chats = [chat(("user", "go"), ("assistant", None)) for _ in calls]
    for row, call in zip(chats, calls, strict=True):
        row["messages"][1]["tool_calls"] = [call]

    report, records = normalised(tmp_path, parquet(*chats), "rows.parquet")

    kept = [record.messages[1].tool_calls for record in records if isinstance(record, ChatRecord)]
    assert [made and made[0]["function"]["arguments"] for made in kept] == [{"x": 1}, {"text": "q"}]
    assert [(fix.code, fix.count) for fix in report.fixes] == [("null_keys_removed", 2)]
