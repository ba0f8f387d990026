"""Finds the characters of a rendered chat that are trained on. It uses the template itself and guesses no marker
strings.

Most chats are rendered once: an answer is between the template's generation prompt and its end token. Otherwise the
chat is also rendered up to each trained message: if the whole text starts with that part, the message starts or ends
where the part ends. A template that renders a message differently once others follow (it leaves out earlier thinking)
is rendered again with other content in that message: the characters that change are its content.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import itemgetter
from typing import Any

from app.contracts.records import Message
from worker.rendering.refusal import RowRefused
from worker.rendering.work import Work

Span = tuple[int, int]
# Renders messages, with the generation prompt at the end or without it.
Render = Callable[[Sequence[Message], bool], str]
# Two texts with different first and last characters, so that one of them differs from any answer at both ends.
PROBES = ("Qx0J", "Zk7W")


@dataclass(frozen=True)
class LearnedSpan:
    """Span [start, end) of an assistant message that is trained on. `follows_prompt`: the text before it equals the
    generation prompt that /generate would send.
    """

    start: int
    end: int
    follows_prompt: bool = True


class Prefixes:
    """A chat, its text, and the texts of its prefixes, each rendered once.

    `answer_prompt` is the template's generation prompt. `has_marks`: it contains a control token, so no message can
    contain it. `closing` is the end of a text that was rendered with the generation prompt. `hidden` are the control
    tokens that were found in messages. `work` is the budget for all renders of the chat.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        text: str,
        render: Render,
        *,
        tools: list[dict[str, Any]] | None = None,
        answer_prompt: str = "",
        closing: str = "",
        has_marks: bool = False,
        hidden: frozenset[str] = frozenset(),
        work: Work | None = None,
    ) -> None:
        self.messages = messages
        self.text = text
        self.tools = tools
        self.answer_prompt = answer_prompt
        self._closing = closing
        self.hidden = hidden
        self.work = work
        self._has_marks = has_marks
        self._render = render
        self._rendered: dict[tuple[int, bool], str | None] = {}

    @cached_property
    def marked(self) -> dict[int, int]:
        """The start of each answer, by message index: after the generation prompts, if there are as many as answers.

        Most templates need only this, with one render per chat. Empty if the numbers differ.
        """
        if not self._has_marks:
            return {}
        answers = [index for index, message in enumerate(self.messages) if message.role == "assistant"]
        pieces = self.text.removesuffix(self._closing).split(self.answer_prompt)
        ends = list(accumulate(len(piece) + len(self.answer_prompt) for piece in pieces[:-1]))
        return dict(zip(answers, ends, strict=True)) if len(ends) == len(answers) else {}

    @cached_property
    def starts(self) -> list[int]:
        """The known starts of answers."""
        answers = (index for index, message in enumerate(self.messages) if message.role == "assistant")
        return [start for index in answers if (start := self.start(index)) is not None]

    def until(self, end: int) -> "Prefixes":
        """The same chat, with its text cut at a position within its last message."""
        return Prefixes(
            self.messages,
            self.text[:end],
            self._render,
            tools=self.tools,
            answer_prompt=self.answer_prompt,
            has_marks=self._has_marks,
            hidden=self.hidden,
            work=self.work,
        )

    def start(self, index: int) -> int | None:
        """The start of an answer. Returns None if the text before it is not what /generate would send."""
        if index in self.marked:
            return self.marked[index]
        before = self.before(index)
        return len(before) if before is not None else None

    def before(self, index: int) -> str | None:
        """The text that /generate would send for the answer at an index. Returns None if the whole text does not start
        with it.

        Some templates write no generation prompt for an empty chat: then None is returned too.
        """
        before = self._beginning(index, True)
        is_place = index > 0 or before is None or before.endswith(self.answer_prompt)
        return before if is_place else None

    def through(self, index: int) -> str | None:
        """The text up to the end of a message. Returns None if the whole text does not start with it."""
        return self._beginning(index + 1, False)

    def changed(self, index: int, content: str) -> str:
        """The text of the chat with other content in a message. Raises RowRefused."""
        turn = self.messages[index].model_copy(update={"content": content})
        return self._render([*self.messages[:index], turn, *self.messages[index + 1 :]], False)

    def has_other_prompt(self, index: int, start: int) -> bool:
        """Whether /generate would send another text than the text before an answer. False if the template refuses that
        chat.
        """
        prompt = self._text(index, True) if index > 0 else None
        return prompt is not None and prompt != self.text[:start]

    def _beginning(self, count: int, is_asking: bool) -> str | None:
        text = self._text(count, is_asking)
        return text if text is not None and self.text.startswith(text) else None

    def _text(self, count: int, is_asking: bool) -> str | None:
        """Returns None if the template refuses a chat that stops there."""
        key = (count, is_asking)
        if key not in self._rendered:
            try:
                self._rendered[key] = self._render(self.messages[:count], is_asking)
            except RowRefused:
                self._rendered[key] = None
        return self._rendered[key]


@dataclass(frozen=True)
class Chat:
    """Finds the messages of a chat in its text."""

    prefixes: Prefixes
    end_tokens: Sequence[str]

    @property
    def text(self) -> str:
        return self.prefixes.text

    def turns(self, learned: Sequence[int]) -> list[LearnedSpan]:
        """The spans of the messages at these indexes, including their end tokens.

        Raises RowRefused if a message cannot be located, or is not rendered as an answer.
        """
        turns = [self._turn(index) for index in learned]
        for turn, before, index in zip(turns, [LearnedSpan(0, 0), *turns], learned, strict=False):
            if turn.start >= turn.end or turn.start < before.end:
                raise self._unmaskable(index)
        return turns

    def end_of_words(self, index: int) -> int:
        """The end of a message's content. Raises RowRefused if the content is not in the text unchanged."""
        start, end = self._content_span(index)
        if self.text[start:end].strip() != self.prefixes.messages[index].content.strip():
            raise RowRefused(
                "template_refused",
                found="a chat template that changes the content of this message",
                expected="a last message that it does not change, or continue_final_message false",
                field="messages",
            )
        return end

    def _marked_turn(self, index: int) -> LearnedSpan | None:
        """The span of an answer that is a generation prompt, the unchanged content, and an end token. Returns None for
        others.
        """
        start, content = self.prefixes.marked.get(index), self.prefixes.messages[index].content
        if start is None:
            return None
        ends = [start + len(text) for text in (content, content.strip()) if self.text.startswith(text, start)]
        found = (end + len(token) for end in ends for token in self.end_tokens if self.text.startswith(token, end))
        return next((LearnedSpan(start, end) for end in found), None)

    def _turn(self, index: int) -> LearnedSpan:
        marked = self._marked_turn(index)
        return marked if marked is not None else self._rendered_turn(index)

    def _rendered_turn(self, index: int) -> LearnedSpan:
        before, through = self.prefixes.before(index), self.prefixes.through(index)
        content = self._content_span(index) if before is None or through is None else (0, 0)
        start = len(before) if before is not None else content[0]
        follows_prompt = before is not None or self._follows_prompt(start, index)
        if through is not None:
            return LearnedSpan(start, self._end_of_turn(start, len(through)), follows_prompt)
        has_calls = bool(self.prefixes.messages[index].tool_calls)
        return LearnedSpan(start, self._next_end(max(start, content[1]), has_calls=has_calls), follows_prompt)

    def _follows_prompt(self, start: int, index: int) -> bool:
        """Whether the whole generation prompt is before a message. Raises RowRefused if not even a part of it is."""
        prompt, before = self.prefixes.answer_prompt, self.text[:start]
        length = next((size for size in range(len(prompt), 0, -1) if before.endswith(prompt[:size])), 0)
        if prompt and not length:
            raise self._unmaskable(index)
        return length == len(prompt)

    def _content_span(self, index: int) -> Span:
        """The characters that change if the message has other content."""
        ends, starts = [], []
        for probe in PROBES:
            try:
                other = self.prefixes.changed(index, probe)
            except RowRefused as error:
                raise self._unmaskable(index) from error
            starts.append(_common(self.text, other))
            ends.append(_common(self.text[::-1], other[::-1]))
        start, end = min(starts), len(self.text) - min(ends)
        if start == len(self.text):
            raise self._unmaskable(index)
        return start, max(start, end)

    def _end_of_turn(self, start: int, end: int) -> int:
        """The end of a message: what a template writes after the first end token (a line break, an EOS) is layout."""
        ends = [place + len(token) for token in self.end_tokens if (place := self.text.find(token, start, end)) >= 0]
        return min(ends, default=end)

    def _next_end(self, content_end: int, *, has_calls: bool) -> int:
        """The end of the next end token, if only blanks, or tool calls, are between it and the content; else the
        content's end.
        """
        found = [(self.text.find(token, content_end), token) for token in self.end_tokens]
        place, token = min(((place, token) for place, token in found if place >= 0), default=(content_end, ""))
        return place + len(token) if has_calls or not self.text[content_end:place].strip() else content_end

    def _unmaskable(self, index: int) -> RowRefused:
        return RowRefused(
            "template_not_maskable",
            found="a chat template that renders this message differently alone and within the chat",
            expected='a template whose messages can be located, or dataset.train_on "all"',
            field=f"messages[{index}]",
        )


def _common(one: str, other: str) -> int:
    """The length of the common prefix of two texts, by binary search."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def marked_spans(text: str, instruction_part: str, response_part: str) -> list[Span]:
    """The spans from each response marker to the next instruction marker or the end, as Unsloth's
    `train_on_responses_only` finds them.
    """
    spans, place = [], text.find(response_part)
    while place >= 0:
        start = place + len(response_part)
        end = text.find(instruction_part, start)
        spans.append((start, end if end >= 0 else len(text)))
        place = text.find(response_part, end) if end >= 0 else -1
    return spans


def tokens_of(text: str, offsets: Sequence[Span], span: Span) -> tuple[int, int]:
    """The tokens [first, last) whose characters all lie in a span. Offsets are in the order of the text.

    A token without characters (a blank that the tokenizer inserts) belongs to what follows it. Blanks that a control
    token includes belong to it.
    """
    start, end = span
    first = bisect_left(offsets, start, key=itemgetter(0))
    last = bisect_left(offsets, end, key=itemgetter(0))
    while last > first and text[end : offsets[last - 1][1]].strip():
        last -= 1
    return first, max(first, last)
