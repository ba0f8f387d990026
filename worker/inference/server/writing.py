"""Decodes the tokens of an answer to text, piece by piece, with scores and ids if requested."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from app.contracts.generation import ScoredToken, TextDelta, TokenScore, Wording
from worker.inference.engine import Token
from worker.inference.text.chat_text import REPLACEMENT, Detokenizer, StopScanner
from worker.inference.text.language import Language

# This many previous ids can change how a decoder writes the next one.
LONGEST_CONTEXT = 8


@dataclass(frozen=True)
class _Held:
    """A token, and the offset in characters at which its text begins in the answer."""

    start: int
    token: Token


class Writer:
    """Writes one answer. The tokens of an excluded stop string are left out, with their text, scores and ids."""

    def __init__(
        self,
        language: Language,
        stops: tuple[str, ...],
        *,
        tells_scores: bool,
        wording: Wording = Wording(),  # noqa: B008  frozen
        before: Sequence[int] = (),
        stop_after: tuple[str, ...] = (),
    ) -> None:
        """`before` are the ids of a raw prompt, because the answer may continue in the middle of a word.

        `stop_after` are further stop strings, which always remain part of the answer.
        """
        self._language = language
        write = partial(language.write, skip_special_tokens=wording.skip_special_tokens)
        self._letters = Detokenizer(write, _context(before, write))
        kept = (*stops, *stop_after) if wording.include_stop_str_in_output else stop_after
        self._stops = StopScanner(stops, kept=kept)
        self._tells_scores = tells_scores
        self._tells_ids = wording.return_token_ids
        self._is_plain = not (stops or stop_after or self._tells_scores or self._tells_ids)
        self._held: list[_Held] = []
        self._read = 0
        self._written = 0

    @property
    def has_stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._stops.has_stopped

    def feed(self, token: Token) -> TextDelta | None:
        """The piece of text that this token completes, if any.

        If only text was requested, a token waits for one that is available already: under load fewer, longer pieces are
        written.
        """
        if token.is_followed and self._is_plain:
            self._letters.hold(token.id)
            return None
        if self._tells_scores or self._tells_ids:
            self._held.append(_Held(self._read, token))
        text = self._letters.feed(token.id)
        self._read += len(text)
        return self._piece(self._stops.feed(text), is_last=False)

    def catch_up(self) -> TextDelta | None:
        """The text of tokens that waited for a next one, when none will come."""
        return self._piece(self._letters.catch_up(), is_last=False) if self._is_plain else None

    def finish(self) -> TextDelta | None:
        """The text that was held back, after the last token."""
        text = self._stops.feed(self._letters.finish())
        return self._piece(text + self._stops.finish(), is_last=not self._stops.has_stopped)

    def _piece(self, text: str, *, is_last: bool) -> TextDelta | None:
        self._written += len(text)
        if not (self._tells_scores or self._tells_ids):
            return TextDelta(text=text) if text else None
        ready = [held for held in self._held if is_last or held.start < self._written]
        self._held = self._held[len(ready) :]
        if not (text or ready):
            return None
        tokens = [self._scored(held.token) for held in ready] if self._tells_scores else None
        ids = [held.token.id for held in ready] if self._tells_ids else None
        return TextDelta(text=text, tokens=tokens, token_ids=ids)

    def _scored(self, token: Token) -> ScoredToken:
        own = self._score(token.id, token.logprob or 0.0)
        top = [self._score(other, logprob) for other, logprob in token.top]
        return ScoredToken(**own.model_dump(), top_logprobs=top)

    def _score(self, token: int, logprob: float) -> TokenScore:
        text, spelled = self._language.spell(token)
        return TokenScore(id=token, token=text, bytes=spelled, logprob=logprob)


def _context(before: Sequence[int], write: Callable[[list[int]], str]) -> list[int]:
    """The last ids before an answer, or none if they end within a character."""
    ids = list(before[-LONGEST_CONTEXT:])
    return [] if write(ids).endswith(REPLACEMENT) else ids
