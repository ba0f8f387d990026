"""Turns of a chat, OpenAI's `role`/`content` and ShareGPT's `from`/`value`, as messages of the contract."""

from typing import Any, Literal

from app.contracts.records import Message
from app.files.findings import Findings, is_clean
from app.files.tools import read_calls, read_function_call
from app.files.values import describe

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


def read_turns(value: Any, column: str, findings: Findings) -> list[Message]:
    """The messages of a conversation. Users who speak twice in a row are merged with a blank line, and counted."""
    if value is None or value == []:
        findings.wrong(column, "empty_conversation", f"{describe(value)}: an empty conversation", "at least one turn")
        return []
    if not isinstance(value, list):
        findings.wrong(column, "wrong_type", describe(value), "a list of turns")
        return []
    messages: list[Message] = []
    for index, turn in enumerate(value):
        message = _plain(turn) or _turn(turn, column, index, findings)
        if message is not None:
            _append(messages, message, findings)
    return messages


def _append(messages: list[Message], message: Message, findings: Findings) -> None:
    last = messages[-1] if messages else None
    if last is None or last.role != "user" or message.role != "user" or last.name != message.name:
        messages.append(message)
        return
    findings.fix("merged_turns")
    messages[-1] = last.model_copy(update={"content": f"{last.content}\n\n{message.content}"})


def _plain(turn: Any) -> Message | None:
    """A turn of a role and a clean text and nothing more, as nearly all are: nothing about it has to be said."""
    if not isinstance(turn, dict) or len(turn) != 2:
        return None
    name, content = (turn["role"], turn.get("content")) if "role" in turn else (turn.get("from"), turn.get("value"))
    role = PLAIN_ROLES.get(name) if isinstance(name, str) else None
    return Message(role=role, content=content) if role and isinstance(content, str) and is_clean(content) else None


def _turn(turn: Any, column: str, index: int, findings: Findings) -> Message | None:
    where = f"{column}[{index}]"
    if not isinstance(turn, dict):
        findings.wrong(where, "wrong_type", describe(turn), "an object with a role and a content")
        return None
    is_sharegpt = column == "conversations"
    role_key = _key(turn, "role", "from", is_sharegpt)
    content_key = _key(turn, "content", "value", is_sharegpt)
    known = KNOWN_KEYS | {role_key, content_key}
    findings.ignored.update(f"{column}[].{key}" for key in turn if key not in known and turn[key] is not None)
    role, is_call = _role(turn.get(role_key), f"{where}.{role_key}", findings)
    if role is None:
        return None
    if is_call:
        calls, content = read_function_call(turn.get(content_key), f"{where}.{content_key}", findings), ""
    else:
        calls = _calls(turn, where, findings)
        content = _content(turn.get(content_key), f"{where}.{content_key}", findings, may_be_null=bool(calls))
    return Message(
        role=role,
        content=content,
        name=_label(turn, "name", where, findings),
        tool_calls=calls,
        tool_call_id=_label(turn, "tool_call_id", where, findings),
        weight=_weight(turn.get("weight"), f"{where}.weight", findings),
    )


def _key(turn: dict[str, Any], openai: str, sharegpt: str, is_sharegpt: bool) -> str:
    """The key that the turn has; where it has neither, the one that its column is known for."""
    usual, other = (sharegpt, openai) if is_sharegpt else (openai, sharegpt)
    return other if turn.get(usual) is None and turn.get(other) is not None else usual


def _role(value: Any, where: str, findings: Findings) -> tuple[Role | None, bool]:
    name = value.lower() if isinstance(value, str) else None
    if name not in ROLES:
        findings.wrong(where, "unknown_role", describe(value), f"one of {', '.join(ROLES)}")
        return None, False
    return ROLES[name], name == FUNCTION_CALL


def _calls(turn: dict[str, Any], where: str, findings: Findings) -> list[dict[str, Any]] | None:
    """The calls of a turn, with those under the one key that OpenAI had before `tool_calls`."""
    calls = read_calls(turn.get("tool_calls"), f"{where}.tool_calls", findings)
    if turn.get(FUNCTION_CALL) is None:
        return calls
    older = read_function_call(turn[FUNCTION_CALL], f"{where}.{FUNCTION_CALL}", findings)
    return [*(calls or ()), *(older or ())]


def _content(value: Any, where: str, findings: Findings, *, may_be_null: bool) -> str:
    if value is None and may_be_null:
        return ""
    if isinstance(value, list):
        return "\n".join(_part(part, f"{where}[{index}]", findings) for index, part in enumerate(value))
    return findings.text(value, where)


def _part(part: Any, where: str, findings: Findings) -> str:
    if not isinstance(part, dict):
        findings.wrong(where, "wrong_type", describe(part), 'a part such as {"type": "text", "text": "…"}')
        return ""
    if part.get("type") != "text":
        findings.wrong(f"{where}.type", "unsupported_part", describe(part.get("type")), "text")
        return ""
    return findings.text(part.get("text"), f"{where}.text")


def _label(turn: dict[str, Any], key: str, where: str, findings: Findings) -> str | None:
    return findings.text(turn[key], f"{where}.{key}") if turn.get(key) is not None else None


def _weight(value: Any, where: str, findings: Findings) -> Literal[0, 1] | None:
    if value is None:
        return None
    if isinstance(value, bool) or value not in (0, 1):
        findings.wrong(where, "wrong_value", describe(value), "0 or 1")
        return None
    return 1 if value == 1 else 0
