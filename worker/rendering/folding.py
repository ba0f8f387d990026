"""Moves what a chat template does not support: a system message into a user message, tools into text.

    definitions   <tools> … </tools>, one JSON object per line, at the end of the system message
    a call        <tool_call>{"name": …, "arguments": …}</tool_call>, after the text of the answer
    results       <tool_response> … </tool_response>, successive ones in one user message

Hermes and Qwen models are trained with these marks, and inference servers parse them.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from app.contracts.records import Message

Tools = list[dict[str, Any]]
INTRODUCTION = (
    "These tools can be called. A call is a JSON object with the tool's name and its arguments, "
    "between <tool_call> and </tool_call>."
)


def fold_system(messages: Sequence[Message]) -> Sequence[Message]:
    """Put a leading system message at the start of the next user message. Without one the messages are returned
    unchanged.
    """
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return messages
    system, user = messages[0], messages[1]
    folded = user.model_copy(update={"content": f"{system.content}\n\n{user.content}"})
    return [folded, *messages[2:]]


def fold_tools(messages: Sequence[Message], tools: Tools | None) -> Sequence[Message]:
    """The same chat with its tools as text. Without tools the messages are returned unchanged."""
    if not tools and not any(message.tool_calls or message.role == "tool" for message in messages):
        return messages
    plain = [_as_text(message) for message in messages]
    return list(_together(_introduced(plain, tools) if tools else plain))


def _as_text(message: Message) -> Message:
    if not message.tool_calls:
        return message
    calls = "\n".join(_marked("tool_call", _call(call)) for call in message.tool_calls)
    content = f"{message.content}\n{calls}" if message.content else calls
    return message.model_copy(update={"content": content, "tool_calls": None})


def _call(call: dict[str, Any]) -> str:
    function = call["function"]
    return _json({"name": function["name"], "arguments": function["arguments"]})


def _introduced(messages: Sequence[Message], tools: Tools) -> list[Message]:
    definitions = f"{INTRODUCTION}\n{_marked('tools', chr(10).join(map(_json, tools)))}"
    if messages and messages[0].role == "system":
        system = messages[0].model_copy(update={"content": f"{messages[0].content}\n\n{definitions}"})
        return [system, *messages[1:]]
    return [Message(role="system", content=definitions), *messages]


def _together(messages: Sequence[Message]) -> Iterator[Message]:
    for is_result, group in groupby(messages, key=lambda message: message.role == "tool"):
        if not is_result:
            yield from group
            continue
        results = list(group)
        content = "\n".join(_marked("tool_response", result.content) for result in results)
        yield Message(role="user", content=content, name=results[0].name)


def _marked(name: str, text: str) -> str:
    return f"<{name}>\n{text}\n</{name}>"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
