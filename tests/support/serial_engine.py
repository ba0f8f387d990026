"""The engine that the others are measured against: one request at a time, on one thread that alone touches the model.

generate ──> request queue ──> the thread: load what is missing, check, decode ──> token, token, … ──> one last event
"""

import gc
import threading
from collections.abc import AsyncGenerator, Callable

import torch

from app.contracts.generation import EngineError, EngineHealth
from worker.inference.engine import ModelFolder, Refusal, TokenEvent, TokenRequest
from worker.inference.models.bases import Placement, load_base
from worker.inference.models.resident import Resident
from worker.inference.models.serial import answer_alone, event_of
from worker.inference.server.waiting import PATIENCE_SECONDS, RequestQueue, Ticket, answers

PLACES = 64
MAX_ADAPTERS = 8


class SerialEngine:
    """Keeps one base model with several adapters; asking for another base replaces it."""

    def __init__(
        self,
        placement: Placement,
        *,
        places: int = PLACES,
        max_adapters: int = MAX_ADAPTERS,
        patience_seconds: float = PATIENCE_SECONDS,
        on_broken_device: Callable[[], None] = lambda: None,
    ) -> None:
        """`patience_seconds`: how long an answer may stand still before its request ends with an error."""
        self._placement = placement
        self._max_adapters = max_adapters
        self._patience_seconds = patience_seconds
        self._on_broken_device = on_broken_device
        self._queue = RequestQueue(places)
        self._base: ModelFolder | None = None
        self._resident: Resident | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def health(self) -> EngineHealth:
        waiting, is_busy = self._queue.count()
        resident, base = self._resident, self._base
        return EngineHealth(
            device=self._placement.device,
            loaded_base=base.name if base is not None and resident is not None else None,
            loaded_adapters=sorted(resident.adapters) if resident is not None else [],
            answers="one_at_a_time" if resident is not None else None,
            answers_reason="this engine answers every request alone" if resident is not None else None,
            waiting=waiting,
            is_busy=is_busy,
        )

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        return answers(request, self._queue, self._patience_seconds)

    def close(self) -> None:
        self._queue.close()

    def join(self, seconds: float) -> bool:
        """Wait for the engine's thread after `close`; false when it is still in the middle of something."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._queue.is_closed:
            ticket = self._queue.first()
            if ticket is None:
                self._queue.rest()
            elif self._queue.take(ticket):
                event = self._last_event(ticket)
                self._queue.done(ticket)
                ticket.put(event)

    def _last_event(self, ticket: Ticket) -> TokenEvent:
        """Answer one ticket. Whatever happens, there is a last event, and the engine goes on."""
        try:
            return self._answer(ticket)
        except Refusal as refusal:
            return refusal.error
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            return self._recover(error)

    def _answer(self, ticket: Ticket) -> TokenEvent:
        if ticket.stop_reason is not None:
            return ticket.stop_reason
        return answer_alone(self._have(ticket.request), ticket, ticket.request.adapter)

    def _have(self, request: TokenRequest) -> Resident:
        """The base of the request in memory, its adapter attached."""
        if self._resident is None or self._base != request.base:
            self._let_go()
            self._resident = Resident(load_base(request.base, self._placement), self._max_adapters)
            self._base = request.base
        if request.adapter is not None:
            self._resident.ensure_adapter(request.adapter)
        return self._resident

    def _recover(self, error: Exception) -> EngineError:
        """Say what happened, and give up what is in memory: the next request begins from the files again."""
        event = event_of(error)
        self._let_go()
        if isinstance(error, torch.AcceleratorError):  # no later call on this device can succeed in this process
            self._on_broken_device()
        return event

    def _let_go(self) -> None:
        self._resident, self._base = None, None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
