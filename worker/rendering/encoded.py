"""A text as tokens, each with its position in the text."""

from bisect import bisect_left
from dataclasses import dataclass
from operator import itemgetter

from worker.rendering.control import without_guards


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each the characters [start, end) of the text that it encodes."""

    ids: list[int]
    offsets: list[tuple[int, int]]

    def crosses(self, border: int, text: str) -> bool:
        """Whether a token extends over a border. A control token may include the blanks after it."""
        place = bisect_left(self.offsets, border, key=itemgetter(0)) - 1
        if place < 0 or self.offsets[place][1] <= border:
            return False
        start, end = self.offsets[place]
        return bool(text[border:end].strip()) or not text[start:border].strip()

    def unguarded(self, text: str) -> "Encoded":
        """The same without the tokens of guard characters. Raises RowRefused if one contains other text too."""
        kept = [place for place, keep in enumerate(without_guards(text, self.offsets)) if keep]
        return Encoded([self.ids[place] for place in kept], [self.offsets[place] for place in kept])
