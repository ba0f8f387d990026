"""Which characters of a rendered chat are learned, found from the template itself: no marker strings are guessed.

Most chats are rendered once: an answer stands behind what the template asks for answers with, up to its end token.
Where that is not so plain, the chat is rendered up to each learned turn as well: where the whole text begins with such
a part, the part's end is where the turn begins or ends. A template that renders a turn differently once others follow
(it leaves earlier thinking out) is asked again with other words in that turn: what changes is what the turn says.
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
# Renders messages, with the prompt for the next answer behind them or not.
Render = Callable[[Sequence[Message], bool], str]
# Two texts that share no first and no last character, so that one of them differs from any answer at both ends.
PROBES = ("Qx0J", "Zk7W")


@dataclass(frozen=True)
class LearnedSpan:
    """Characters [start, end) of a learned turn. `is_asked_for`: /generate would ask for it by the text before it."""

    start: int
    end: int
    is_asked_for: bool = True


class Prefixes:
    """A chat and its text, and the texts of its beginnings; each is rendered once.

    `answer_prompt` is what the template asks for an answer with, and `has_marks` says that it holds a control token, so
    that no message can. `closing` is what the text ends with where it asks. `hidden` are the control tokens that were
    found in messages. `work` is what all renders of the chat may take together.
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
        """Where each answer begins, by its index: behind the answer prompts, if there are as many as answers.

        Most templates are done with by this, at one rendering a chat. Empty where it cannot be said so simply.
        """
        if not self._has_marks:
            return {}
        answers = [index for index, message in enumerate(self.messages) if message.role == "assistant"]
        pieces = self.text.removesuffix(self._closing).split(self.answer_prompt)
        ends = list(accumulate(len(piece) + len(self.answer_prompt) for piece in pieces[:-1]))
        return dict(zip(answers, ends, strict=True)) if len(ends) == len(answers) else {}

    @cached_property
    def starts(self) -> list[int]:
        """Where answers begin, of those of which it can be told."""
        answers = (index for index, message in enumerate(self.messages) if message.role == "assistant")
        return [start for index in answers if (start := self.start(index)) is not None]

    def until(self, end: int) -> "Prefixes":
        """The same chat, its text up to a place within its last turn."""
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
        """Where an answer begins; None where the text up to there is not what /generate is given for it."""
        if index in self.marked:
            return self.marked[index]
        before = self.before(index)
        return len(before) if before is not None else None

    def before(self, index: int) -> str | None:
        """What /generate is given for the answer at an index; None where the text does not begin so.

        Some templates ask for nothing where nothing was said: then this is no place where an answer begins.
        """
        before = self._beginning(index, True)
        is_place = index > 0 or before is None or before.endswith(self.answer_prompt)
        return before if is_place else None

    def through(self, index: int) -> str | None:
        """The text up to the end of a turn; None where the whole text does not begin so."""
        return self._beginning(index + 1, False)

    def changed(self, index: int, content: str) -> str:
        """The text of the chat with other words in a turn. Raises RowRefused."""
        turn = self.messages[index].model_copy(update={"content": content})
        return self._render([*self.messages[:index], turn, *self.messages[index + 1 :]], False)

    def is_asked_otherwise(self, index: int, start: int) -> bool:
        """Whether /generate is given another text than the one before an answer's place. No question at all is none."""
        asked = self._text(index, True) if index > 0 else None
        return asked is not None and asked != self.text[:start]

    def _beginning(self, count: int, is_asking: bool) -> str | None:
        text = self._text(count, is_asking)
        return text if text is not None and self.text.startswith(text) else None

    def _text(self, count: int, is_asking: bool) -> str | None:
        """None for a chat that the template refuses because it stops there."""
        key = (count, is_asking)
        if key not in self._rendered:
            try:
                self._rendered[key] = self._render(self.messages[:count], is_asking)
            except RowRefused:
                self._rendered[key] = None
        return self._rendered[key]


@dataclass(frozen=True)
class Chat:
    """Finds the turns of a chat."""

    prefixes: Prefixes
    end_tokens: Sequence[str]

    @property
    def text(self) -> str:
        return self.prefixes.text

    def turns(self, learned: Sequence[int]) -> list[LearnedSpan]:
        """The turns at these indexes, each up to and with its end token.

        Raises RowRefused for a turn whose place cannot be told, or that does not stand there as an answer.
        """
        turns = [self._turn(index) for index in learned]
        for turn, before, index in zip(turns, [LearnedSpan(0, 0), *turns], learned, strict=False):
            if turn.start >= turn.end or turn.start < before.end:
                raise self._unmaskable(index)
        return turns

    def end_of_words(self, index: int) -> int:
        """Where the words of a turn end. Raises RowRefused where they do not stand in the text as they are."""
        start, end = self._said(index)
        if self.text[start:end].strip() != self.prefixes.messages[index].content.strip():
            raise RowRefused(
                "template_refused",
                found="a chat template that writes the words of this message differently",
                expected="a last message that it writes as it is, or none to be continued",
                field="messages",
            )
        return end

    def _marked_turn(self, index: int) -> LearnedSpan | None:
        """An answer behind an answer prompt that is its words, as they are, and an end token."""
        start, content = self.prefixes.marked.get(index), self.prefixes.messages[index].content
        if start is None:
            return None
        ends = [start + len(said) for said in (content, content.strip()) if self.text.startswith(said, start)]
        found = (end + len(token) for end in ends for token in self.end_tokens if self.text.startswith(token, end))
        return next((LearnedSpan(start, end) for end in found), None)

    def _turn(self, index: int) -> LearnedSpan:
        marked = self._marked_turn(index)
        return marked if marked is not None else self._rendered_turn(index)

    def _rendered_turn(self, index: int) -> LearnedSpan:
        before, through = self.prefixes.before(index), self.prefixes.through(index)
        said = self._said(index) if before is None or through is None else (0, 0)
        start = len(before) if before is not None else said[0]
        is_asked_for = before is not None or self._is_asked_for(start, index)
        if through is not None:
            return LearnedSpan(start, self._end_of_turn(start, len(through)), is_asked_for)
        has_calls = bool(self.prefixes.messages[index].tool_calls)
        return LearnedSpan(start, self._next_end(max(start, said[1]), has_calls=has_calls), is_asked_for)

    def _is_asked_for(self, start: int, index: int) -> bool:
        """Whether all of the answer prompt stands before a turn. Raises RowRefused where nothing of it does."""
        prompt, before = self.prefixes.answer_prompt, self.text[:start]
        length = next((size for size in range(len(prompt), 0, -1) if before.endswith(prompt[:size])), 0)
        if prompt and not length:
            raise self._unmaskable(index)
        return length == len(prompt)

    def _said(self, index: int) -> Span:
        """The characters that change when the turn says something else."""
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
        """What a template puts behind the first end token (a line break, an EOS) belongs to the layout."""
        ends = [place + len(token) for token in self.end_tokens if (place := self.text.find(token, start, end)) >= 0]
        return min(ends, default=end)

    def _next_end(self, said: int, *, has_calls: bool) -> int:
        """The nearest end token behind what a turn says, with nothing but blanks, or its tool calls, between."""
        found = [(self.text.find(token, said), token) for token in self.end_tokens]
        place, token = min(((place, token) for place, token in found if place >= 0), default=(said, ""))
        return place + len(token) if has_calls or not self.text[said:place].strip() else said

    def _unmaskable(self, index: int) -> RowRefused:
        return RowRefused(
            "template_not_maskable",
            found="a chat template that renders this turn differently alone and within the chat",
            expected='a template whose turns can be told apart, or dataset.train_on "all"',
            field=f"messages[{index}]",
        )


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common from their start, found by halves."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def marked_spans(text: str, instruction_part: str, response_part: str) -> list[Span]:
    """From behind each response marker to the next instruction marker, or the end: what Unsloth's
    `train_on_responses_only` trains."""
    spans, place = [], text.find(response_part)
    while place >= 0:
        start = place + len(response_part)
        end = text.find(instruction_part, start)
        spans.append((start, end if end >= 0 else len(text)))
        place = text.find(response_part, end) if end >= 0 else -1
    return spans


def tokens_of(text: str, offsets: Sequence[Span], span: Span) -> tuple[int, int]:
    """The tokens [first, last) whose characters all lie in a span. Offsets are in the order of the text.

    A token without characters (a blank that the tokenizer puts in) belongs to what follows it, and blanks that a
    control token swallows belong to it.
    """
    start, end = span
    first = bisect_left(offsets, start, key=itemgetter(0))
    last = bisect_left(offsets, end, key=itemgetter(0))
    while last > first and text[end : offsets[last - 1][1]].strip():
        last -= 1
    return first, max(first, last)
