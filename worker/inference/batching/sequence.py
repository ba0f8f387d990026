"""One answer in progress in the batching engine."""

from dataclasses import dataclass
from typing import Any

from worker.inference.batching.blocks import Holding
from worker.inference.batching.sampling_batch import Draw
from worker.inference.engine import Ended, Token, TokenEvent
from worker.inference.server.waiting import Ticket
from worker.inference.text.sampling import TokenChooser, answer_ends, is_plain_greedy

UNKNOWN = -1  # stands for a token that is being chosen


class Sequence:
    """The tokens of an answer, how many of them are in the cache, and how the next one is chosen.

    `chooser` is None for greedy answers and plain draws, which are chosen for the whole batch at once.
    """

    def __init__(self, ticket: Ticket, holding: Holding, *, row: int, slot: int, model_ends: set[int]) -> None:
        request = ticket.request
        self.ticket = ticket
        self.holding = holding
        self.row = row
        self.slot = slot
        self.tokens = list(request.prompt_ids)
        self.computed = holding.shared_tokens
        self.last: TokenEvent | None = None
        self.draw: Draw | None = None
        self.chooser: TokenChooser | None = None
        self._ends = answer_ends(request, model_ends)
        self._shared_tokens = holding.shared_tokens
        self._written = 0
        self._expected = 0  # the number of tokens that were written or are being chosen

    def decide_how(self, model_ends: set[int], device: str) -> None:
        """Select the fastest way of choosing that gives the same answer as TokenChooser."""
        request = self.ticket.request
        if is_plain_greedy(request):
            return
        self.draw = Draw.of(request, device)
        if self.draw is None:
            self.chooser = TokenChooser.of(request, model_ends, device)

    @property
    def pending(self) -> int:
        """The number of tokens that the device knows and that are not in the cache yet."""
        return len(self.tokens) - self.computed

    @property
    def adapter(self) -> str | None:
        """The adapter in its slot. Returns None for a model with the adapter merged into it."""
        named = self.ticket.request.adapter
        return None if named is None or self.slot == 0 else named.name

    @property
    def is_complete(self) -> bool:
        """Whether all tokens that it may have are chosen or being chosen."""
        return self._expected == self.ticket.request.sampling.max_new_tokens

    @property
    def known(self) -> int:
        """The number of tokens that the host knows; one that is being chosen does not count."""
        return len(self.tokens) - (self._expected - self._written)

    def expect(self) -> None:
        """Note that its next token is being chosen: the device knows it before the host does."""
        self._expected += 1
        self.tokens.append(UNKNOWN)

    def take(self, token: Token) -> Token | None:
        """Take the oldest expected token; returns it if it is part of the answer.

        Sets `last` if it was the last one.
        """
        self.tokens[self.known] = token.id
        self._written += 1
        if token.id in self._ends:
            self.last = self._ended("stop")
            return None
        if self._written == self.ticket.request.sampling.max_new_tokens:
            self.last = self._ended("length")
        return token

    def _ended(self, reason: Any) -> Ended:
        return Ended(reason, self._written, self._shared_tokens)


@dataclass(frozen=True)
class NextTokens:
    """The next `count` tokens of a sequence."""

    sequence: Sequence
    count: int

    @property
    def gives_token(self) -> bool:
        """Whether this step reads all known tokens, so that its last scores choose the next token."""
        return self.count == self.sequence.pending
