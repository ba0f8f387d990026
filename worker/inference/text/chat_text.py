"""Decodes token ids to text piece by piece: only whole characters, and nothing of a stop string."""

from collections.abc import Callable, Sequence

# What a decoder writes for bytes that do not form a whole character (yet).
REPLACEMENT = "\ufffd"


class Detokenizer:
    """Decodes ids as they arrive. The joined pieces are the text; a character that spans several tokens is returned
    once, whole.

    Some earlier ids are decoded again with each new one, because decoders treat the first token of a text differently
    (the method of text-generation-inference and vLLM).
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        """`before` are the ids before the text, which are not part of it."""
        self._decode = decode
        self._ids = list(before)
        self._window = 0
        self._read = len(self._ids)

    def hold(self, token: int) -> None:
        """Add a token whose text is returned together with that of the next one."""
        self._ids.append(token)

    def feed(self, token: int) -> str:
        """The text that this token completes, possibly none."""
        self._ids.append(token)
        return self._advance(is_last=False)

    def catch_up(self) -> str:
        """The text of the tokens that were held, as far as it is complete."""
        return self._advance(is_last=False)

    def finish(self) -> str:
        """The remaining text, including bytes that never became a character."""
        return self._advance(is_last=True)

    def _advance(self, *, is_last: bool) -> str:
        before = self._decode(self._ids[self._window : self._read])
        now = self._decode(self._ids[self._window :])
        if len(now) <= len(before) or (now.endswith(REPLACEMENT) and not is_last):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return now[len(before) :]


class StopScanner:
    """Passes text on up to the first stop string, even if that spans several pieces."""

    def __init__(self, stops: Sequence[str], *, kept: Sequence[str] = ()) -> None:
        """`kept` are further stop strings, which remain part of the text."""
        self._stops = (*stops, *kept)
        self._kept = frozenset(kept)
        self._held = ""
        self.has_stopped = False

    def feed(self, piece: str) -> str:
        """The text that cannot be part of a stop string. Nothing is returned after a stop string."""
        if self.has_stopped:
            return ""
        text = self._held + piece
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.has_stopped, self._held = True, ""
            start, stop = min(found)
            return text[: start + len(stop) if stop in self._kept else start]
        free = len(text) - self._open_tail(text)
        self._held = text[free:]
        return text[:free]

    def finish(self) -> str:
        """The text that was held back because a stop string might have followed."""
        held, self._held = self._held, ""
        return held

    def _open_tail(self, text: str) -> int:
        """Length of the longest suffix of the text that is a prefix of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
