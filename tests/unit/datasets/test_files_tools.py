"""Tools and calls of tools keep exactly their own keys and types; what cannot be read is refused by its place."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.written_files import ASKED, CALL, called, chat, first_chat, lines, refused, sharegpt

HI = [("user", "hi"), ("assistant", "hello")]


@pytest.mark.parametrize("arguments", [{"x": 0, "y": None}, {"text": "hi", "loud": False}, {}, {"a": {"b": [1.5]}}])
def test_arguments_keep_exactly_their_own_keys_and_types(tmp_path: Path, arguments: dict[str, Any]) -> None:
    record = first_chat(tmp_path, called(arguments), called({"other": 1}))

    made = record.messages[1].tool_calls
    assert made is not None
    assert made[0]["function"]["arguments"] == arguments


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("{city: 1}", "line 1, column 2 of the text: expecting property name enclosed in double quotes"),
        ("[1]", "a list of 1"),
        (7, "a number (7)"),
    ],
)
def test_arguments_that_are_no_object_are_refused(tmp_path: Path, arguments: Any, found: str) -> None:
    problem = refused(tmp_path, lines(called(arguments))).details[0]

    assert (problem.field, problem.found) == ("messages[1].tool_calls[0].function.arguments", found)


@pytest.mark.parametrize(
    ("tools", "field", "found"),
    [
        ("[{]", "tools", "line 1, column 3 of the text: expecting property name enclosed in double quotes"),
        ({"name": "f"}, "tools", "an object with the keys name"),
        (["f"], "tools[0]", "'f'"),
        ([{"description": "x"}], "tools[0].name", "no 'name'"),
        ([{"title": "x"}], "tools[0].name", "no 'name', but the key 'title'"),
    ],
)
def test_tools_that_cannot_be_read_are_refused(tmp_path: Path, tools: Any, field: str, found: str) -> None:
    problem = refused(tmp_path, lines({**chat(*HI), "tools": tools})).details[0]

    assert (problem.field, problem.found) == (field, found)


@pytest.mark.parametrize("function", [{"description": "x"}, {"name": 5}, {"name": ""}, {"name": None}])
def test_a_tool_without_a_name_is_refused(tmp_path: Path, function: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": function}]

    assert refused(tmp_path, lines({**chat(*HI), "tools": tools})).details[0].field == "tools[0].function.name"


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_no_tools_come_in_many_forms(tmp_path: Path, tools: Any) -> None:
    assert first_chat(tmp_path, {**chat(*HI), "tools": tools}).tools is None


@pytest.mark.parametrize(
    ("calls", "field"),
    [
        ({"name": "f"}, "messages[1].tool_calls"),
        (["f"], "messages[1].tool_calls[0]"),
        ([{"function": "f"}], "messages[1].tool_calls[0].function"),
        ([{"name": 1}], "messages[1].tool_calls[0].name"),
        ([{"name": "f", "arguments": {"x": float("nan")}}], "messages[1].tool_calls[0].arguments.x"),
    ],
)
def test_calls_that_cannot_be_read_are_refused(tmp_path: Path, calls: Any, field: str) -> None:
    row = {"messages": [ASKED, {"role": "assistant", "tool_calls": calls}]}

    assert refused(tmp_path, lines(row)).details[0].field == field


def test_a_call_of_the_older_form_is_a_tool_call(tmp_path: Path) -> None:
    older = {"role": "assistant", "content": None, "function_call": {**CALL, "arguments": '{"city": "Lisbon"}'}}

    record = first_chat(tmp_path, {"messages": [ASKED, older]})

    assert record.messages[1].tool_calls == [{"type": "function", "function": CALL}]


def test_several_calls_of_one_turn_stay_one_turn(tmp_path: Path) -> None:
    row = sharegpt(("human", "?"), ("function_call", json.dumps([CALL, CALL])))

    assert len(first_chat(tmp_path, row).messages[1].tool_calls or []) == 2


def test_arguments_nested_without_end_are_refused(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {}
    for _ in range(200):
        arguments = {"a": arguments}

    assert refused(tmp_path, lines(called(arguments))).details[0].code == "too_deep"
