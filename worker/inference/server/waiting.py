"""The bounded queue of an engine, first come, first served. The engine's thread takes tickets from it.

answers(): enter ──> token, token, … with a time limit ──> one last event ──> leave
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Protocol

from app.contracts.generation import EngineError
from worker.inference.engine import Refusal, Token, TokenEvent, TokenRequest

STOPPING = (503, "engine_stopping", "the engine stopped before the answer was complete")
CANCELLED = (499, "cancelled", "the client no longer waits for the answer")
# An answer may wait this long for a model to load and for the requests before it.
PATIENCE_SECONDS = 900.0


class Ticket:
    """One request. Its events go from the engine's thread to the event loop that made the request."""

    def __init__(self, request: TokenRequest) -> None:
        self.request = request
        self.stop_reason: EngineError | None = None
        self._events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, event: TokenEvent) -> None:
        """Pass on an event, from any thread. If the loop has been closed, nobody reads it and the ticket is stopped."""
        self.put_all([(self, event)])

    @property
    def has_next(self) -> bool:
        """Whether an event waits to be read, that is, the reader is slower than the engine."""
        return not self._events.empty()

    @staticmethod
    def put_all(events: list[tuple["Ticket", TokenEvent]]) -> None:
        """Pass on events in order. Each loop is woken once, because waking is expensive."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, TokenEvent]]] = {}
        for ticket, event in events:
            by_loop.setdefault(ticket._loop, []).append((ticket, event))
        for loop, own in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_now, own)
            except RuntimeError:
                for ticket, _ in own:
                    ticket.stop(*CANCELLED)

    async def next(self, patience_seconds: float) -> TokenEvent:
        """The next event. If none comes within `patience_seconds`, the ticket is stopped and the error 504
        `engine_stalled` returned.
        """
        try:
            return self._events.get_nowait()
        except asyncio.QueueEmpty:
            pass
        try:
            async with asyncio.timeout(patience_seconds):
                return await self._events.get()
        except TimeoutError:
            return self.stop(504, "engine_stalled", f"the answer made no progress for {patience_seconds:g} seconds")

    def stop(self, status: int, code: str, message: str) -> EngineError:
        """Ask the engine to end the answer; it checks this before every token."""
        self.stop_reason = EngineError(status=status, code=code, message=message)
        return self.stop_reason


def _put_now(events: list[tuple[Ticket, TokenEvent]]) -> None:
    for ticket, event in events:
        ticket._events.put_nowait(event)


class TicketQueue(Protocol):
    """The part of an engine that accepts tickets."""

    def enter(self, ticket: Ticket) -> None:
        """Raises Refusal."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """The client no longer reads, whether it has the last event or not. Safe to repeat."""
        ...


async def answers(
    request: TokenRequest, queue: TicketQueue, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncGenerator[TokenEvent, None]:
    """`Engine.generate` for every engine: yield tokens, then exactly one last event. Closing the generator cancels.

    An answer without progress for `patience_seconds` ends with an error, whatever blocks the engine.
    """
    ticket = Ticket(request)
    try:
        queue.enter(ticket)
    except Refusal as refusal:
        yield refusal.error
        return
    try:
        while isinstance(event := await ticket.next(patience_seconds), Token):
            yield replace(event, is_followed=True) if ticket.has_next else event
        yield event
    finally:
        queue.leave(ticket)


class RequestQueue:
    """MemoryLeases tickets until the engine's thread takes them, and the set of those that are being served."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: deque[Ticket] = deque()
        self._serving: set[Ticket] = set()
        self._changed = threading.Condition()
        self._has_news = False
        self._is_closed = False
        self._shut: EngineError | None = None

    @property
    def shut_reason(self) -> EngineError | None:
        """Why new tickets are refused at present; None if they are accepted."""
        return self._shut

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def enter(self, ticket: Ticket) -> None:
        """Raises Refusal 429 `engine_busy` if the queue is full, 503 if the engine stops or steps aside."""
        with self._changed:
            if self._is_closed:
                raise Refusal(*STOPPING)
            if self._shut is not None:
                raise Refusal.of(self._shut)
            if len(self._waiting) >= self._places:
                raise Refusal(429, "engine_busy", f"{self._places} requests are waiting already; try again later")
            self._waiting.append(ticket)
            self._notify()

    def leave(self, ticket: Ticket) -> None:
        """The client no longer reads: remove its ticket, or stop the answer in progress. Safe to repeat."""
        with self._changed:
            ticket.stop(499, "cancelled", "the request was cancelled")
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._notify()

    def first(self) -> Ticket | None:
        """The first ticket in the queue, without removing it."""
        with self._changed:
            return self._waiting[0] if self._waiting else None

    def take(self, ticket: Ticket) -> bool:
        """Begin to serve a ticket. Returns False if it has left."""
        with self._changed:
            return ticket in self._waiting and self._begin(ticket) is ticket

    def put_back(self, ticket: Ticket) -> bool:
        """Return a ticket that cannot be served yet to the head of the queue. Returns False if it has been stopped."""
        with self._changed:
            ticket.stop_reason = ticket.stop_reason or self._shut
            if ticket.stop_reason is None:
                self._serving.discard(ticket)
                self._waiting.appendleft(ticket)
            return ticket.stop_reason is None

    def let_pass(self, is_first: Callable[[Ticket], bool]) -> None:
        """Move the tickets for which `is_first` is true to the front, in their order."""
        with self._changed:
            self._waiting = deque(sorted(self._waiting, key=lambda ticket: not is_first(ticket)))

    def done(self, ticket: Ticket) -> None:
        """Remove a ticket that was served."""
        with self._changed:
            self._serving.discard(ticket)

    def served(self) -> list[Ticket]:
        """The tickets that are being served."""
        with self._changed:
            return list(self._serving)

    def notify(self) -> None:
        """Wake the engine's thread from `rest`."""
        with self._changed:
            self._notify()

    def rest(self, seconds: float | None = None) -> bool:
        """Wait for a change: a ticket that came or left, a `notify`, or the end. A change before this call counts too.

        Returns False if there was none within `seconds`; None waits without limit.
        """
        with self._changed:
            has_changed = self._changed.wait_for(lambda: self._has_news or self._is_closed, seconds)
            self._has_news = False
            return has_changed

    def shut(self, reason: EngineError) -> None:
        """Refuse all waiting tickets, and new ones until `open`. Tickets that are being served stay. Safe to repeat."""
        with self._changed:
            self._shut = reason
            for ticket in self._waiting:
                ticket.stop_reason = reason
                ticket.put(reason)
            self._waiting.clear()
            self._notify()

    def stop_served(self) -> None:
        """While shut: stop the answers in progress with the reason that was given to `shut`."""
        with self._changed:
            for ticket in self._serving:
                ticket.stop_reason = ticket.stop_reason or self._shut
            self._notify()

    def open(self) -> None:
        """Accept new tickets again. Safe to repeat."""
        with self._changed:
            self._shut = None

    def close(self) -> None:
        """Stop the answers in progress and refuse all other tickets, for good. Safe to repeat."""
        with self._changed:
            self._is_closed = True
            for ticket in self._serving:
                ticket.stop(*STOPPING)
            for ticket in self._waiting:
                ticket.put(ticket.stop(*STOPPING))
            self._waiting.clear()
            self._changed.notify_all()

    def count(self) -> tuple[int, bool]:
        """How many tickets wait, and whether one is being served."""
        with self._changed:
            return len(self._waiting), bool(self._serving)

    def _begin(self, ticket: Ticket) -> Ticket:
        self._waiting.remove(ticket)
        self._serving.add(ticket)
        return ticket

    def _notify(self) -> None:
        self._has_news = True
        self._changed.notify_all()
