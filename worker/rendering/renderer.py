"""The tokenizer and chat template of one model. Checker, trainer and engine all use it, so that the same messages
become the same token ids everywhere.

Only the template writes control tokens, including the one BOS; the content of a message is always plain text.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers.processors import ByteLevel

from app.contracts.chat import ChatForm
from app.contracts.records import Message
from worker.rendering.control import GUARD, ControlTokens, texts_in
from worker.rendering.encoded import Encoded
from worker.rendering.folding import Tools, fold_system, fold_tools
from worker.rendering.masking import Chat, Prefixes
from worker.rendering.refusal import RowRefused
from worker.rendering.templates import Templates
from worker.rendering.traits import MOST_WORK, Traits
from worker.rendering.work import Work

AS_TRAINED = ChatForm()


class NoTokenizer(Exception):
    """A folder has no tokenizer that can be read, or its tokenizer has no offsets."""


class Renderer:
    """Renders messages to text and encodes text to ids. `tokenizer` is a fast transformers tokenizer that nothing else
    uses: it is set up here once and never changed again. Thread-safe.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise NoTokenizer("it is a slow tokenizer, which has no offsets")
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.added_tokens = {number: str(token) for number, token in added.items()}
        self._control_ids = frozenset(number for number, token in added.items() if token.special)
        self.control = ControlTokens(self.added_tokens[number] for number in self._control_ids)
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.opening = _added_in_front(self._backend)
        # From here on nothing is added to an encoded text, and offsets include blanks.
        self._backend.post_processor = ByteLevel(trim_offsets=False)
        self.templates = Templates(tokenizer)
        self.traits = Traits(self.templates, self.control)

    def render(
        self,
        messages: Sequence[Message],
        tools: Tools | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        add_generation_prompt: bool = False,
        work: Work | None = None,
    ) -> str:
        """The text of a chat, rendered with further `variables`. Raises the errors of `Templates.apply`.

        `worker.rendering.folding` moves what the template does not support. `work` is the budget that it shares with
        other renders.
        """
        turns, tools = self.fold(messages, tools)
        written = [turn.for_template() for turn in turns]
        text = self.templates.apply(
            written, tools, variables or {}, add_generation_prompt=add_generation_prompt, work=work
        )
        return text + self.traits.found_prompt if add_generation_prompt else text

    def fold(self, messages: Sequence[Message], tools: Tools | None) -> tuple[Sequence[Message], Tools | None]:
        """The messages and tools for the template. They are unchanged if it supports tools and a system role."""
        if not self.traits.knows_tools:
            messages, tools = fold_tools(messages, tools), None
        return (messages if self.traits.knows_system else fold_system(messages)), tools

    @cached_property
    def end_tokens(self) -> tuple[str, ...]:
        """The control tokens that may end an answer: the EOS of the tokenizer, and those of the template."""
        eos = self.tokenizer.eos_token
        return tuple(dict.fromkeys([*([str(eos)] if eos else []), *self.traits.turn_ends]))

    def encode(self, text: str) -> Encoded:
        """The tokens of a text, without additions. Control tokens in the text are encoded as control tokens."""
        found = self._backend.encode(text, add_special_tokens=False)
        return Encoded(found.ids, found.offsets)

    def encode_chat(self, chat: Prefixes) -> Encoded:
        """The tokens of a rendered chat. None extends over the start of an answer, so the prompt has the same tokens
        for every answer.
        """
        encoded = self.encode_split(chat.text, chat.starts)
        return encoded.unguarded(chat.text) if chat.hidden else encoded

    def has_prompt_tokens(self, chat: Prefixes, encoded: Encoded, start: int) -> bool:
        """Whether the tokens before a position are those that /generate would make of the text before it."""
        first, end = self._last_tokens(encoded, start)
        opening = encoded.offsets[first][0] if first else 0
        text = chat.text[opening:start]
        alone = self.encode_split(text, [border - opening for border in chat.starts if opening < border < start])
        return (alone.unguarded(text) if chat.hidden else alone).ids == encoded.ids[first:end]

    def encode_split(self, text: str, borders: Sequence[int]) -> Encoded:
        """As `encode`, but if possible the tokens before each border are those of the text before it alone. Without
        this a token could extend over the border, or blanks before it be grouped differently.

        `borders`: ascending positions in the text, in characters. Each piece is encoded alone, as a prompt is. A
        tokenizer that adds a blank to every piece would encode another text; for it a guard character at the border
        separates the pieces.
        """
        whole = self.encode(text)
        uneven = [border for border in borders if not self._ends_alike(whole, text, border)]
        if not uneven:
            return whole
        spelled = self.decode(whole.ids)
        tried = (encode(text, uneven) for encode in (self._encode_pieces, self._encode_guarded))
        return next((found for found in tried if found is not None and self.decode(found.ids) == spelled), whole)

    def _ends_alike(self, whole: Encoded, text: str, border: int) -> bool:
        """Whether the tokens before a border equal those of the text before it alone."""
        first, end = self._last_tokens(whole, border)
        opening = whole.offsets[first][0] if first else 0
        return not whole.crosses(border, text) and self.encode(text[opening:border]).ids == whole.ids[first:end]

    def _last_tokens(self, encoded: Encoded, border: int) -> tuple[int, int]:
        """The tokens [first, last) before a border, from the last control token on: earlier text does not affect later
        tokens.
        """
        end = bisect_left(encoded.offsets, border, key=itemgetter(0))
        places = range(end - 1, -1, -1)
        return next((place for place in places if encoded.ids[place] in self._control_ids), 0), end

    def _encode_pieces(self, text: str, borders: Sequence[int]) -> Encoded:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end in pairwise([0, *borders, len(text)]):
            piece = self.encode(text[start:end])
            ids += piece.ids
            offsets += [(first + start, last + start) for first, last in piece.offsets]
        return Encoded(ids, offsets)

    def _encode_guarded(self, text: str, borders: Sequence[int]) -> Encoded | None:
        """Returns None if the tokenizer encodes a guard together with other text."""
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
        work: Work | None = None,
    ) -> Prefixes:
        """A rendered chat, with control tokens hidden and system message and tools folded. Raises RowRefused.

        All its renders may together use the budget of one chat, and what is left of `work`.
        """
        if self.traits.is_too_expensive:
            raise too_expensive()
        written = [message.model_dump(exclude_none=True) for message in messages]
        work = work if work is not None else Work()
        work.allow(len(messages), sum(map(len, texts_in([written, tools, variables]))))
        hidden = self.control.found_in([written, tools, variables])
        if hidden:
            written, tools, variables = self.control.guard([written, tools, variables])
            messages = [Message.model_validate(message) for message in written]
        turns, tools = self.fold(messages, tools)

        def render(some: Sequence[Message], asks: bool) -> str:
            return self.render(some, tools, variables, add_generation_prompt=asks, work=work)

        text, answer_prompt = render(turns, is_asking), self.traits.answer_prompt
        return Prefixes(
            turns,
            text,
            render,
            tools=tools,
            answer_prompt=answer_prompt,
            closing=text.removeprefix(render(turns, False)) if is_asking and variables else answer_prompt,
            has_marks=self.control.are_in(answer_prompt),
            hidden=frozenset(hidden),
            work=work,
        )

    def prompt_ids(
        self, messages: Sequence[Message], tools: Tools | None = None, form: ChatForm = AS_TRAINED
    ) -> list[int]:
        """The ids of a chat up to the start of the assistant's message, or within it. Raises RowRefused."""
        chat = self.prefixes(messages, tools, form.chat_template_kwargs, is_asking=form.asks)
        if form.continue_final_message:
            chat = chat.until(Chat(chat, self.end_tokens).end_of_words(len(chat.messages) - 1))
        return self.encode_chat(chat).ids

    def text_ids(self, text: str) -> list[int]:
        """The ids of raw text after the tokenizer's own prefix: one BOS, even if the text starts with one."""
        ids = self.encode(text).ids
        return ids if self.opening and ids[: len(self.opening)] == self.opening else [*self.opening, *ids]

    def decode(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        """The text of ids that follow the ids `before`, with control tokens and without any clean-up.

        `before` matters because a decoder treats the first token of a text differently.
        """
        if not before:
            return str(self._backend.decode(list(ids), skip_special_tokens=False))
        head = self._backend.decode(list(before), skip_special_tokens=False)
        return str(self._backend.decode([*before, *ids], skip_special_tokens=False)[len(head) :])


def _added_in_front(backend: Any) -> list[int]:
    """The tokens that the tokenizer adds before every text, such as BOS."""
    plain = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    return list(takewhile(lambda token: token not in plain, whole))


# Errors that transformers and tokenizers raise for a folder without a readable tokenizer.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)


def load_renderer(folder: Path) -> Renderer:
    """The renderer of a model, bundle or job folder. Raises NoTokenizer, and TemplateRefused for a broken template."""
    from transformers import AutoTokenizer  # it takes a second, and not every caller needs it

    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise NoTokenizer("it has no tokenizer files")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except UNREADABLE as error:
        raise NoTokenizer(f"its tokenizer cannot be read ({type(error).__name__})") from None
    return Renderer(tokenizer)


def too_expensive() -> RowRefused:
    return RowRefused(
        "template_refused",
        found=f"a chat template that does more work than a chat needs: stopped after {MOST_WORK:g} s of CPU time",
        expected="another chat template",
        field="messages",
    )
