"""Turns of a chat, OpenAI's `role`/`content` and ShareGPT's `from`/`value`, as messages of the contract."""

import re
from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from app.contracts.records import Message
from app.datasets.parts import read_parts
from app.datasets.row_issues import RowIssues, is_clean
from app.datasets.tools import parsed, read_calls, read_function_call
from app.datasets.values import describe, is_blank, lacking

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
# Names under which a turn is what its content says.
PLAIN_ROLES = {name: role for name, role in ROLES.items() if name != FUNCTION_CALL}
# Beside the keys of role and content.
KNOWN_KEYS = frozenset({"name", "tool_calls", FUNCTION_CALL, "tool_call_id", "weight"})
THINKING_MARK = re.compile("</?think>")
EXPECTED_ANSWER = "an answer with text, or with tool calls"


class Turn(NamedTuple):
    """A message, where it stands in its row (`messages[1]`), and under which key of it, if any, its text does."""

    message: Message
    place: str
    key: str | None = None

    @property
    def without_loss(self) -> "Turn":
        return self._replace(message=self.message.model_copy(update={"weight": 0}))

    def check_says_something(self, row_issues: RowIssues) -> None:
        """Of an answer that is learned: it has a text or calls a tool. One that carries no loss may be empty."""
        message = self.message
        if not message.tool_calls and says_nothing(message.content) and not row_issues.has_wrong(self.place):
            where = self.place if self.key is None else f"{self.place}.{self.key}"
            row_issues.wrong(where, "empty_answer", describe(message.content), EXPECTED_ANSWER)


def says_nothing(answer: str) -> bool:
    """Whether it is blank, but for the marks of a thought that was none."""
    return is_blank(THINKING_MARK.sub("", answer))


def read_turns(value: Any, column: str, row_issues: RowIssues) -> list[Turn]:
    """The turns of a conversation, or of the JSON text of one, as a table's cell holds it.

    Users who speak twice in a row are merged with a blank line, and counted.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = parsed(value, column, row_issues, "a list of turns, or the JSON text of one (json.dumps writes it)")
        if value is None:
            return []
        row_issues.fix("json_text_parsed")
    if value is None or value == [] or (isinstance(value, str) and is_blank(value)):
        row_issues.wrong(column, "empty_conversation", f"{describe(value)}: an empty conversation", "at least one turn")
        return []
    if not isinstance(value, list):
        row_issues.wrong(column, "wrong_type", describe(value), "a list of turns")
        return []
    turns: list[Turn] = []
    for index, each in enumerate(value):
        place = f"{column}[{index}]"
        turn = _plain(each, place) or _turn(each, column, place, row_issues)
        if turn is not None:
            _append(turns, turn, row_issues)
    return turns


def _append(turns: list[Turn], turn: Turn, row_issues: RowIssues) -> None:
    last, message = turns[-1].message if turns else None, turn.message
    if last is None or last.role != "user" or message.role != "user" or last.name != message.name:
        turns.append(turn)
        return
    row_issues.fix("merged_turns")
    merged = last.model_copy(update={"content": f"{last.content}\n\n{message.content}"})
    turns[-1] = turns[-1]._replace(message=merged)


def _plain(turn: Any, place: str) -> Turn | None:
    """A turn of a role and a clean text and nothing more, as nearly all are: nothing about it has to be said."""
    if not isinstance(turn, dict) or len(turn) != 2:
        return None
    role_key, key = ("role", "content") if "role" in turn else ("from", "value")
    name, content = turn.get(role_key), turn.get(key)
    role = PLAIN_ROLES.get(name) if isinstance(name, str) else None
    if role is None or not isinstance(content, str) or not is_clean(content):
        return None
    return Turn(Message(role=role, content=content), place, key)


def _turn(turn: Any, column: str, where: str, row_issues: RowIssues) -> Turn | None:
    if not isinstance(turn, dict):
        row_issues.wrong(where, "wrong_type", describe(turn), "an object with a role and a content")
        return None
    is_sharegpt = column == "conversations"
    role_key = _key(turn, "role", "from", is_sharegpt)
    key = _key(turn, "content", "value", is_sharegpt)
    known = KNOWN_KEYS | {role_key, key}
    row_issues.ignored.update(f"{column}[].{name}" for name in turn if name not in known and turn[name] is not None)
    role, is_call = _role(turn, role_key, known, where, row_issues)
    if role is None:
        return None
    if is_call:
        calls, content = read_function_call(turn.get(key), f"{where}.{key}", row_issues), ""
    else:
        calls = _calls(turn, where, row_issues)
        content = "" if calls and turn.get(key) is None else _content(turn, key, known, where, row_issues)
    message = Message(
        role=role,
        content=content,
        name=_label(turn, "name", where, row_issues),
        tool_calls=calls,
        tool_call_id=_label(turn, "tool_call_id", where, row_issues),
        weight=_weight(turn.get("weight"), f"{where}.weight", row_issues),
    )
    return Turn(message, where, key)


def _key(turn: dict[str, Any], openai: str, sharegpt: str, is_sharegpt: bool) -> str:
    """The key that the turn has; where it has neither, the one that its column is known for."""
    usual, other = (sharegpt, openai) if is_sharegpt else (openai, sharegpt)
    return other if turn.get(usual) is None and turn.get(other) is not None else usual


def _role(
    turn: dict[str, Any], key: str, known: Collection[str], where: str, row_issues: RowIssues
) -> tuple[Role | None, bool]:
    value = turn.get(key)
    name = value.lower() if isinstance(value, str) else None
    if name in ROLES:
        return ROLES[name], name == FUNCTION_CALL
    code, found = "unknown_role", describe(value)
    if value is None:
        code, found = "missing", lacking(turn, key, known, is_arrow=row_issues.is_arrow)
    row_issues.wrong(f"{where}.{key}", code, found, f"one of {', '.join(ROLES)}")
    return None, False


def _calls(turn: dict[str, Any], where: str, row_issues: RowIssues) -> list[dict[str, Any]] | None:
    """The calls of a turn, with those under the one key that OpenAI had before `tool_calls`."""
    calls = read_calls(turn.get("tool_calls"), f"{where}.tool_calls", row_issues)
    if turn.get(FUNCTION_CALL) is None:
        return calls
    older = read_function_call(turn[FUNCTION_CALL], f"{where}.{FUNCTION_CALL}", row_issues)
    return [*(calls or ()), *(older or ())]


def _content(turn: dict[str, Any], key: str, known: Collection[str], where: str, row_issues: RowIssues) -> str:
    """The text of a turn; where there is none, what stands there instead."""
    value = turn.get(key)
    if isinstance(value, list):
        return read_parts(value, f"{where}.{key}", row_issues)
    if value is not None:
        return row_issues.text(value, f"{where}.{key}")
    if not row_issues.has_wrong(where):
        is_absent = key not in turn
        found = lacking(turn, key, known, is_arrow=row_issues.is_arrow)
        row_issues.wrong(f"{where}.{key}", "missing" if is_absent else "wrong_type", found, "text")
    return ""


def _label(turn: dict[str, Any], key: str, where: str, row_issues: RowIssues) -> str | None:
    return row_issues.text(turn[key], f"{where}.{key}") if turn.get(key) is not None else None


def _weight(value: Any, where: str, row_issues: RowIssues) -> Literal[0, 1] | None:
    if value is None:
        return None
    if isinstance(value, bool) or value not in (0, 1):
        row_issues.wrong(where, "wrong_value", describe(value), "0 or 1")
        return None
    return 1 if value == 1 else 0
