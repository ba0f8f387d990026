"""How one model reads and writes: its own tokenizer and chat template, its own end tokens.

An adapter's bundle holds the tokenizer that it was trained with; the base's answers for base requests only.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from app.contracts.records import Message
from worker.inference.engine import Refusal

# What transformers and tokenizers raise for a folder without a tokenizer that they can read.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)


class NoTokenizer(Exception):
    """A folder has no tokenizer that can be read."""


@dataclass(frozen=True)
class Language:
    """A tokenizer that is never changed again. `eos_ids` are those of its folder: tokenizer and generation config."""

    tokenizer: Any
    eos_ids: frozenset[int]
    special_tokens: tuple[str, ...]

    def read_messages(self, messages: list[Message]) -> list[int]:
        """The ids of a chat, ready for the assistant's turn. The template alone writes special tokens: one BOS.

        Raises Refusal `no_chat_template`, `template_refused`, `special_token_in_content`.
        """
        if not self.tokenizer.chat_template:
            message = "this model has no chat template: send a prompt in place of messages"
            raise Refusal(422, "no_chat_template", message, "messages")
        self._check_content(messages)
        turns = [message.for_template() for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError, TypeError) as error:
            message = f"the chat template refused: {str(error)[:500]}"
            raise Refusal(422, "template_refused", message, "messages") from None
        return self._encode(text, add_special_tokens=False)

    def read_prompt(self, prompt: str) -> list[int]:
        """The ids of raw text, with the tokenizer's own special tokens, but no second BOS before one in the text."""
        ids = self._encode(prompt, add_special_tokens=True)
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def write(self, ids: list[int]) -> str:
        """The text of ids, special tokens left out, nothing tidied up."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def _check_content(self, messages: list[Message]) -> None:
        """In a chat only the template writes control tokens; what a user wrote must not become one."""
        for number, message in enumerate(messages):
            for field, text in _texts(message):
                token = next((token for token in self.special_tokens if token in text), None)
                if token is not None:
                    param = f"messages[{number}].{field}"
                    found = f"{param}: found the special token {token!r}, which only the chat template may write"
                    raise Refusal(422, "special_token_in_content", found, param)


def _texts(message: Message) -> Iterator[tuple[str, str]]:
    yield "content", message.content
    for field in ("name", "tool_calls", "tool_call_id"):
        value = getattr(message, field)
        if value is not None:
            yield field, json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=32)
def load_language(folder: Path) -> Language:
    """The language of a model or bundle folder, whose files never change. Raises NoTokenizer."""
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise NoTokenizer("it has no tokenizer files")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        # The first call drops truncation and padding that were saved with it; no later one changes it, from any thread.
        tokenizer("", add_special_tokens=False)
    except UNREADABLE as error:
        raise NoTokenizer(f"its tokenizer cannot be read ({type(error).__name__})") from None
    own = {tokenizer.eos_token_id} - {None}
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return Language(tokenizer, frozenset(own | _named_ends(folder)), tuple(sorted(special)))


def _named_ends(folder: Path) -> set[int]:
    """The end tokens of `generation_config.json`: none, one or several."""
    try:
        named = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {end for end in (named if isinstance(named, list) else [named]) if isinstance(end, int)}
