"""From the tokens of an answer to its text, piece by piece, with what each token was worth where that is asked."""

from dataclasses import dataclass

from app.contracts.generation import ScoredToken, TextDelta, TokenScore
from worker.inference.engine import Token
from worker.inference.language import Language
from worker.inference.text import Detokenizer, StopScanner


@dataclass(frozen=True)
class _Held:
    """A token whose text begins behind so many characters of the answer."""

    start: int
    token: Token


class Writer:
    """Writes one answer. Tokens of a stop string are no part of it, neither as text nor as scores."""

    def __init__(self, language: Language, stops: tuple[str, ...], *, tells_scores: bool) -> None:
        self._language = language
        self._letters = Detokenizer(language.write)
        self._stops = StopScanner(stops)
        self._tells_scores = tells_scores
        self._held: list[_Held] = []
        self._read = 0
        self._written = 0

    @property
    def has_stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._stops.has_stopped

    def feed(self, token: Token) -> TextDelta | None:
        """The piece that has become certain with a token, if there is one."""
        if self._tells_scores:
            self._held.append(_Held(self._read, token))
        text = self._letters.feed(token.id)
        self._read += len(text)
        return self._piece(self._stops.feed(text), is_last=False)

    def finish(self) -> TextDelta | None:
        """What was held back, after the last token."""
        text = self._stops.feed(self._letters.finish())
        return self._piece(text + self._stops.finish(), is_last=not self._stops.has_stopped)

    def _piece(self, text: str, *, is_last: bool) -> TextDelta | None:
        self._written += len(text)
        if not self._tells_scores:
            return TextDelta(text=text) if text else None
        ready = [held for held in self._held if is_last or held.start < self._written]
        self._held = self._held[len(ready) :]
        tokens = [self._scored(held.token) for held in ready]
        return TextDelta(text=text, tokens=tokens) if text or tokens else None

    def _scored(self, token: Token) -> ScoredToken:
        own = self._score(token.id, token.logprob or 0.0)
        top = [self._score(other, logprob) for other, logprob in token.top]
        return ScoredToken(**own.model_dump(), top_logprobs=top)

    def _score(self, token: int, logprob: float) -> TokenScore:
        text, spelled = self._language.spell(token)
        return TokenScore(id=token, token=text, bytes=spelled, logprob=logprob)
