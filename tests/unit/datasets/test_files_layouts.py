"""Rows of every layout become the same few records; what cannot is refused by record and field, never guessed."""

from pathlib import Path
from typing import Any

import pytest

from app.contracts.records import ChatRecord, CompletionRecord, Message, Record
from app.datasets.check import normalise_parts
from app.datasets.several_files import FilePart, NamedFile
from tests.support.written_files import (
    CALL,
    a_dataset,
    called,
    chat,
    first_chat,
    lines,
    normalised,
    parquet,
    refused,
    sharegpt,
    turns,
)

HI = [("user", "hi"), ("assistant", "hello")]


def messages(folder: Path, *rows: Any, **fields: Any) -> list[list[tuple[str, str]]]:
    return [turns(record) for record in normalised(folder, lines(*rows), **fields)[1]]


@pytest.mark.parametrize(
    "row",
    [
        chat(*HI),
        sharegpt(("human", "hi"), ("gpt", "hello")),
        sharegpt(("Human", "hi"), ("GPT", "hello"), system=""),
        {"conversations": chat(*HI)["messages"]},
        {"messages": sharegpt(*HI)["conversations"]},
        {"instruction": "hi", "output": "hello"},
        {"instruction": "hi", "input": None, "response": "hello"},
        {"instruction": "", "input": "hi", "output": "hello", "system": None, "text": "### hi hello"},
    ],
)
def test_every_layout_of_a_chat_becomes_the_same_messages(tmp_path: Path, row: dict[str, Any]) -> None:
    assert messages(tmp_path, row) == [HI]


def test_a_function_call_and_its_observation_become_tool_turns(tmp_path: Path) -> None:
    called = '{"name": "get_weather", "arguments": {"city": "Lisbon"}}'
    said = (("human", "?"), ("function_call", called), ("observation", '{"sky": 1}'), ("gpt", "!"))

    record = first_chat(tmp_path, sharegpt(*said, tools='[{"name": "get_weather"}]'))

    assert [message.role for message in record.messages] == ["user", "assistant", "tool", "assistant"]
    assert record.messages[1].tool_calls == [{"type": "function", "function": CALL}]
    assert record.tools == [{"type": "function", "function": {"name": "get_weather"}}]


def with_weight(weight: Any) -> dict[str, Any]:
    asked, answer = chat(*HI)["messages"]
    return {"messages": [asked, {**answer, "weight": weight}]}


PICTURE = [{"type": "image_url", "image_url": {"url": "http://x"}}]
# Rows of which the last one is refused: where, with which code, and what is found there.
REFUSED: dict[str, tuple[list[Any], str, str, str]] = {
    "a role": ([sharegpt(*HI), sharegpt(("narrator", "x" * 9999))], "conversations[0].from", "unknown_role", "'narra"),
    "no turns": ([{"conversations": []}], "conversations", "empty_conversation", "an empty list: an empty"),
    "null for turns": ([{"conversations": None}], "conversations", "empty_conversation", "null: an empty"),
    "null content": ([chat(*HI), chat(("user", None))], "messages[0].content", "wrong_type", "null"),
    "a text for a turn": ([{"messages": ["hi"]}], "messages[0]", "wrong_type", "'hi'"),
    "null for a turn": ([{"messages": [None]}], "messages[0]", "wrong_type", "null"),
    "a turn without a role": ([{"messages": [{"content": "x"}]}], "messages[0].role", "missing", "no 'role'"),
    "a picture": ([chat(("user", PICTURE))], "messages[0].content[0].type", "unsupported_part", "'image_url'"),
    "two system texts": ([sharegpt(("system", "a"), *HI, system="b")], "system", "two_systems", "a text here and a"),
    "no output": (
        [{"instruction": "a", "output": "b"}, {"instruction": "c", "input": ""}],
        "output",
        "missing",
        "no 'output': columns instruction, input",
    ),
    "a weight of 2": ([with_weight(2)], "messages[1].weight", "wrong_value", "a number (2)"),
    "a weight of 0.5": ([with_weight(0.5)], "messages[1].weight", "wrong_value", "a number (0.5)"),
    "a weight of true": ([with_weight(True)], "messages[1].weight", "wrong_value", "a boolean (true)"),
    "a weight of text": ([with_weight("0")], "messages[1].weight", "wrong_value", "'0'"),
    "a row of text": (["text"], "record", "wrong_type", "'text'"),
    "a row of a number": ([1], "record", "wrong_type", "a number (1)"),
    "a row of null": ([None], "record", "wrong_type", "null"),
    "a row of a list": ([[1]], "record", "wrong_type", "a list of 1"),
    "another layout": ([chat(*HI), {"text": "plain"}], "columns", "mixed_layouts", "text (columns text)"),
    "no layout": ([{"question": "a", "answer": "b"}], "columns", "unknown_layout", "columns question, answer"),
    "a tree": ([{"tree_id": "a", "prompt": {"text": "b"}}], "columns", "unknown_layout", "columns tree_id, prompt"),
    "instances": (
        [{"instruction": "a", "instances": []}],
        "columns",
        "unknown_layout",
        "columns instruction, instances",
    ),
    "preferences": (
        [{**sharegpt(*HI), "chosen": {}, "rejected": {}}],
        "columns",
        "preference_rows",
        "columns conversations, chosen, rejected",
    ),
    "media": ([{**chat(*HI), "images": ["a.jpg"]}], "images", "media_rows", "columns messages, images"),
}


@pytest.mark.parametrize(("rows", "field", "code", "found"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_record_and_field(
    tmp_path: Path, rows: list[Any], field: str, code: str, found: str
) -> None:
    problem = refused(tmp_path, lines(*rows)).details[0]

    assert (problem.record, problem.line, problem.field, problem.code) == (len(rows), len(rows), field, code)
    assert str(problem.found).startswith(found)


def test_what_would_be_right_is_said(tmp_path: Path) -> None:
    role, layout = (refused(tmp_path, lines(*REFUSED[name][0])).details[0] for name in ("a role", "another layout"))

    assert "human, assistant, gpt" in str(role.expected)
    assert layout.expected == "messages, the layout of record 1 (columns messages)"


def test_a_chat_may_begin_with_the_assistant(tmp_path: Path) -> None:
    assert messages(tmp_path, sharegpt(("gpt", "Welcome"), *HI)) == [[("assistant", "Welcome"), *HI]]


def test_two_turns_of_the_user_are_merged_and_counted(tmp_path: Path) -> None:
    report, records = normalised(tmp_path, lines(chat(*HI), chat(("user", "I ask."), *HI)))

    assert turns(records[1])[0] == ("user", "I ask.\n\nhi")
    assert [(fix.code, fix.count, fix.records) for fix in report.fixes] == [("merged_turns", 1, [2])]


def test_null_content_beside_a_tool_call_is_empty_text(tmp_path: Path) -> None:
    answer = first_chat(tmp_path, called('{"city": "Lisbon"}')).messages[1]

    expected = [{"id": "call_1", "type": "function", "function": CALL}]
    assert (answer.content, answer.tool_calls) == ("", expected)


def test_parts_of_text_are_joined_by_a_line_break(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "First."}, {"type": "text", "text": "Second."}]

    assert messages(tmp_path, chat(("user", parts), ("assistant", "ok")))[0][0] == ("user", "First.\nSecond.")


def test_content_that_is_no_text_is_named_by_its_type_all_in_one_answer(tmp_path: Path) -> None:
    answers = ("4", 6, True, {"answer": "yes"})

    refusal = refused(tmp_path, lines(*(chat(("user", "?"), ("assistant", answer)) for answer in answers)))

    assert [(problem.record, problem.field, problem.found) for problem in refusal.details] == [
        (2, "messages[1].content", "a number (6)"),
        (3, "messages[1].content", "a boolean (true)"),
        (4, "messages[1].content", "an object with the keys answer"),
    ]


@pytest.mark.parametrize("more", [{}, {"input": None}, {"input": ""}, {"input": " \n"}])
def test_no_input_null_and_blank_input_mean_the_same(tmp_path: Path, more: dict[str, Any]) -> None:
    rows = ({"instruction": "hi", **more, "output": "hello"}, {"instruction": "Add.", "input": "2, 3", "output": "5"})

    assert messages(tmp_path, *rows) == [HI, [("user", "Add.\n\n2, 3"), ("assistant", "5")]]


def test_the_system_column_becomes_the_first_turn(tmp_path: Path) -> None:
    row = {"instruction": "hi", "output": "hello", "system": "Be brief."}

    assert messages(tmp_path, row) == [[("system", "Be brief."), *HI]]


def test_a_prompt_and_its_completion_keep_every_space(tmp_path: Path) -> None:
    _, records = normalised(
        tmp_path, lines({"prompt": "A:", "completion": " Lima"}, {"prompt": "A: ", "completion": "x"})
    )

    assert records == [
        CompletionRecord(prompt="A:", completion=" Lima"),
        CompletionRecord(prompt="A: ", completion="x"),
    ]


def test_what_the_assistant_said_in_a_prompt_carries_no_loss(tmp_path: Path) -> None:
    said = chat(*HI, ("user", "more"))["messages"]

    record = first_chat(tmp_path, {"prompt": said, "completion": chat(("assistant", "yes"))["messages"]})

    assert [message.weight for message in record.messages] == [None, 0, None, None]


def test_the_chosen_answer_can_be_mapped(tmp_path: Path) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}

    _, records = normalised(tmp_path, lines(row), columns={"completion": "chosen"})

    assert records == [CompletionRecord(prompt="a", completion="b")]


def test_extra_keys_of_messages_are_listed_once_and_weight_is_honoured(tmp_path: Path) -> None:
    row = chat(*HI)
    row["messages"][0]["timestamp"] = 1
    row["messages"][1]["weight"] = 0

    report, records = normalised(tmp_path, lines(row, chat(*HI)), train_on="all")

    assert report.ignored_keys == ["messages[].timestamp"]
    assert isinstance(records[0], ChatRecord)
    assert records[0].messages[1] == Message(role="assistant", content="hello", weight=0)


def test_nul_is_taken_out_and_reported_by_record(tmp_path: Path) -> None:
    report, records = normalised(tmp_path, lines(chat(*HI), chat(("user", "a\0b"), ("assistant", "c\0"))))

    assert turns(records[1]) == [("user", "ab"), ("assistant", "c")]
    assert [(fix.code, fix.count, fix.records) for fix in report.fixes] == [("nul_removed", 2, [2])]


@pytest.mark.parametrize("row", [chat(("user", "\ud83c"), ("assistant", "x")), called({"a\udc80": 1})])
def test_half_a_character_is_named_and_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    refusal = refused(tmp_path, lines(row))

    assert refusal.details[0].code == "invalid_unicode"
    assert "U+D" in refusal.message
    assert refusal.message.isascii()


def test_of_two_keys_for_one_thing_the_other_is_listed(tmp_path: Path) -> None:
    both = [{"role": role, "content": text, "from": "x", "value": "y"} for role, text in HI]

    report, records = normalised(tmp_path, lines({"messages": both}))

    assert turns(records[0]) == HI
    assert report.ignored_keys == ["messages[].from", "messages[].value"]


def test_keys_that_arrow_filled_with_null_are_as_if_absent(tmp_path: Path) -> None:
    null = {"role": None, "content": None, "tool_calls": None, "weight": None, "extra": None}
    row = {"conversations": [{**null, **turn} for turn in sharegpt(*HI)["conversations"]], "text": None}
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(row))

    kept: list[Record] = []
    parts = [FilePart((NamedFile(path, path.name),))]
    report = normalise_parts(parts, a_dataset(), max_unpacked_bytes=10**6, sink=lambda record, _: kept.append(record))

    assert (report.format, report.layout, report.sha256, report.ignored_keys) == ("hub", "sharegpt", None, [])
    assert turns(kept[0]) == HI
