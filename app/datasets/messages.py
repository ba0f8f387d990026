"""Reads the messages of a chat: OpenAI's `role`/`content` or ShareGPT's `from`/`value`."""

import re
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from app.contracts.records import Message
from app.datasets.parts import read_parts
from app.datasets.row_issues import RowIssues, is_clean
from app.datasets.tools import parse_json_text, read_calls, read_function_call
from app.datasets.values import describe, describe_missing, is_blank

Role = Literal["system", "user", "assistant", "tool"]
FUNCTION_CALL = "function_call"
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    FUNCTION_CALL: "assistant",
}
# The roles whose content is the text of the message.
PLAIN_ROLES = {name: role for name, role in ROLES.items() if name != FUNCTION_CALL}
# Known keys beside those of role and content.
KNOWN_KEYS = frozenset({"name", "tool_calls", FUNCTION_CALL, "tool_call_id", "weight"})
THINKING_MARK = re.compile("</?think>")
EXPECTED_ANSWER = "an answer with text, or with tool calls"


class PlacedMessage(NamedTuple):
    """A message, its place in the row (such as `messages[1]`), and the key of its text, if it has one."""

    message: Message
    place: str
    key: str | None = None

    @property
    def without_loss(self) -> "PlacedMessage":
        return self._replace(message=self.message.model_copy(update={"weight": 0}))

    def check_has_answer(self, row_issues: RowIssues) -> None:
        """Adds a problem if an answer that is trained on has neither text nor a tool call."""
        message = self.message
        if not message.tool_calls and is_empty_answer(message.content) and not row_issues.has_problem(self.place):
            where = self.place if self.key is None else f"{self.place}.{self.key}"
            row_issues.add_problem(where, "empty_answer", describe(message.content), EXPECTED_ANSWER)


def is_empty_answer(answer: str) -> bool:
    """Whether the answer is blank, apart from <think> tags."""
    return is_blank(THINKING_MARK.sub("", answer))


def read_messages(value: Any, column: str, row_issues: RowIssues) -> list[PlacedMessage]:
    """Returns the messages of a conversation, which may be JSON text, as in the cell of a table.

    Consecutive user messages are joined with a blank line, and counted as a fix.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = parse_json_text(
            value, column, row_issues, "a list of messages, or its JSON text (as json.dumps writes it)"
        )
        if value is None:
            return []
        row_issues.fix("json_text_parsed")
    if value is None or value == [] or (isinstance(value, str) and is_blank(value)):
        row_issues.add_problem(
            column, "empty_conversation", f"{describe(value)}: an empty conversation", "at least one message"
        )
        return []
    if not isinstance(value, list):
        row_issues.add_problem(column, "wrong_type", describe(value), "a list of messages")
        return []
    messages: list[PlacedMessage] = []
    for index, each in enumerate(value):
        place = f"{column}[{index}]"
        placed = _simple_message(each, place) or _full_message(each, column, place, row_issues)
        if placed is not None:
            _append(messages, placed, row_issues)
    return messages


def _append(messages: list[PlacedMessage], placed: PlacedMessage, row_issues: RowIssues) -> None:
    last, message = messages[-1].message if messages else None, placed.message
    if last is None or last.role != "user" or message.role != "user" or last.name != message.name:
        messages.append(placed)
        return
    row_issues.fix("merged_turns")
    merged = last.model_copy(update={"content": f"{last.content}\n\n{message.content}"})
    messages[-1] = messages[-1]._replace(message=merged)


def _simple_message(raw: Any, place: str) -> PlacedMessage | None:
    """Returns a message that has only a valid role and a clean text, as most do. Returns None for any other."""
    if not isinstance(raw, dict) or len(raw) != 2:
        return None
    role_key, key = ("role", "content") if "role" in raw else ("from", "value")
    name, content = raw.get(role_key), raw.get(key)
    role = PLAIN_ROLES.get(name) if isinstance(name, str) else None
    if role is None or not isinstance(content, str) or not is_clean(content):
        return None
    return PlacedMessage(Message(role=role, content=content), place, key)


def _full_message(raw: Any, column: str, where: str, row_issues: RowIssues) -> PlacedMessage | None:
    if not isinstance(raw, dict):
        row_issues.add_problem(where, "wrong_type", describe(raw), "an object with a role and content")
        return None
    is_sharegpt = column == "conversations"
    role_key = _key(raw, "role", "from", is_sharegpt)
    key = _key(raw, "content", "value", is_sharegpt)
    known = KNOWN_KEYS | {role_key, key}
    row_issues.ignored.update(f"{column}[].{name}" for name in raw if name not in known and raw[name] is not None)
    role, is_call = _role(raw, role_key, known, where, row_issues)
    if role is None:
        return None
    if is_call:
        calls, content = read_function_call(raw.get(key), f"{where}.{key}", row_issues), ""
    else:
        calls = _calls(raw, where, row_issues)
        content = "" if calls and raw.get(key) is None else _content(raw, key, known, where, row_issues)
    message = Message(
        role=role,
        content=content,
        name=_optional_text(raw, "name", where, row_issues),
        tool_calls=calls,
        tool_call_id=_optional_text(raw, "tool_call_id", where, row_issues),
        weight=_weight(raw.get("weight"), f"{where}.weight", row_issues),
    )
    return PlacedMessage(message, where, key)


def _key(raw: dict[str, Any], openai: str, sharegpt: str, is_sharegpt: bool) -> str:
    """Returns the key that has a value. If neither has one, returns the usual key of the column."""
    usual, other = (sharegpt, openai) if is_sharegpt else (openai, sharegpt)
    return other if raw.get(usual) is None and raw.get(other) is not None else usual


def _role(
    raw: dict[str, Any], key: str, known: Collection[str], where: str, row_issues: RowIssues
) -> tuple[Role | None, bool]:
    value = raw.get(key)
    name = value.lower() if isinstance(value, str) else None
    if name in ROLES:
        return ROLES[name], name == FUNCTION_CALL
    code, found = "unknown_role", describe(value)
    if value is None:
        code, found = "missing", describe_missing(raw, key, known, is_arrow=row_issues.is_arrow)
    row_issues.add_problem(f"{where}.{key}", code, found, f"one of {', '.join(ROLES)}")
    return None, False


def _calls(raw: dict[str, Any], where: str, row_issues: RowIssues) -> list[dict[str, Any]] | None:
    """Returns the tool calls of a message, including those under `function_call`, OpenAI's older key."""
    calls = read_calls(raw.get("tool_calls"), f"{where}.tool_calls", row_issues)
    if raw.get(FUNCTION_CALL) is None:
        return calls
    older = read_function_call(raw[FUNCTION_CALL], f"{where}.{FUNCTION_CALL}", row_issues)
    return [*(calls or ()), *(older or ())]


def _content(raw: dict[str, Any], key: str, known: Collection[str], where: str, row_issues: RowIssues) -> str:
    """Returns the text of a message. Adds a problem if there is none."""
    value = raw.get(key)
    if isinstance(value, list):
        return read_parts(value, f"{where}.{key}", row_issues)
    if value is not None:
        return row_issues.text(value, f"{where}.{key}")
    if not row_issues.has_problem(where):
        is_absent = key not in raw
        found = describe_missing(raw, key, known, is_arrow=row_issues.is_arrow)
        row_issues.add_problem(f"{where}.{key}", "missing" if is_absent else "wrong_type", found, "text")
    return ""


def _optional_text(raw: dict[str, Any], key: str, where: str, row_issues: RowIssues) -> str | None:
    return row_issues.text(raw[key], f"{where}.{key}") if raw.get(key) is not None else None


def _weight(value: Any, where: str, row_issues: RowIssues) -> Literal[0, 1] | None:
    if value is None:
        return None
    if isinstance(value, bool) or value not in (0, 1):
        row_issues.add_problem(where, "wrong_value", describe(value), "0 or 1")
        return None
    return 1 if value == 1 else 0
