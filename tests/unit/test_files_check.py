"""Every row is kept, or named: the report and the refusal account for all of them, in bounded space."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contracts.records import ChatRecord, Record
from app.errors import InvalidDataset, Problem
from app.files.check import FileReport, inspect_file
from tests.unit.datasets import LIMIT, chat, lines, normalised, refused, sharegpt

GOOD = chat(("user", "hi"), ("assistant", "hello"))
BAD = chat(("user", "hi"), ("assistant", 6))


def inspected(folder: Path, content: bytes, name: str = "rows.jsonl") -> FileReport:
    path = folder / "upload"
    path.write_bytes(content)
    return inspect_file(path, filename=name, max_unpacked_bytes=LIMIT)


def test_bad_rows_are_dropped_only_when_asked_and_then_named(tmp_path: Path) -> None:
    report, records = normalised(tmp_path, lines(GOOD, BAD, GOOD), on_bad_row="drop")

    assert (report.records, report.kept, report.dropped, len(records)) == (3, 2, 1, 2)
    assert [problem.record for problem in report.problems] == [2]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b"text\n", lines(BAD, BAD)])
@pytest.mark.parametrize("on_bad_row", ["fail", "drop"])
def test_a_dataset_of_which_nothing_is_left_is_always_refused(tmp_path: Path, content: bytes, on_bad_row: str) -> None:
    assert refused(tmp_path, content, "rows.csv", on_bad_row=on_bad_row).details


def test_one_answer_names_fifty_problems_and_counts_all(tmp_path: Path) -> None:
    refusal = refused(tmp_path, lines(GOOD, *[BAD] * 120))

    assert len(refusal.details) == 50
    assert refusal.message.startswith("120 problems in 121 records, the first: record 2, line 2, messages[1].content")


def test_what_is_quoted_of_a_row_is_short_and_can_be_stored(tmp_path: Path) -> None:
    row = sharegpt(("\0" + "x" * 10_000, "y"), **{"a\0" * 200: 1})

    refusal = refused(tmp_path, lines(row, {"z\0\ud800" * 500: 1}))

    assert max(len(str(problem.found)) for problem in refusal.details) <= 250
    assert "\0" not in refusal.message


def test_the_hash_is_of_the_bytes_that_were_read(tmp_path: Path) -> None:
    content = lines(GOOD)

    report, _ = normalised(tmp_path, content)

    assert report.sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_of_the_same_name_and_size_is_read_anew(tmp_path: Path) -> None:
    answers = []
    for answer in ("ONE", "TWO"):
        _, records = normalised(tmp_path, lines(chat(("user", "?"), ("assistant", answer))))
        answers += [record.messages[1].content for record in records if isinstance(record, ChatRecord)]

    assert answers == ["ONE", "TWO"]


def test_exact_duplicates_are_kept_and_named(tmp_path: Path) -> None:
    same = {"instruction": "hi", "output": "hello"}

    report, records = normalised(tmp_path, lines(same, {**same, "output": "x"}, {**same, "input": ""}))

    assert (report.duplicates.count, report.duplicates.records, len(records)) == (1, [3], 3)


def test_the_longest_record_is_named(tmp_path: Path) -> None:
    long = chat(("user", "short"), ("assistant", "x" * 300_000))

    report, _ = normalised(tmp_path, lines(GOOD, long, GOOD))

    assert (report.longest_record, report.longest_characters) == (2, 300_005)


def test_an_empty_answer_is_a_warning(tmp_path: Path) -> None:
    report, _ = normalised(tmp_path, lines(GOOD, chat(("user", "hi"), ("assistant", ""))))

    assert [(warning.code, warning.records) for warning in report.warnings] == [("empty_answer", [2])]


def test_an_upload_of_no_known_layout_is_described_by_its_columns(tmp_path: Path) -> None:
    report = inspected(tmp_path, lines({"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}))

    assert (report.layout, report.columns, report.records) == (None, ["question", "answer"], 2)
    assert [problem.code for problem in report.problems] == ["unknown_layout"]


def test_an_upload_with_bad_rows_is_described(tmp_path: Path) -> None:
    report = inspected(tmp_path, lines(GOOD, BAD))

    assert (report.layout, report.records, report.kept, report.problem_count) == ("messages", 2, 1, 1)


@pytest.mark.parametrize("content", [b"", lines(1, 2), lines(GOOD) + b'{"messages": [', b"\xff\xfe", b"\x1f\x8b\x08"])
def test_an_upload_that_is_no_list_of_records_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidDataset):
        inspected(tmp_path, content)


def test_damage_behind_many_bad_rows_still_refuses_an_upload(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset) as refusal:
        inspected(tmp_path, lines(GOOD, *[BAD] * 60) + b"{")

    assert [problem.line for problem in refusal.value.details] == [62]


def test_a_report_can_be_stored_and_read_again(tmp_path: Path) -> None:
    report = inspected(tmp_path, lines(GOOD, BAD, GOOD))

    assert FileReport.model_validate(json.loads(json.dumps(report.model_dump(mode="json")))) == report


ANY_TEXT = st.text(st.characters(codec=None), max_size=8)
CONTENTS = st.one_of(
    ANY_TEXT, st.none(), st.integers(), st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": ANY_TEXT}))
)
ROLES = st.sampled_from(["system", "user", "Human", "assistant", "GPT", "tool", "narrator"])
CHATS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CONTENTS}), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chats")


@given(said=CHATS)
def test_any_chat_keeps_its_text_or_is_refused_by_name(folder: Path, said: list[dict[str, Any]]) -> None:
    problems, records = outcome(folder, lines({"messages": said}))

    assert [kept_text(record) for record in records] == ([] if problems else [sent_text(said)])
    assert all(str(problem.field).startswith("messages") for problem in problems)


def outcome(folder: Path, content: bytes) -> tuple[list[Problem], list[Record]]:
    try:
        return [], normalised(folder, content)[1]
    except InvalidDataset as refusal:
        return refusal.details, []


def kept_text(record: Record) -> str:
    assert isinstance(record, ChatRecord)
    return "\n\n".join(message.content for message in record.messages)


def sent_text(said: list[dict[str, Any]]) -> str:
    contents = [turn["content"] for turn in said]
    texts = [said if isinstance(said, str) else "\n".join(part["text"] for part in said) for said in contents]
    return "\n\n".join(texts).replace("\0", "")
