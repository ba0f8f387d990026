"""What stands where a key or a conversation should be is named as what it is, or read where it can be."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.datasets.check import normalise_parts
from app.datasets.several_files import FilePart, NamedFile
from app.errors import InvalidDataset
from tests.support.written_files import a_dataset, chat, lines, normalised, parquet, refused, turns

HI = [("user", "hi"), ("assistant", "hello")]


@pytest.mark.parametrize(
    ("turn", "field", "found"),
    [
        (
            {"role": "user", "content": [{"type": "text", "body": "hi"}]},
            "content[0].text",
            "no 'text', but the key 'body'",
        ),
        ({"role": "user", "content": [{"text": "hi"}]}, "content[0].type", "no 'type', but the key 'text'"),
        ({"role": "user", "text": "hi", "at": 1}, "content", "no 'content', but the keys 'text', 'at'"),
        ({"role": "user", "content": None, "text": "hi"}, "content", "null, but the key 'text'"),
        ({"speaker": "user", "content": "hi"}, "role", "no 'role', but the key 'speaker'"),
        ({"role": "user"}, "content", "no 'content'"),
    ],
)
def test_an_absent_key_is_named_with_those_that_stand_there(
    tmp_path: Path, turn: dict[str, Any], field: str, found: str
) -> None:
    problem = refused(tmp_path, lines({"messages": [turn, *chat(*HI)["messages"]]})).details[0]

    assert (problem.field, problem.found) == (f"messages[0].{field}", found)


def test_a_key_that_arrow_filled_with_null_is_absent(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet({"messages": [{"role": "user", "content": None, "text": "hi"}]}))
    parts = [FilePart((NamedFile(tmp_path / "a.parquet", "a.parquet"),))]

    with pytest.raises(InvalidDataset) as refusal:
        normalise_parts(parts, a_dataset(), max_unpacked_bytes=10**6, sink=lambda record, place: None)

    assert refusal.value.details[0].found == "no 'content', but the key 'text'"


def test_a_conversation_as_json_text_in_a_cell_is_read(tmp_path: Path) -> None:
    cell = json.dumps(chat(*HI)["messages"]).replace('"', '""')

    report, records = normalised(tmp_path, f'id,messages\n1,"{cell}"\n'.encode(), "rows.csv")

    assert turns(records[0]) == HI
    assert [(fix.code, fix.records) for fix in report.fixes] == [("json_text_parsed", [1])]


def test_a_pair_of_conversations_as_json_text_is_read(tmp_path: Path) -> None:
    prompt, completion = (json.dumps(chat(turn)["messages"]) for turn in HI)

    record = normalised(tmp_path, lines({"prompt": prompt, "completion": completion}))[1][0]

    assert turns(record) == HI


@pytest.mark.parametrize(
    ("row", "code", "found"),
    [
        ({"messages": '{"role": "user"}'}, "wrong_type", "an object with the keys role"),
        ({"messages": "[{'role': 'user'}]"}, "invalid_json", "line 1, column 3 of the text: expecting property name"),
        ({"messages": ['{"role": "user"}']}, "wrong_type", "a text that holds JSON: an object with the keys role"),
        ({"messages": ""}, "empty_conversation", "'': an empty conversation"),
        ('{"messages": []}', "wrong_type", "a text that holds JSON: an object with the keys messages"),
    ],
)
def test_json_text_that_is_no_conversation_is_called_that(tmp_path: Path, row: Any, code: str, found: str) -> None:
    problem = refused(tmp_path, lines(row)).details[0]

    assert problem.code == code
    assert str(problem.found).startswith(found)


def test_a_text_that_holds_a_conversation_is_warned_of(tmp_path: Path) -> None:
    prompt = json.dumps(chat(HI[0])["messages"])

    report, _ = normalised(tmp_path, lines({"prompt": prompt, "completion": "[1]"}, {"prompt": "a", "completion": "b"}))

    assert [(warning.code, warning.records) for warning in report.warnings] == [("json_as_text", [1])]


@pytest.mark.parametrize(("key", "value"), [("parameters", {"city": "Lisbon"}), ("args", '{"city": "Lisbon"}')])
def test_arguments_under_another_key_are_not_dropped(tmp_path: Path, key: str, value: Any) -> None:
    call = {"name": "get_weather", key: value}

    problem = refused(tmp_path, lines({"messages": [{"role": "assistant", "tool_calls": [call]}]})).details[0]

    assert (problem.field, problem.found) == (
        "messages[0].tool_calls[0].arguments",
        f"no 'arguments', but the key {key!r}",
    )
