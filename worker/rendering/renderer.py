"""One model's language: its tokenizer and chat template. The checker, the trainer and the engine all read and write by
it, so that the same messages are the same token ids everywhere.

The template alone writes control tokens, and it writes the one BOS; what stands in a message is always plain text.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from tokenizers.processors import ByteLevel

from app.contracts.chat import ChatForm
from app.contracts.records import Message
from worker.rendering.control import GUARD, ControlTokens
from worker.rendering.encoded import Encoded
from worker.rendering.folding import Tools, fold_system, fold_tools
from worker.rendering.masking import Chat, Prefixes
from worker.rendering.refusal import RowRefused
from worker.rendering.templates import Templates

QUESTION, ANSWER, SYSTEM = "question", "answer", "instruction"
PROBE = [Message(role="user", content=QUESTION), Message(role="assistant", content=ANSWER)]
TOOL = "look_up"
CALL = [{"id": "call00001", "type": "function", "function": {"name": TOOL, "arguments": {"word": ANSWER}}}]
WORD = {"type": "object", "properties": {"word": {"type": "string"}}}
DEFINITIONS = [{"type": "function", "function": {"name": TOOL, "description": "", "parameters": WORD}}]
PROBES = (PROBE, [PROBE[0], Message(role="assistant", content="", tool_calls=CALL)])
AS_TRAINED = ChatForm()


class NoTokenizer(Exception):
    """A folder has no tokenizer that can be read, or none that tells where its tokens stand in a text."""


class Renderer:
    """Makes text of messages and ids of text. `tokenizer` is a fast transformers tokenizer, and is this object's own:
    it is set up once here and never changed again, so that threads may share it."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise NoTokenizer("it is a slow one, which does not tell where its tokens stand")
        self.tokenizer = tokenizer
        self.control = ControlTokens(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.opening = _added_in_front(self._backend)
        # From here on a text is encoded without additions, and offsets have their blanks.
        self._backend.post_processor = ByteLevel(trim_offsets=False)
        self.templates = Templates(tokenizer)

    def render(
        self,
        messages: Sequence[Message],
        tools: Tools | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text of a chat, as the template writes it with more variables than a chat has. Raises as `Templates`.

        What the template has no place for stands where `worker.rendering.folding` puts it.
        """
        turns, tools = self.fold(messages, tools)
        written = [turn.for_template() for turn in turns]
        return self.templates.apply(written, tools, variables or {}, add_generation_prompt=add_generation_prompt)

    def fold(self, messages: Sequence[Message], tools: Tools | None) -> tuple[Sequence[Message], Tools | None]:
        """The messages and tools that the template is given: the same ones, where it knows tools and a system role."""
        if not self.knows_tools:
            messages, tools = fold_tools(messages, tools), None
        return (messages if self.knows_system else fold_system(messages)), tools

    @cached_property
    def knows_system(self) -> bool:
        return self._writes(SYSTEM, [Message(role="system", content=SYSTEM), *PROBE])

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template writes calls or definitions; one that writes either has its own form for them."""
        return self._writes(TOOL, PROBES[1]) or self._writes(TOOL, PROBE[:1], DEFINITIONS)

    def _writes(self, word: str, messages: Sequence[Message], tools: Tools | None = None) -> bool:
        try:
            turns = [message.for_template() for message in messages]
            return word in self.templates.apply(turns, tools, {}, add_generation_prompt=False)
        except RowRefused:
            return False

    @cached_property
    def turn_ends(self) -> tuple[str, ...]:
        """The control tokens that the template puts behind an answer, and behind a tool call."""
        ends = (self._end_of(probe) for probe in PROBES) if self.templates else ()
        return tuple(dict.fromkeys(end for end in ends if end))

    @cached_property
    def answer_prompt(self) -> str:
        """What the template puts behind a chat to ask for an answer; empty where it puts nothing."""
        asked = self.render(PROBE[:1])
        asking = self.render(PROBE[:1], add_generation_prompt=True)
        return asking.removeprefix(asked) if asking.startswith(asked) else ""

    @cached_property
    def end_tokens(self) -> tuple[str, ...]:
        """The control tokens that may end an answer: the tokenizer's EOS, and the template's."""
        eos = self.tokenizer.eos_token
        return tuple(dict.fromkeys([*([str(eos)] if eos else []), *self.turn_ends]))

    def encode(self, text: str) -> Encoded:
        """The tokens of a text and nothing beside it; control tokens in it are such."""
        found = self._backend.encode(text, add_special_tokens=False)
        return Encoded(found.ids, found.offsets)

    def encode_chat(self, chat: Prefixes) -> Encoded:
        """The tokens of a rendered chat, none of which reaches over the start of an answer: what asks for an answer is
        the same tokens whatever the answer turns out to be."""
        answers = (index for index, message in enumerate(chat.messages) if message.role == "assistant")
        starts = [start for index in answers if (start := chat.start(index)) is not None]
        encoded = self.encode_split(chat.text, starts)
        return encoded.unguarded(chat.text) if chat.hidden else encoded

    def encode_split(self, text: str, borders: Sequence[int]) -> Encoded:
        """As `encode`, with no token that reaches over a border, if this tokenizer can spell the text so.

        The pieces are encoded each alone, as a prompt is. A tokenizer that begins every piece with a blank would spell
        another text by that: there a guard character at the border keeps the pieces apart.
        """
        whole = self.encode(text)
        crossed = [border for border in borders if whole.crosses(border, text)]
        if not crossed:
            return whole
        spelled = self.decode(whole.ids)
        tried = (encode(text, crossed) for encode in (self._encode_pieces, self._encode_guarded))
        return next((found for found in tried if found is not None and self.decode(found.ids) == spelled), whole)

    def _encode_pieces(self, text: str, borders: Sequence[int]) -> Encoded:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end in pairwise([0, *borders, len(text)]):
            piece = self.encode(text[start:end])
            ids += piece.ids
            offsets += [(first + start, last + start) for first, last in piece.offsets]
        return Encoded(ids, offsets)

    def _encode_guarded(self, text: str, borders: Sequence[int]) -> Encoded | None:
        """None where the tokenizer spells a guard together with real text."""
        pieces = (text[start:end] for start, end in pairwise([0, *borders, len(text)]))
        guards = [border + count for count, border in enumerate(borders)]
        found = self.encode(GUARD.join(pieces))
        kept = Encoded([], [])
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            before, through = bisect_left(guards, start), bisect_left(guards, end)
            if before == through:
                kept.ids.append(token)
                kept.offsets.append((start - before, end - before))
            elif end - start != through - before:
                return None
        return kept

    def prefixes(
        self,
        messages: Sequence[Message],
        tools: Tools | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        is_asking: bool = False,
    ) -> Prefixes:
        """A rendered chat, its control tokens hidden, its system message and tools in place. Raises RowRefused."""
        written = [message.model_dump(exclude_none=True) for message in messages]
        hidden = self.control.found_in([written, tools, variables])
        if hidden:
            written, tools, variables = self.control.guard([written, tools, variables])
            messages = [Message.model_validate(message) for message in written]
        turns, tools = self.fold(messages, tools)

        def render(some: Sequence[Message], asks: bool) -> str:
            return self.render(some, tools, variables, add_generation_prompt=asks)

        text = render(turns, is_asking)
        return Prefixes(
            turns,
            text,
            render,
            tools=tools,
            answer_prompt=self.answer_prompt,
            closing=text.removeprefix(render(turns, False)) if is_asking and variables else self.answer_prompt,
            has_marks=self.control.are_in(self.answer_prompt),
            hidden=frozenset(hidden),
        )

    def prompt_ids(
        self, messages: Sequence[Message], tools: Tools | None = None, form: ChatForm = AS_TRAINED
    ) -> list[int]:
        """The ids of a chat, ready for the assistant's turn, or in the middle of it. Raises RowRefused."""
        chat = self.prefixes(messages, tools, form.chat_template_kwargs, is_asking=form.asks)
        if form.continue_final_message:
            chat = chat.until(Chat(chat, self.end_tokens).end_of_words(len(chat.messages) - 1))
        return self.encode_chat(chat).ids

    def text_ids(self, text: str) -> list[int]:
        """The ids of raw text behind the tokenizer's own opening: one BOS, also where the text begins with one."""
        ids = self.encode(text).ids
        return ids if self.opening and ids[: len(self.opening)] == self.opening else [*self.opening, *ids]

    def decode(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        """The text of ids that stand behind others: control tokens kept, nothing tidied up.

        The others matter because a decoder treats the first token of a text in its own way.
        """
        if not before:
            return str(self._backend.decode(list(ids), skip_special_tokens=False))
        head = self._backend.decode(list(before), skip_special_tokens=False)
        return str(self._backend.decode([*before, *ids], skip_special_tokens=False)[len(head) :])

    def _end_of(self, probe: list[Message]) -> str | None:
        """The first control token behind the probe's answer; None where what ends a turn is plain text."""
        try:
            _, answer, behind = self.render(probe).rpartition(ANSWER)
        except RowRefused:
            return None
        if not answer:  # a template that leaves tool calls out
            return None
        places = {token: behind.find(token) for token in self.control.texts if token in behind}
        return min(places, key=lambda token: places[token], default=None)


def _added_in_front(backend: Any) -> list[int]:
    """What the tokenizer puts before every text, such as BOS."""
    plain = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    return list(takewhile(lambda token: token not in plain, whole))


# What transformers and tokenizers raise for a folder without a tokenizer that they can read.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)


def load_renderer(folder: Path) -> Renderer:
    """The language of a model, bundle or job folder. Raises NoTokenizer, and TemplateRefused for a broken template."""
    from transformers import AutoTokenizer  # a second, and the module itself is useful without

    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise NoTokenizer("it has no tokenizer files")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except UNREADABLE as error:
        raise NoTokenizer(f"its tokenizer cannot be read ({type(error).__name__})") from None
    return Renderer(tokenizer)
