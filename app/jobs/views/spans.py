"""A row as text, split where training begins and ends. The texts of the spans, joined, are the text of the row.

A decoder cannot be asked for a part: it treats the first token of a text as no other (a leading space), and a character
may be made of several tokens. So each part is what a longer prefix of the row decodes to beyond a shorter one. Prefixes
are cut to a window of tokens in front, and what comes out is compared with the text of the whole row; where they
disagree, or where it begins within a character, the window grows.
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
# What a decoder looks back to is the token before, or those that hold the first bytes of a character.
WINDOW_TOKENS = 16
WIDER = 4
# Tokens decoded for each token of the row before a disagreement is left as it is, so that no row takes quadratic time.
MOST_WORK = 64
# Stands for the bytes of a character that is not whole.
BROKEN = "\ufffd"
# Each is 100 MB and more in memory.
TOKENIZERS_KEPT = 2


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens that are all trained, or all not. A character belongs to the span that completes it."""

    text: str
    is_trained: bool
    token_ids: list[int]


class Tokenizers:
    """Reads tokenizers, and keeps the last ones. Threads may share it: one reads while the others wait."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[int, ...], Tokenizer] = OrderedDict()

    def decoder(self, path: Path) -> Decode:
        """Text of token ids, special tokens included, by the tokenizer.json at the path."""
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
    """The spans of a row, in order; labels are IGNORED where a token is not trained."""
    text = _Text(decode, ids)
    spans, begin, token = list[Span](), 0, 0
    for is_trained, group in groupby(label != IGNORED for label in labels):
        token_end = token + sum(1 for _ in group)
        end = text.place(token_end)
        spans.append(Span(text.whole[begin:end], is_trained, list(ids[token:token_end])))
        begin, token = end, token_end
    return spans


class _Text:
    """The text of a row, and where in it a token ends. Asked for the ends of spans in order."""

    def __init__(self, decode: Decode, ids: Sequence[int]) -> None:
        self._decode, self._ids = decode, ids
        self._work = MOST_WORK * len(ids)
        self._last = 0
        # The last token end that is not within a character, and the characters in front of it. Where a prefix ends
        # within one, some decoders break the whole characters before it as well, so nothing is compared with that.
        self._whole_end = (0, 0)
        self.whole = decode(ids)

    def place(self, end: int) -> int:
        """Characters in front of token `end`."""
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
    """How many characters of the part stand in the text from the offset on."""
    if text.startswith(part, offset):
        return len(part)
    pairs = zip(part, text[offset : offset + len(part)], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
