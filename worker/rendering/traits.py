"""What a chat template does and what it has no place for, found out by having it write a few words."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from app.contracts.records import Message
from worker.rendering.control import ControlTokens
from worker.rendering.folding import Tools, fold_tools
from worker.rendering.refusal import RowRefused
from worker.rendering.templates import Templates
from worker.rendering.work import Work

# No template writes these words of itself.
QUESTION, ANSWER, SYSTEM, TOOL = "Qx0J", "Zk7W", "Vb3Y", "look_up"
CHAT = [Message(role="user", content=QUESTION), Message(role="assistant", content=ANSWER)]
CALL = [{"id": "call00001", "type": "function", "function": {"name": TOOL, "arguments": {"word": ANSWER}}}]
CALLING = [CHAT[0], Message(role="assistant", content="", tool_calls=CALL)]
WORD = {"type": "object", "properties": {"word": {"type": "string"}}}
DEFINITIONS = [{"type": "function", "function": {"name": TOOL, "description": "", "parameters": WORD}}]
# Seconds of computing for all of it. Public templates take a hundredth.
MOST_WORK = 1.0


class Traits:
    """The traits of a tokenizer's templates, each found out once."""

    def __init__(self, templates: Templates, control: ControlTokens) -> None:
        self._templates = templates
        self._control = control
        self._work = Work(MOST_WORK)

    @cached_property
    def is_too_expensive(self) -> bool:
        """Whether the template takes more work than it may to write a few words."""
        with suppress(RowRefused):
            _ = self.turn_ends, self.knows_system, self.answer_prompt
        return self._work.is_done

    @cached_property
    def knows_system(self) -> bool:
        return self._writes(SYSTEM, [Message(role="system", content=SYSTEM), *CHAT])

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template writes calls or definitions; one that writes either has its own form for them."""
        return self._writes(TOOL, CALLING) or self._writes(TOOL, CHAT[:1], DEFINITIONS)

    @cached_property
    def turn_ends(self) -> tuple[str, ...]:
        """The control tokens that the template puts behind an answer, and behind a tool call."""
        ends = (self._end_of(chat) for chat in (CHAT, CALLING)) if self._templates else ()
        return tuple(dict.fromkeys(end for end in ends if end))

    @cached_property
    def answer_prompt(self) -> str:
        """What stands behind a chat to ask for an answer; empty where nothing does. Raises RowRefused."""
        asked, asking = self._write(CHAT[:1]), self._write(CHAT[:1], asks=True) + self.found_prompt
        return asking.removeprefix(asked) if asking.startswith(asked) else ""

    @cached_property
    def found_prompt(self) -> str:
        """What a template that ignores add_generation_prompt writes between a question and its answer, which is then
        put behind the question to ask. Empty for other templates, and where nothing but blanks stands there.

        A blank at its end is left to the answer: most tokenizers have words with a blank in front. Raises RowRefused.
        """
        asked = self._write(CHAT[:1])
        if self._write(CHAT[:1], asks=True) != asked:
            return ""
        try:
            prompt, answer, _ = self._write(CHAT).removeprefix(asked).partition(ANSWER)
        except RowRefused:
            return ""
        return prompt.rstrip(" ") if answer and QUESTION not in prompt and prompt.strip() else ""

    def _write(self, chat: Sequence[Message], tools: Tools | None = None, *, asks: bool = False) -> str:
        turns = [message.for_template() for message in chat]
        return self._templates.apply(turns, tools, {}, add_generation_prompt=asks, work=self._work)

    def _writes(self, word: str, chat: Sequence[Message], tools: Tools | None = None) -> bool:
        try:
            return word in self._write(chat, tools)
        except RowRefused:
            return False

    def _end_of(self, chat: Sequence[Message]) -> str | None:
        """The first control token behind the answer; None where what ends a turn is plain text."""
        try:
            _, answer, behind = self._write(chat if self.knows_tools else fold_tools(chat, None)).rpartition(ANSWER)
        except RowRefused:
            return None
        if not answer:  # a template that leaves tool calls out
            return None
        places = {token: behind.find(token) for token in self._control.texts if token in behind}
        return min(places, key=lambda token: places[token], default=None)
