"""From token ids to text, piece by piece: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence

# What a decoder puts for bytes that are no whole character (yet).
REPLACEMENT = "\ufffd"


class Detokenizer:
    """Turns ids into text as they come. The pieces joined are the text; a character split over tokens comes once whole.

    A window of ids that were read before is decoded along, because decoders treat the first token of a text otherwise
    (the method of text-generation-inference and vLLM).
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        """`before` are ids that the text goes on from; they are not part of it."""
        self._decode = decode
        self._ids = list(before)
        self._window = 0
        self._read = len(self._ids)

    def hold(self, token: int) -> None:
        """A token whose text comes with that of the next one."""
        self._ids.append(token)

    def feed(self, token: int) -> str:
        """The text that has become certain with this token, possibly none."""
        self._ids.append(token)
        return self._advance(is_last=False)

    def catch_up(self) -> str:
        """The text of tokens that were held, as far as it is certain."""
        return self._advance(is_last=False)

    def finish(self) -> str:
        """What was held back: bytes that never became a character."""
        return self._advance(is_last=True)

    def _advance(self, *, is_last: bool) -> str:
        before = self._decode(self._ids[self._window : self._read])
        now = self._decode(self._ids[self._window :])
        if len(now) <= len(before) or (now.endswith(REPLACEMENT) and not is_last):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return now[len(before) :]


class StopScanner:
    """Lets text through up to the first stop string, wherever the borders of the pieces are."""

    def __init__(self, stops: Sequence[str], *, kept: Sequence[str] = ()) -> None:
        """`kept` are further stop strings, which are part of the text that they end."""
        self._stops = (*stops, *kept)
        self._kept = frozenset(kept)
        self._held = ""
        self.has_stopped = False

    def feed(self, piece: str) -> str:
        """The text that no stop string can touch any more. After a stop string nothing comes through."""
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
        """What was held back because a stop string might have followed."""
        held, self._held = self._held, ""
        return held

    def _open_tail(self, text: str) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
