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


@pytest.mark.parametrize("fields", [{"format": "text"}, {"dataset_text_field": "text"}, {"columns": {"text": "text"}}])
def test_raw_text_of_a_table_can_be_asked_for(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert normalised(tmp_path, lines({"text": "a", "id": 1}), **fields)[0].layout == "text"


def test_a_column_may_be_missing_in_some_rows(tmp_path: Path) -> None:
    rows = [sharegpt(*HI), sharegpt(*HI, persona="Be brief.")]

    assert len(normalised(tmp_path, lines(*rows), columns={"system": "persona"})[1]) == 2


NOTED, PAIR = {**chat(*HI), "note": "x"}, {"instruction": "hi", "output": "hello"}
OF_MESSAGES = "the parts of messages: messages, conversations, system, tools"
A_COLUMN = "a column of the rows"
# A row, what the job says of its columns, the place that is refused, its code, and the end of what would be right.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str, str]] = {
    "no chats": (NOTED, {"columns": {"messages": "chats"}}, "columns.messages", "missing", A_COLUMN),
    "misspelt": (NOTED, {"columns": {"prompt": "noet"}}, "columns.prompt", "missing", "did you mean 'note'?"),
    "not of messages": (NOTED, {"columns": {"prompt": "note"}}, "columns.prompt", "unused_mapping", OF_MESSAGES),
    "no input": (NOTED, {"columns": {"input": "note"}}, "columns.input", "unused_mapping", OF_MESSAGES),
    "in no row": (sharegpt(*HI), {"columns": {"system": "persona"}}, "columns.system", "missing", A_COLUMN),
    "the wrong way": (
        PAIR,
        {"columns": {"instruction": "prompt", "output": "completion"}},
        "columns.instruction",
        "missing",
        'did you mean {"prompt": "instruction", "completion": "output"}?',
    ),
    "another text": ({"text": "a"}, {"dataset_text_field": "body"}, "dataset_text_field", "missing", "'text'?"),
    "a misspelt text": ({"txt": "a"}, {"dataset_text_field": "tex"}, "dataset_text_field", "missing", "'txt'?"),
    "a near text": ({"bodies": "a"}, {"dataset_text_field": "body"}, "dataset_text_field", "missing", "'bodies'?"),
    "no text": (chat(*HI), {"dataset_text_field": "body"}, "dataset_text_field", "missing", A_COLUMN),
    "a text unread": (
        NOTED,
        {"dataset_text_field": "note", "format": "messages"},
        "dataset_text_field",
        "unused_mapping",
        "null, or rows of text",
    ),
}


@pytest.mark.parametrize(("row", "fields", "place", "code", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_said_of_columns_is_never_left_out(
    tmp_path: Path, row: dict[str, Any], fields: dict[str, Any], place: str, code: str, expected: str
) -> None:
    problem = refused(tmp_path, lines(row, row), **fields).details[0]

    assert (problem.field, problem.code) == (place, code)
    assert all(column in str(problem.found) for column in row) or "in any record" in str(problem.found)
    assert str(problem.expected).endswith(expected)


@pytest.mark.parametrize("first", [{"text": "How?", "parent": None}, {"text": "How?"}])
def test_raw_text_is_not_guessed_from_a_table(tmp_path: Path, first: dict[str, Any]) -> None:
    problem = refused(tmp_path, lines(first, {"text": "Like this.", "parent": 1})).details[0]

    assert (problem.field, problem.code, problem.found) == ("columns", "unknown_layout", "columns text, parent")
    assert 'dataset.format to "text"' in str(problem.expected)
