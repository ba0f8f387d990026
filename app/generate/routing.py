"""Chooses the engine of a request where there are several, and asks the next one if it cannot answer.

All adapters of a base go to one engine (`app.processes.engine_ranking`), until this process has as many answers under
way there as an engine computes in one batch: more go to the next in the ranking, which loads the base too.
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from app.contracts.generation import EngineError, EngineEvent, GenerateOrder
from app.errors import EngineUnavailable
from app.generate.client import BrokenOff, HttpEngineClient, SingleEngine
from app.processes.engine_address import EngineAddress
from app.processes.engine_ranking import ranked, ranking_key

# An engine that could not answer is asked after all others for this time.
AWAY_SECONDS = 10.0
# As many answers as the engine computes in one batch (BatchLimits). Up to there a second engine would add little speed.
MOST_AT_ONCE = 64
# The codes of an engine that answers nobody; other refusals are about one model, or pass with its queue.
WHOLE_ENGINE = (EngineUnavailable.code, "engine_stopping")
TEMPORARY = (429, 503)
log = logging.getLogger(__name__)


@dataclass
class _Member:
    name: str
    client: SingleEngine
    under_way: int = 0
    away_until: float = 0.0


class EngineRouter:
    """Several engines that answer as one. An answer that has begun is never begun again."""

    def __init__(self, engines: Mapping[str, SingleEngine], clock: Callable[[], float] = time.monotonic) -> None:
        self.engines = engines
        self._members = {name: _Member(name, engine) for name, engine in engines.items()}
        self._clock = clock

    async def generate(self, order: GenerateOrder) -> AsyncGenerator[EngineEvent, None]:
        refusals: list[EngineError] = []
        for member in self._candidates(order):
            member.under_way += 1
            try:
                async with aclosing(member.client.generate(order)) as events:
                    first = await anext(events)
                    if isinstance(first, EngineError) and _may_another(first):
                        refusals.append(first)
                        self._note(member, first)
                        continue
                    member.away_until = 0.0
                    yield first
                    async for event in events:
                        yield event
                    return
            finally:
                member.under_way -= 1
        yield _most_helpful(refusals)

    def _candidates(self, order: GenerateOrder) -> list[_Member]:
        """All engines in the order in which they are asked: those with a whole batch after the others, then those that
        are away."""
        names = ranked(self._members, ranking_key(order.base, order.adapter))
        now = self._clock()
        return sorted(
            (self._members[name] for name in names),
            key=lambda member: (member.away_until > now, member.under_way >= MOST_AT_ONCE),
        )

    def _note(self, member: _Member, refusal: EngineError) -> None:
        if refusal.code in WHOLE_ENGINE:
            if member.away_until <= self._clock() and len(self._members) > 1:
                log.warning("the engine %s does not answer at present: %s", member.name, refusal.message)
            member.away_until = self._clock() + AWAY_SECONDS

    async def close(self) -> None:
        for member in self._members.values():
            await member.client.close()


def _may_another(refusal: EngineError) -> bool:
    return refusal.status in TEMPORARY and not isinstance(refusal, BrokenOff)


def _most_helpful(refusals: Sequence[EngineError]) -> EngineError:
    """The refusal that says when to come back, else that of the engine which was asked first."""
    return next((each for each in refusals if each.retry_after_seconds is not None), refusals[0])


def connect(addresses: Sequence[EngineAddress]) -> EngineRouter:
    """Return clients of all engines, by their names."""
    return EngineRouter({address.name: HttpEngineClient(address) for address in addresses})
