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


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_no_tools_come_in_many_forms(tmp_path: Path, tools: Any) -> None:
    assert first_chat(tmp_path, {**chat(*HI), "tools": tools}).tools is None


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


def offering(tools: Any) -> dict[str, Any]:
    return {**chat(*HI), "tools": tools}


def calling(calls: Any) -> dict[str, Any]:
    return {"messages": [ASKED, {"role": "assistant", "tool_calls": calls}]}


def of_function(**function: Any) -> dict[str, Any]:
    return offering([{"type": "function", "function": function}])


ARGUMENTS, CALLS = "messages[1].tool_calls[0].function.arguments", "messages[1].tool_calls"
NO_KEY = "column {} of the text: expecting property name enclosed in double quotes"
# A row, the place that is refused, and the end of what is found there.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (called("{city: 1}"), ARGUMENTS, NO_KEY.format(2)),
    (called("[1]"), ARGUMENTS, "a list of 1"),
    (called(7), ARGUMENTS, "a number (7)"),
    (offering("[{]"), "tools", NO_KEY.format(3)),
    (offering({"name": "f"}), "tools", "an object with the keys name"),
    (offering(["f"]), "tools[0]", "'f'"),
    (offering([{"description": "x"}]), "tools[0].name", "no 'name'"),
    (offering([{"title": "x"}]), "tools[0].name", "no 'name', but the key 'title'"),
    (of_function(description="x"), "tools[0].function.name", "no 'name'"),
    (of_function(name=5), "tools[0].function.name", "a number (5)"),
    (of_function(name=""), "tools[0].function.name", "''"),
    (of_function(name=None), "tools[0].function.name", "null"),
    (calling({"name": "f"}), CALLS, "an object with the keys name"),
    (calling(["f"]), f"{CALLS}[0]", "'f'"),
    (calling([{"function": "f"}]), f"{CALLS}[0].function", "'f'"),
    (calling([{"name": 1}]), f"{CALLS}[0].name", "a number (1)"),
    (calling([{"name": "f", "arguments": {"x": float("nan")}}]), f"{CALLS}[0].arguments.x", "a number (nan)"),
]


@pytest.mark.parametrize(("row", "field", "found"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_read_is_refused_by_its_place(
    tmp_path: Path, row: dict[str, Any], field: str, found: str
) -> None:
    problem = refused(tmp_path, lines(row)).details[0]

    assert problem.field == field
    assert str(problem.found).endswith(found)
