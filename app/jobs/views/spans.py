"""Splits the text of a row where training begins and ends. The texts of the spans, joined, are the text of the row.

Tokens cannot be decoded piecewise: the first token of a text is special (leading space), and one character may span
several tokens. So the text of a span is what a longer prefix of the row decodes to beyond a shorter one. Both prefixes
are shortened to a window of tokens, and the result is compared with the text of the whole row. If the two differ, or
the window begins within a character, the window grows.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path

from tokenizers import Tokenizer

from app.contracts.rows import IGNORED

Decode = Callable[[Sequence[int]], str]
# A decoder depends on the token before, and on the tokens that hold the first bytes of a character.
WINDOW_TOKENS = 16
WIDER = 4
# After this many decoded tokens for each token of the row a difference is accepted, so no row takes quadratic time.
MOST_WORK = 64
# What a decoder writes for an incomplete character.
BROKEN = "\ufffd"
# Each takes 100 MB of memory or more.
TOKENIZERS_KEPT = 2


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens, all trained on or all not. A character belongs to the span with its last token."""

    text: str
    is_trained: bool
    token_ids: list[int]


class Tokenizers:
    """Reads tokenizers and caches the last ones. It is thread-safe: one thread reads while the others wait."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[int, ...], Tokenizer] = OrderedDict()

    def decoder(self, path: Path) -> Decode:
        """Return a function from token ids to text, special tokens included, made from the tokenizer.json at `path`."""
        seen = path.stat()
        key = (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size)
        with self._lock:
            tokenizer = self._found.pop(key, None) or Tokenizer.from_file(str(path))
            self._found[key] = tokenizer
            while len(self._found) > self._kept:
                self._found.popitem(last=False)
        return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


TOKENIZERS = Tokenizers(TOKENIZERS_KEPT)


def split(decode: Decode, ids: Sequence[int], labels: Sequence[int]) -> list[Span]:
    """Return the spans of a row, in order. The label of a token that is not trained on is IGNORED."""
    text = _Text(decode, ids)
    spans, begin, token = list[Span](), 0, 0
    for is_trained, group in groupby(label != IGNORED for label in labels):
        token_end = token + sum(1 for _ in group)
        end = text.place(token_end)
        spans.append(Span(text.whole[begin:end], is_trained, list(ids[token:token_end])))
        begin, token = end, token_end
    return spans


class _Text:
    """The text of a row, and the places in it where tokens end. `place` must be called with ascending ends."""

    def __init__(self, decode: Decode, ids: Sequence[int]) -> None:
        self._decode, self._ids = decode, ids
        self._work = MOST_WORK * len(ids)
        self._last = 0
        # The last token end that is not within a character, and the number of characters before it. If a prefix ends
        # within a character, some decoders also break the characters before it, so nothing is compared with it.
        self._whole_end = (0, 0)
        self.whole = decode(ids)

    def place(self, end: int) -> int:
        """Return the number of characters before token `end`."""
        if end == len(self._ids):
            return len(self.whole)
        self._last = max(self._last, self._place(end))
        return self._last

    def _place(self, end: int) -> int:
        begin, place = self._whole_end
        window = WINDOW_TOKENS
        while window < begin:
            before, after = self._decoded(begin - window, begin), self._decoded(begin - window, end)
            part = after[_shared(before, after) :]
            found = _shared(part, self.whole, place)
            is_clear = not part[found:].strip(BROKEN) and not before.startswith(BROKEN)
            if is_clear or self._work < 0:
                return self._noted(end, place + found, is_whole=found == len(part))
            window *= WIDER
        prefix = self._decoded(0, end)
        found = _shared(prefix, self.whole)
        return self._noted(end, found, is_whole=found == len(prefix))

    def _noted(self, end: int, place: int, *, is_whole: bool) -> int:
        if is_whole:
            self._whole_end = (end, place)
        return place

    def _decoded(self, begin: int, end: int) -> str:
        self._work -= end - begin
        return self._decode(self._ids[begin:end])


def _shared(part: str, text: str, offset: int = 0) -> int:
    """Return how many characters of the part equal those of the text from the offset on."""
    if text.startswith(part, offset):
        return len(part)
    pairs = zip(part, text[offset : offset + len(part)], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
