"""Whatever a file holds: its very texts come out, or it is refused by record and field, and nothing else happens."""

import csv
import gzip
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.contracts.records import ChatRecord, CompletionRecord, Record
from app.datasets.check import inspect_file
from app.datasets.layouts import PARTS
from app.errors import InvalidDataset, Problem
from tests.support.written_files import LIMIT, chat, lines, normalised, parquet
from tests.tiers import examples

IN_TIME = settings(deadline=timedelta(seconds=5), max_examples=examples(100))
ANY_TEXT = st.text(st.characters(codec=None), max_size=8)
WRITABLE_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
WRITABLE_ANSWER = WRITABLE_TEXT.map(lambda text: f"{text}.")
CONTENTS = st.one_of(
    ANY_TEXT,
    st.none(),
    st.integers(),
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": ANY_TEXT}), max_size=3),
)
ROLES = st.sampled_from(["system", "user", "Human", "assistant", "GPT", "tool", "narrator"])
MAYBE_TEXT = st.one_of(ANY_TEXT, st.none())
SYSTEM = {"system": MAYBE_TEXT}
CHATS = st.fixed_dictionaries(
    {"messages": st.lists(st.fixed_dictionaries({"role": ROLES, "content": CONTENTS}), max_size=6)}, optional=SYSTEM
)
SHARES = st.fixed_dictionaries(
    {"conversations": st.lists(st.fixed_dictionaries({"from": ROLES, "value": CONTENTS}), max_size=6)}, optional=SYSTEM
)
ALPACAS = st.fixed_dictionaries(
    {"instruction": ANY_TEXT, "output": MAYBE_TEXT}, optional={"input": MAYBE_TEXT, **SYSTEM}
)
PAIRS = st.fixed_dictionaries({"prompt": MAYBE_TEXT, "completion": ANY_TEXT})
TEXTS = st.fixed_dictionaries({"text": MAYBE_TEXT}, optional={"id": st.integers()})
LAYOUTS = (CHATS, SHARES, ALPACAS, PAIRS, TEXTS)
ROWS = st.one_of([st.lists(rows, min_size=1, max_size=3) for rows in (*LAYOUTS, st.one_of(LAYOUTS))])

NAMES = st.one_of(st.sampled_from([*sorted(PARTS), "role", "content", "from", "value", "function", "name"]), ANY_TEXT)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), ANY_TEXT)
JSON = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner), st.dictionaries(NAMES, inner)), max_leaves=6)
ANYTHING = st.lists(st.one_of(st.dictionaries(NAMES, JSON), JSON), min_size=1, max_size=4)

WHOLE = lines(chat(("user", "é"), ("assistant", "x" * 50)), chat(("user", "b"), ("assistant", "\U0001f600")))
FILES = [
    WHOLE,
    json.dumps([json.loads(line) for line in WHOLE.splitlines()], indent=1).encode(),
    b'prompt,completion\n"a\nb",c\nd,"e ""f"" g"\n',
    parquet(*(json.loads(line) for line in WHOLE.splitlines())),
    gzip.compress(WHOLE),
]
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4), st.integers(0, 9)), max_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def outcome(
    folder: Path, content: bytes, name: str = "rows.jsonl", **fields: Any
) -> tuple[list[Problem], list[Record]]:
    try:
        return [], normalised(folder, content, name, **fields)[1]
    except InvalidDataset as refusal:
        return refusal.details, []


def inspected(folder: Path, content: bytes) -> tuple[list[Problem], int]:
    (folder / "upload").write_bytes(content)
    try:
        return [], inspect_file(folder / "upload", filename="x", max_unpacked_bytes=LIMIT).records
    except InvalidDataset as refusal:
        return refusal.details, 0


def kept_text(record: Record) -> str:
    if isinstance(record, ChatRecord):
        return "\n\n".join(message.content for message in record.messages)
    return f"{record.prompt}\n\n{record.completion}" if isinstance(record, CompletionRecord) else record.text


def sent_text(row: dict[str, Any]) -> str:
    """Written as the documentation has it: parts of text a line each, turns and columns with a blank line between."""
    said = [turn.get("content", turn.get("value")) for turn in row.get("messages", row.get("conversations", []))]
    texts = [text if isinstance(text, str) else "\n".join(part["text"] for part in text) for text in said]
    for names in (["instruction", "output"], ["prompt", "completion"], ["text"]):
        texts = [row[name] for name in names] if names[0] in row else texts
    if is_said(row.get("input")):
        texts[:1] = [text for text in (texts[0], row["input"]) if text.strip("\0")]
    return "\n\n".join([row["system"], *texts] if is_said(row.get("system")) else texts).replace("\0", "")


def is_said(text: str | None) -> bool:
    return bool((text or "").replace("\0", "").strip())


@given(rows=ROWS)
@IN_TIME
def test_any_rows_keep_their_texts_or_are_refused_by_record_and_field(folder: Path, rows: list[dict[str, Any]]) -> None:
    problems, records = outcome(folder, lines(*rows), train_on="all")

    assert [kept_text(record) for record in records] == ([] if problems else [sent_text(row) for row in rows])
    assert all(problem.record in range(1, len(rows) + 1) and problem.field for problem in problems)


@given(rows=ANYTHING)
@IN_TIME
def test_any_json_is_kept_row_by_row_or_refused_by_record_and_field(folder: Path, rows: list[Any]) -> None:
    problems, records = outcome(folder, json.dumps(rows).encode())

    assert len(records) == (0 if problems else len(rows))
    assert all(problem.record in range(1, len(rows) + 1) and problem.field for problem in problems)


@given(rows=st.lists(st.fixed_dictionaries({"prompt": WRITABLE_TEXT, "completion": WRITABLE_ANSWER}), min_size=1))
@IN_TIME
def test_one_dataset_comes_alike_out_of_every_format(folder: Path, rows: list[dict[str, str]]) -> None:
    expected = normalised(folder, lines(*rows))[1]

    table = io.StringIO()
    csv.writer(table).writerows([["prompt", "completion"], *([row["prompt"], row["completion"]] for row in rows)])
    for content in (json.dumps(rows).encode(), table.getvalue().encode(), parquet(*rows)):
        assert normalised(folder, content, "rows.csv")[1] == expected


@given(content=st.binary(max_size=200), name=st.sampled_from(["x.jsonl", "x.csv", "x.tsv", "x.txt", "x.parquet"]))
@IN_TIME
def test_any_bytes_are_rows_or_a_refusal(folder: Path, content: bytes, name: str) -> None:
    problems, records = outcome(folder, content, name)

    assert problems or records


@given(whole=st.sampled_from(FILES), edits=EDITS)
@IN_TIME
def test_a_file_damaged_anywhere_is_rows_or_a_refusal(
    folder: Path, whole: bytes, edits: list[tuple[float, bytes, int]]
) -> None:
    for where, inserted, removed in edits:
        at = int(where * len(whole))
        whole = whole[:at] + inserted + whole[at + removed :]

    problems, records = inspected(folder, whole)

    assert problems or records
