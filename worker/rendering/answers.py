"""What a chat template makes of an answer: the text that is learned is the answer's, or the difference has a name."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.contracts.records import Message
from worker.rendering.refusal import RowRefused

THINKING, END_OF_THINKING = "<think>", "</think>"
THOUGHT = re.compile("</?think>")
# Characters of a text that a report shows.
SHOWN = 80


@dataclass
class Difference:
    """`findings` are codes of `worker.rendering.rows.FINDINGS`, `added` what stands in the learned text beside the
    answer, `is_changed` that the answer itself does not stand there."""

    findings: set[str] = field(default_factory=set)
    added: list[str] = field(default_factory=list)
    is_changed: bool = False


def compare(message: Message, learned: str, asked: str, end_tokens: Sequence[str]) -> Difference:
    """An answer held against the text that is learned for it, which stands behind `asked`."""
    found = Difference()
    content, body = message.content.strip(), _without_end(learned, end_tokens)
    if _is_unpaired(asked.rstrip().endswith(THINKING), body):
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
        found="a chat template that writes something else than this answer",
        expected="a template that keeps answers as they are",
        field=f"messages[{index}].content",
    )


def escaped(content: str) -> str:
    """As templates write what stands inside of JSON."""
    return json.dumps(content, ensure_ascii=False)[1:-1]


def shown(text: str) -> str:
    """A text as a report shows it."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def _without_end(learned: str, end_tokens: Sequence[str]) -> str:
    body = learned.strip()
    end = next((token for token in end_tokens if body.endswith(token)), "")
    return body.removesuffix(end).strip()


def _is_unpaired(is_open: bool, body: str) -> bool:
    """Whether a text closes a thought that is not open, or leaves one open."""
    for mark in THOUGHT.findall(body):
        if is_open == (mark == THINKING):
            return True
        is_open = not is_open
    return is_open and THINKING in body


def _around(content: str, body: str) -> tuple[str, str]:
    """What stands before and behind a content, at the end of a text or at its start where that may be."""
    if body.endswith(content):
        return body[: len(body) - len(content)], ""
    before, _, behind = body.partition(content)
    return before, behind


def _note_added(found: Difference, message: Message, around: tuple[str, str]) -> None:
    """Tool calls are not of the content, and no addition."""
    names = [str(call["function"]["name"]) for call in message.tool_calls or []]
    for text in around:
        if text.strip() and not any(name in text for name in names):
            found.added.append(text)


def _squeezed(text: str) -> str:
    return "".join(text.split())
