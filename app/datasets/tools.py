"""Reads tool definitions and tool calls, also from JSON text, into OpenAI's form. Arguments stay unchanged."""

from typing import Any

from app.datasets.row_issues import RowIssues
from app.datasets.strict_json import JsonFault, parse
from app.datasets.values import describe, describe_missing, json_container

CALL_KEYS = frozenset({"id", "type", "function"})
FUNCTION_KEYS = frozenset({"name", "arguments"})
DEFINITION_KEYS = frozenset({"name", "type", "description", "parameters", "strict"})
EXPECTED_CALL = 'an object with "name" and "arguments"'


def read_tools(value: Any, where: str, row_issues: RowIssues) -> list[dict[str, Any]] | None:
    """Returns the tools of a row, each as {"type": "function", "function": …}, or None if there are none."""
    if isinstance(value, str):
        value = parse_json_text(value, where, row_issues, "a JSON list of tools") if value.strip() else None
    if value is None:
        return None
    if not isinstance(value, list):
        row_issues.add_problem(where, "wrong_type", describe(value), "a list of tools")
        return None
    return [_tool(tool, f"{where}[{index}]", row_issues) for index, tool in enumerate(value)] or None


def _tool(value: Any, where: str, row_issues: RowIssues) -> dict[str, Any]:
    if not isinstance(value, dict):
        row_issues.add_problem(where, "wrong_type", describe(value), "an object that describes a function")
        return {}
    tool: dict[str, Any] = row_issues.json(value, where)
    function = tool.get("function")
    if isinstance(function, dict):
        _check_name(function, f"{where}.function", row_issues)
        return tool
    _check_name(tool, where, row_issues)
    row_issues.fix("tools_wrapped")
    return {"type": "function", "function": tool}


def _check_name(function: dict[str, Any], where: str, row_issues: RowIssues) -> None:
    name = function.get("name")
    if not isinstance(name, str) or not name:
        is_absent = name is None
        found = (
            describe_missing(function, "name", DEFINITION_KEYS, is_arrow=row_issues.is_arrow)
            if is_absent
            else describe(name)
        )
        row_issues.add_problem(f"{where}.name", "missing", found, "the name of the function")


def read_calls(value: Any, where: str, row_issues: RowIssues) -> list[dict[str, Any]] | None:
    """Reads OpenAI's `tool_calls`, or their JSON text. Returns None if there are none."""
    if isinstance(value, str):
        value = parse_json_text(value, where, row_issues, "a list of tool calls") if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        row_issues.add_problem(where, "wrong_type", describe(value), "a list of tool calls")
        return None
    return [_call(call, f"{where}[{index}]", row_issues) for index, call in enumerate(value)]


def read_function_call(value: Any, where: str, row_issues: RowIssues) -> list[dict[str, Any]] | None:
    """Reads a `function_call`, as in ShareGPT: one call or a list of calls, as JSON values or as JSON text."""
    if isinstance(value, str):
        value = parse_json_text(value, where, row_issues, EXPECTED_CALL)
        if value is None:
            return None
    if isinstance(value, list):
        return [_call(call, f"{where}[{index}]", row_issues) for index, call in enumerate(value)]
    return [_call(value, where, row_issues)]


def _call(value: Any, where: str, row_issues: RowIssues) -> dict[str, Any]:
    if not isinstance(value, dict):
        row_issues.add_problem(where, "wrong_type", describe(value), EXPECTED_CALL)
        return {}
    function = value.get("function")
    if function is None:
        return {"type": "function", "function": _function(value, where, row_issues)}
    call = {"type": "function", "function": _function(function, f"{where}.function", row_issues)}
    _note_ignored(value, CALL_KEYS, row_issues)
    return {"id": row_issues.text(value["id"], f"{where}.id"), **call} if value.get("id") is not None else call


def _function(value: Any, where: str, row_issues: RowIssues) -> dict[str, Any]:
    if not isinstance(value, dict):
        row_issues.add_problem(where, "wrong_type", describe(value), EXPECTED_CALL)
        return {}
    _note_ignored(value, FUNCTION_KEYS, row_issues)
    for key, expected in (("name", "the name of the function"), ("arguments", "an object, or the JSON text of one")):
        if value.get(key) is None and (key == "name" or _has_other_arguments(value)):
            found = describe_missing(value, key, FUNCTION_KEYS, is_arrow=row_issues.is_arrow)
            row_issues.add_problem(f"{where}.{key}", "missing", found, expected)
    name = row_issues.optional_text(value.get("name"), f"{where}.name") or ""
    return {"name": name, "arguments": _arguments(value.get("arguments"), f"{where}.arguments", row_issues)}


def _has_other_arguments(function: dict[str, Any]) -> bool:
    """Whether an unknown key has an object. Some datasets name the arguments `parameters`."""
    others = [value for key, value in function.items() if key not in FUNCTION_KEYS]
    return any(json_container(value) if isinstance(value, str) else isinstance(value, dict) for value in others)


def _arguments(value: Any, where: str, row_issues: RowIssues) -> Any:
    if isinstance(value, str):
        value = parse_json_text(value, where, row_issues, "a JSON object") if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        row_issues.add_problem(where, "wrong_type", describe(value), "an object, or the JSON text of one")
        return {}
    return row_issues.json(value, where)


def parse_json_text(text: str, where: str, row_issues: RowIssues, expected: str) -> Any:
    """Returns the value of a JSON text. Returns None and adds a problem if the text is not JSON."""
    try:
        return parse(text)
    except JsonFault as fault:
        found = f"line {fault.line}, column {fault.column} of the text: {fault.reason}"
        row_issues.add_problem(where, "invalid_json", found, expected)
        return None


def _note_ignored(value: dict[str, Any], known: frozenset[str], row_issues: RowIssues) -> None:
    extra = (key for key, item in value.items() if key not in known and item is not None)
    row_issues.ignored.update(f"tool_calls[].{key}" for key in extra)
