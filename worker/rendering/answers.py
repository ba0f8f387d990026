"""Compares an answer with the text that its chat template writes for it, and names the difference."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.contracts.records import Message
from worker.rendering.refusal import RowRefused

THINKING, END_OF_THINKING = "<think>", "</think>"
THOUGHT = re.compile("</?think>")
# The number of characters of a text that a report shows.
SHOWN = 80


@dataclass
class Difference:
    """`findings` are codes of `worker.rendering.rows.FINDINGS`. `added` are texts that the template added to the
    answer. `is_changed`: the answer itself is not in the learned text.
    """

    findings: set[str] = field(default_factory=set)
    added: list[str] = field(default_factory=list)
    is_changed: bool = False


def compare(message: Message, learned: str, before: str, end_tokens: Sequence[str]) -> Difference:
    """Compare an answer with the text `learned` for it, which follows the text `before`."""
    found = Difference()
    content, body = message.content.strip(), _without_end(learned, end_tokens)
    if _is_unpaired(before.rstrip().endswith(THINKING), body):
        found.findings.add("thinking_unpaired")
    if content in body:
        _note_added(found, message, _around(content, body))
    elif escaped(content) in body:
        found.findings.add("answer_rewritten")
    elif _squeezed(content) in _squeezed(body) and END_OF_THINKING in content:
        found.findings.add("answer_rewritten")
        _note_added(found, message, _around(_squeezed(content), _squeezed(body)))
    elif END_OF_THINKING in content and content.rpartition(END_OF_THINKING)[2].strip() in body:
        found.findings.add("thinking_left_out")
    else:
        found.is_changed = True
    return found


def answer_changed(index: int) -> RowRefused:
    return RowRefused(
        "answer_changed",
        found="a chat template that changes this answer",
        expected="a template that does not change answers",
        field=f"messages[{index}].content",
    )


def escaped(content: str) -> str:
    """The text as a template writes it inside a JSON string."""
    return json.dumps(content, ensure_ascii=False)[1:-1]


def shown(text: str) -> str:
    """A text as a report shows it: quoted, and shortened."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def _without_end(learned: str, end_tokens: Sequence[str]) -> str:
    body = learned.strip()
    end = next((token for token in end_tokens if body.endswith(token)), "")
    return body.removesuffix(end).strip()


def _is_unpaired(is_open: bool, body: str) -> bool:
    """Whether the text closes a thinking block that is not open, or leaves one open."""
    for mark in THOUGHT.findall(body):
        if is_open == (mark == THINKING):
            return True
        is_open = not is_open
    return is_open and THINKING in body


def _around(content: str, body: str) -> tuple[str, str]:
    """The texts before and after the content, which is at the end of the body if possible, else at its first
    occurrence.
    """
    if body.endswith(content):
        return body[: len(body) - len(content)], ""
    before, _, behind = body.partition(content)
    return before, behind


def _note_added(found: Difference, message: Message, around: tuple[str, str]) -> None:
    """Note added texts. Tool calls are not part of the content and do not count as added."""
    names = [str(call["function"]["name"]) for call in message.tool_calls or []]
    for text in around:
        if text.strip() and not any(name in text for name in names):
            found.added.append(text)


def _squeezed(text: str) -> str:
    return "".join(text.split())
