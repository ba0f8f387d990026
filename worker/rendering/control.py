"""Hides control tokens in messages: `<|im_end|>` in a message is text, and never ends a message.

Tokenizers search for control tokens first, so one in a message would become a real one. A guard character after its
first character prevents that. The tokens of the guard are removed again, and the rest encodes the same text in ordinary
tokens.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from worker.rendering.refusal import RowRefused

# A noncharacter: texts have no reason to contain it, and every tokenizer with byte fallback can encode it.
GUARD = "\ufdd0"
Offset = tuple[int, int]


class ControlTokens:
    """The control tokens of one tokenizer, as text."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.texts = tuple(sorted(set(tokens), key=lambda text: (-len(text), text)))
        self._pattern = re.compile("|".join(map(re.escape, self.texts))) if self.texts else None

    def are_in(self, text: str) -> bool:
        return self._pattern is not None and self._pattern.search(text) is not None

    def found_in(self, value: Any) -> set[str]:
        """The control tokens in the texts of a JSON value."""
        return (
            set()
            if self._pattern is None
            else {token for text in texts_in(value) for token in self._pattern.findall(text)}
        )

    def guard(self, value: Any) -> Any:
        """The same JSON value with every control token hidden. Raises RowRefused if one cannot be hidden."""
        if any(GUARD in text for text in texts_in(value)):
            raise _not_hideable("together with U+FDD0, which is needed to hide them")
        return self._hidden(value)

    def _hidden(self, value: Any) -> Any:
        match value:
            case str():
                return self._hidden_text(value)
            case list():
                return [self._hidden(item) for item in value]
            case dict():
                return {self._hidden(key): self._hidden(item) for key, item in value.items()}
            case _:
                return value

    def _hidden_text(self, text: str) -> str:
        if self._pattern is None or not self.are_in(text):
            return text
        hidden = self._pattern.sub(lambda found: found[0][0] + GUARD + found[0][1:], text)
        if self.are_in(hidden):
            raise _not_hideable("of one character, which cannot be hidden")
        return hidden


def without_guards(text: str, offsets: Sequence[Offset]) -> list[bool]:
    """For each token whether it is kept. Raises RowRefused if a token contains a guard and other text."""
    if GUARD not in text:
        return [True] * len(offsets)
    keeps = []
    for start, end in offsets:
        piece = text[start:end]
        if GUARD in piece and piece.strip(GUARD):
            raise _not_hideable("that this tokenizer cannot encode as text")
        keeps.append(GUARD not in piece)
    return keeps


def texts_in(value: Any) -> Iterable[str]:
    """All texts of a JSON value, including keys."""
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from texts_in(item)
        case dict():
            for key, item in value.items():
                yield key
                yield from texts_in(item)


def _not_hideable(which: str) -> RowRefused:
    return RowRefused(
        "special_tokens_in_content",
        found=f"control tokens {which}",
        expected="messages without control tokens",
        field="messages",
    )
