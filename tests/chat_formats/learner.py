"""What the rows of a chat format teach: runs of tokens with loss, as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from app.contracts.records import ChatRecord, CompletionRecord, Message, TextRecord
from app.contracts.rows import IGNORED
from tests.chat_formats.chat_format import ChatFormat
from tests.chat_formats.tokenizer import make_tokenizer
from worker.rendering.renderer import Renderer
from worker.rendering.rows import Learned, TokenRow, tokenise

Tools = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """Tokens [first, last) of a row that carry loss one after the other."""

    first: int
    last: int
    text: str


class Learner:
    """One format's renderer, and beside it the same tokenizer untouched, to look at what the renderer makes."""

    def __init__(self, chat_format: ChatFormat) -> None:
        self.format = chat_format
        self.tokenizer = make_tokenizer(chat_format)
        self.renderer = Renderer(make_tokenizer(chat_format))

    def chat(self, messages: Sequence[Message], tools: Tools | None = None, **learned: Any) -> TokenRow:
        return tokenise(ChatRecord(messages=list(messages), tools=tools), self.renderer, Learned(**learned))

    def completion(self, prompt: str, completion: str) -> TokenRow:
        return tokenise(CompletionRecord(prompt=prompt, completion=completion), self.renderer, Learned())

    def text(self, text: str) -> TokenRow:
        return tokenise(TextRecord(text=text), self.renderer, Learned())

    def prompt(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        return self.renderer.prompt_ids(list(messages), tools)

    def template(self, messages: Sequence[Message], **options: Any) -> Any:
        """What transformers itself makes of a chat: its ids, or with `tokenize=False` its text."""
        turns = [message.for_template() for message in messages]
        return self.tokenizer.apply_chat_template(turns, return_dict=False, **options)

    def decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def runs(self, row: TokenRow) -> list[Run]:
        """All runs of labels that are not ignored, in their order."""
        runs, first = [], 0
        for is_learned, labels in groupby(row.labels, lambda label: label != IGNORED):
            last = first + len(list(labels))
            if is_learned:
                runs.append(Run(first, last, self._between(row.input_ids, first, last)))
            first = last
        return runs

    def learned(self, row: TokenRow) -> list[str]:
        return [run.text for run in self.runs(row)]

    def controls(self, ids: Sequence[int]) -> list[int]:
        """How often each control token is among the ids."""
        return [list(ids).count(self.tokenizer.convert_tokens_to_ids(token)) for token in self.format.special_tokens]

    def _between(self, ids: list[int], first: int, last: int) -> str:
        """Decoded with all that stands before, since decoders take the first blank of a text away."""
        return self.decoded(ids[:last])[len(self.decoded(ids[:first])) :]


def call(name: str = "weather", **arguments: Any) -> list[dict[str, Any]]:
    """The tool calls of one turn."""
    return [{"type": "function", "id": "call00001", "function": {"name": name, "arguments": arguments}}]


def result(content: str) -> Message:
    """What a called tool answers."""
    return Message(role="tool", content=content, tool_call_id="call00001")


def system(content: str = "Be nice.") -> Message:
    return Message(role="system", content=content)


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str, **more: Any) -> Message:
    return Message(role="assistant", content=content, **more)
