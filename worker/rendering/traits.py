"""Finds out what a chat template supports, by rendering short chats."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from app.contracts.records import Message
from worker.rendering.control import ControlTokens
from worker.rendering.folding import Tools, fold_tools
from worker.rendering.refusal import RowRefused
from worker.rendering.templates import Templates
from worker.rendering.work import Work

# Texts that no template contains itself.
QUESTION, ANSWER, SYSTEM, TOOL = "Qx0J", "Zk7W", "Vb3Y", "look_up"
CHAT = [Message(role="user", content=QUESTION), Message(role="assistant", content=ANSWER)]
CALL = [{"id": "call00001", "type": "function", "function": {"name": TOOL, "arguments": {"word": ANSWER}}}]
CALLING = [CHAT[0], Message(role="assistant", content="", tool_calls=CALL)]
WORD = {"type": "object", "properties": {"word": {"type": "string"}}}
DEFINITIONS = [{"type": "function", "function": {"name": TOOL, "description": "", "parameters": WORD}}]
# CPU seconds for all these renders; public templates take a hundredth of it.
MOST_WORK = 1.0


class Traits:
    """The traits of a tokenizer's templates, each computed once."""

    def __init__(self, templates: Templates, control: ControlTokens) -> None:
        self._templates = templates
        self._control = control
        self._work = Work(MOST_WORK)

    @cached_property
    def is_too_expensive(self) -> bool:
        """Whether the template exceeds its budget even for short chats."""
        with suppress(RowRefused):
            _ = self.turn_ends, self.knows_system, self.answer_prompt
        return self._work.is_done

    @cached_property
    def knows_system(self) -> bool:
        return self._writes(SYSTEM, [Message(role="system", content=SYSTEM), *CHAT])

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template writes tool calls or definitions; if it writes either, it has its own format."""
        return self._writes(TOOL, CALLING) or self._writes(TOOL, CHAT[:1], DEFINITIONS)

    @cached_property
    def turn_ends(self) -> tuple[str, ...]:
        """The control tokens that the template writes after an answer, and after a tool call."""
        ends = (self._end_of(chat) for chat in (CHAT, CALLING)) if self._templates else ()
        return tuple(dict.fromkeys(end for end in ends if end))

    @cached_property
    def answer_prompt(self) -> str:
        """The generation prompt after a chat; empty if the template writes none. Raises RowRefused."""
        asked, asking = self._write(CHAT[:1]), self._write(CHAT[:1], asks=True) + self.found_prompt
        return asking.removeprefix(asked) if asking.startswith(asked) else ""

    @cached_property
    def found_prompt(self) -> str:
        """If a template ignores add_generation_prompt: the text that it writes between a question and its answer, which
        is then used as generation prompt. Empty for other templates, and if there are only blanks.

        A blank at its end is left to the answer: in most tokenizers words begin with a blank. Raises RowRefused.
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
        """The first control token after the answer. Returns None if plain text ends a message."""
        try:
            _, answer, behind = self._write(chat if self.knows_tools else fold_tools(chat, None)).rpartition(ANSWER)
        except RowRefused:
            return None
        if not answer:  # the template leaves out tool calls
            return None
        places = {token: behind.find(token) for token in self._control.texts if token in behind}
        return min(places, key=lambda token: places[token], default=None)
