"""Columns of any name play the part that the spec gives them."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.written_files import chat, lines, normalised, refused, sharegpt, turns

HI = [("user", "hi"), ("assistant", "hello")]


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"prompt": "question", "completion": "answer"}, "completion"),
        ({"instruction": "question", "output": "answer"}, "chat"),
    ],
)
def test_columns_of_any_name_can_be_mapped(tmp_path: Path, columns: dict[str, str], kind: str) -> None:
    row = {"question": "hi", "answer": "hello", "messages": "not this"}

    report, records = normalised(tmp_path, lines(row), columns=columns)

    assert [record.kind for record in records] == [kind]
    assert report.ignored_keys == ["messages"]


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"messages": "chats"}, "missing"),
        ({"prompt": "qestion"}, "missing"),
        ({"prompt": "note"}, "unused_mapping"),
        ({"input": "note"}, "unused_mapping"),
    ],
)
def test_a_mapping_is_never_left_out(tmp_path: Path, columns: dict[str, str], code: str) -> None:
    problem = refused(tmp_path, lines({**chat(*HI), "note": "x"}), columns=columns).details[0]

    assert (problem.field, problem.code) == (f"columns.{next(iter(columns))}", code)
    assert "columns messages, note" in str(problem.found)


@pytest.mark.parametrize("fields", [{"dataset_text_field": "body"}, {"columns": {"text": "body"}}])
def test_the_column_of_raw_text_can_be_named(tmp_path: Path, fields: dict[str, Any]) -> None:
    report, _ = normalised(tmp_path, lines({"body": "words", "id": 1}), **fields)

    assert (report.layout, report.ignored_keys) == ("text", ["id"])


def test_the_page_s_text_field_does_no_harm_to_chats(tmp_path: Path) -> None:
    records = normalised(tmp_path, lines(sharegpt(*HI)), dataset_text_field="text")[1]

    assert [turns(record) for record in records] == [HI]


def test_a_named_format_is_not_second_guessed(tmp_path: Path) -> None:
    report, _ = normalised(tmp_path, lines({**chat(*HI), "text": "hi hello"}), format="text")

    assert report.layout == "text"


@pytest.mark.parametrize("first", [{"text": "How?", "parent": None}, {"text": "How?"}])
def test_raw_text_is_not_guessed_from_a_table(tmp_path: Path, first: dict[str, Any]) -> None:
    rows = lines(first, {"text": "Like this.", "parent": 1})

    problem = refused(tmp_path, rows).details[0]

    assert (problem.field, problem.code) == ("columns", "unknown_layout")
    assert problem.found == "columns text, parent"
    assert 'dataset.format to "text"' in str(problem.expected)


@pytest.mark.parametrize("fields", [{"format": "text"}, {"dataset_text_field": "text"}, {"columns": {"text": "text"}}])
def test_raw_text_of_a_table_can_be_asked_for(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert normalised(tmp_path, lines({"text": "a", "id": 1}), **fields)[0].layout == "text"


@pytest.mark.parametrize(
    ("rows", "near"), [({"text": "a"}, "text"), ({"txt": "a"}, "txt"), ({"bodies": "a"}, "bodies")]
)
def test_a_wrong_text_field_is_named_with_the_nearest_column(tmp_path: Path, rows: dict[str, str], near: str) -> None:
    problem = refused(tmp_path, lines(rows, rows), dataset_text_field="body" if near != "txt" else "tex").details[0]

    assert (problem.record, problem.field, problem.code) == (1, "dataset_text_field", "missing")
    assert problem.expected == f"a column of the rows; did you mean {near!r}?"


@pytest.mark.parametrize(("fields", "code"), [({}, "missing"), ({"format": "messages"}, "unused_mapping")])
def test_a_text_field_is_never_left_out(tmp_path: Path, fields: dict[str, Any], code: str) -> None:
    row = {**chat(*HI), **({"body": "x"} if fields else {})}

    problem = refused(tmp_path, lines(row), dataset_text_field="body", **fields).details[0]

    assert (problem.field, problem.code) == ("dataset_text_field", code)


def test_a_mapping_the_wrong_way_round_is_answered_with_the_right_one(tmp_path: Path) -> None:
    row = {"instruction": "hi", "output": "hello"}

    problem = refused(tmp_path, lines(row), columns={"instruction": "prompt", "output": "completion"}).details[0]

    assert problem.field == "columns.instruction"
    assert str(problem.expected).endswith('did you mean {"prompt": "instruction", "completion": "output"}?')


def test_a_misspelt_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    row = {"question": "hi", "answer": "hello"}

    problem = refused(tmp_path, lines(row), columns={"prompt": "qestion", "completion": "answer"}).details[0]

    assert problem.expected == "a column of the rows; did you mean 'question'?"


def test_a_column_that_rows_may_lack_has_to_be_in_one_of_them(tmp_path: Path) -> None:
    rows = [sharegpt(*HI), sharegpt(*HI, persona="Be brief.")]

    assert len(normalised(tmp_path, lines(*rows), columns={"system": "persona"})[1]) == 2
    problem = refused(tmp_path, lines(*rows), columns={"system": "character"}).details[0]
    assert (problem.field, problem.code, problem.found) == ("columns.system", "missing", "no 'character' in any record")
