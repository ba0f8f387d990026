"""Which tokens carry loss, found from the rendered text itself: no marker strings are guessed.

A chat is rendered once whole, and once up to each assistant turn. Where the whole text begins with such a part, the
part's end is where the turn begins, so the turn's characters are known exactly; the tokenizer's character offsets say
which tokens they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.contracts.records import ChatRecord, Message

IGNORED = -100
Span = tuple[int, int]
Render = Callable[[list[dict[str, Any]], bool], str]


class UnmaskableTemplate(Exception):
    """The template renders a turn differently once others follow, so its characters cannot be told."""


@dataclass(frozen=True)
class Rendered:
    """A record's text and the character spans [start, end) that are to be learned."""

    text: str
    spans: list[Span]


def render_chat(chat: ChatRecord, render: Render, end_tokens: Sequence[str], *, all_tokens: bool) -> Rendered:
    """The text of a chat and its learned spans: every assistant turn up to its end token, but those of weight 0.

    `render(messages, add_generation_prompt)` applies the chat template. Raises UnmaskableTemplate.
    """
    messages = [message.for_template() for message in chat.messages]
    text = render(messages, False)
    if all_tokens:
        return Rendered(text, [(0, len(text))])
    learned = [index for index, message in enumerate(chat.messages) if _is_learned(message)]
    return Rendered(text, [_turn(text, messages, index, render, end_tokens) for index in learned])


def _is_learned(message: Message) -> bool:
    return message.role == "assistant" and message.weight != 0


def _turn(text: str, messages: list[dict[str, Any]], index: int, render: Render, end_tokens: Sequence[str]) -> Span:
    before, through = render(messages[:index], True), render(messages[: index + 1], False)
    if not text.startswith(through) or not through.startswith(before):
        raise UnmaskableTemplate(f"turn {index} is rendered differently alone and within the chat")
    return len(before), _end_of_turn(text, len(before), len(through), end_tokens)


def _end_of_turn(text: str, start: int, end: int, end_tokens: Sequence[str]) -> int:
    """What a template puts behind the end token (a line break) belongs to the layout, not to the answer."""
    ends = [place + len(token) for token in end_tokens if (place := text.rfind(token, start, end)) >= 0]
    return max(ends, default=end)


def labels_of(input_ids: Sequence[int], offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """Token ids where a token's characters lie in a span, -100 elsewhere. All lists have one entry a token."""
    labels = []
    remaining = iter(sorted(spans))
    span = next(remaining, None)
    for token, (start, end) in zip(input_ids, offsets, strict=True):
        while span is not None and start >= span[1]:
            span = next(remaining, None)
        is_inside = span is not None and start < end and start >= span[0] and end <= span[1]
        labels.append(token if is_inside else IGNORED)
    return labels
