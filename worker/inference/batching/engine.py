"""The batching engine: one thread runs steps of a batch in which every answer has its own adapter, seed and end.

generate ──> request queue ──> loads (an adapter is read) ──> batch: step, step, … ──> one last event
                 │                                             ▲ first come, first served; what does not fit waits
                 └──> alone: a model that cannot answer in batches, one request at a time, when nothing else runs
"""

import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable

import torch

from app.contracts.generation import OUT_OF_MEMORY, EngineError, EngineHealth
from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.host import BatchLimits
from worker.inference.batching.loads import LoadResult
from worker.inference.batching.memory import Memory
from worker.inference.batching.model_cache import ModelCache
from worker.inference.engine import Refusal, TokenEvent, TokenRequest
from worker.inference.models.bases import Placement
from worker.inference.models.serial import answer_alone, event_of
from worker.inference.server.memory_lease import memory_held, place_of
from worker.inference.server.waiting import PATIENCE_SECONDS, STOPPING, RequestQueue, Ticket, answers

PLACES = 64
IDLE_SECONDS = 60.0
log = logging.getLogger(__name__)


class BatchingEngine:
    """Answers from one base model at a time with many adapters. It changes the base when all earlier requests are
    answered.

    An adapter that no batch can compute is merged into its base, which then counts as another base. Bases that answered
    before stay in memory while there is room.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        places: int = PLACES,
        limits: BatchLimits | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        on_broken_device: Callable[[], None] = lambda: None,
        memory: Memory | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """`patience_seconds`: an answer that makes no progress for this long ends with an error.

        `idle_seconds`: on a CPU, memory that is kept for later requests is freed after this long without a request.
        """
        self._placement = placement
        self._place = place_of(placement.device)
        self._patience_seconds = patience_seconds
        self._on_broken_device = on_broken_device
        self._idle_seconds = idle_seconds
        self._queue = RequestQueue(places)
        memory = memory or Memory(placement.device)
        self._model_cache = ModelCache(placement, limits or BatchLimits(), self._finish, self._queue.notify, memory)
        self._arrived: deque[LoadResult] = deque()
        self._aside_for: EngineError | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def health(self) -> EngineHealth:
        waiting, is_busy = self._queue.count()
        now, alone, shut = self._model_cache.now, self._model_cache.alone, self._queue.shut_reason
        return EngineHealth(
            device=self._placement.device,
            loaded_base=None if now is None else now.base.name,
            loaded_merged=None if now is None or now.merged is None else now.merged.name,
            loaded_adapters=self._model_cache.loaded_adapters(),
            in_memory=self._model_cache.names,
            answers=None if now is None else "in_batches" if alone is None else "one_at_a_time",
            answers_reason=alone,
            waiting=waiting,
            is_busy=is_busy,
            place=self._place,
            memory_bytes=memory_held(self._placement.device),
            cache_bytes=self._model_cache.cache_bytes,
            max_cache_bytes=self._model_cache.most_cache_bytes,
            stepped_aside=None if shut is None else shut.message,
        )

    @property
    def is_away(self) -> bool:
        """Whether the engine's thread has freed all memory; requests are refused until `come_back`."""
        return self._aside_for is not None and self._aside_for is self._queue.shut_reason

    def step_aside(self, reason: EngineError) -> None:
        self._queue.shut(reason)

    def end_answers(self) -> None:
        self._queue.stop_served()

    def come_back(self) -> None:
        self._queue.open()

    def count_blocks(self) -> tuple[int, int]:
        """The number of free blocks and of all blocks of keys and values; zeros while no base answers in batches."""
        host = self._model_cache.host
        return (host.blocks.free, host.blocks.total) if host is not None else (0, 0)

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        return answers(request, self._queue, self._patience_seconds)

    def close(self) -> None:
        self._queue.close()

    def join(self, seconds: float) -> bool:
        """Wait for the engine's thread after `close`. Returns False if it is still busy."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._queue.is_closed:
            try:
                if not self._run_once() and not self._queue.rest(self._idle_seconds):
                    self._model_cache.give_back()
                    self._queue.rest()
            except Exception as error:  # noqa: BLE001  no failure may end the engine's thread
                self._start_over(error)
        self._end_all(None)
        self._model_cache.unload_all()

    def _run_once(self) -> bool:
        """Do what can be done now: receive adapters, begin answers, run one step. Returns False if there was nothing to
        do.
        """
        self._make_room()
        has_received = self._receive()
        has_begun = self._begin_answers()
        host = self._model_cache.host
        return (host is not None and host.step()) or has_begun or has_received or self._prepare()

    def _prepare(self) -> bool:
        """Use an idle moment to prepare later steps. Returns False if there is nothing to prepare."""
        host = self._model_cache.host
        return host is not None and self._queue.shut_reason is None and host.prepare()

    def _make_room(self) -> None:
        reason = self._queue.shut_reason
        if reason is not None and reason is not self._aside_for and not self._is_at_work():
            self._model_cache.unload_all()
            self._aside_for = reason

    def _receive(self) -> bool:
        arrivals = self._model_cache.loads.arrivals() if self._model_cache.loads is not None else []
        for arrival in arrivals:
            adapter = arrival.ticket.request.adapter
            if isinstance(arrival.error, NotBatchable) and adapter is not None:
                self._model_cache.keep_merged(adapter, str(arrival.error))
                self._give_back(arrival)
            elif arrival.error is not None:
                self._finish(arrival.ticket, event_of(arrival.error))
            else:
                self._arrived.append(arrival)
        return bool(arrivals)

    def _give_back(self, arrival: LoadResult) -> bool:
        """Return a ticket to the head of the queue. If it was stopped, end it and return False."""
        if self._queue.put_back(arrival.ticket):
            return True
        self._arrived.append(LoadResult(arrival.ticket, None))
        return False

    def _begin_answers(self) -> bool:
        """Begin waiting answers in order of arrival; the first that does not fit blocks all after it."""
        has_begun = False
        while self._arrived:
            if not self._join(self._arrived[0]):
                return has_begun
            self._arrived.popleft()
            has_begun = True
        while (ticket := self._queue.first()) is not None and self._call_in(ticket):
            has_begun = True
        return has_begun

    def _call_in(self, ticket: Ticket) -> bool:
        """Serve or refuse the ticket at the head of the queue. Returns False if it has to wait."""
        try:
            return self._serve(ticket)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            event = event_of(error)
            if self._queue.take(ticket) or ticket in self._queue.served():
                self._finish(ticket, event)
            return True

    def _serve(self, ticket: Ticket) -> bool:
        if not self._is_at_hand(ticket):
            return False
        model_cache, adapter = self._model_cache, self._model_cache.beside(ticket.request)
        if model_cache.host is None or model_cache.loads is None:
            self._answer_alone(ticket)
            return True
        model_cache.host.check(ticket)
        weights = model_cache.loads.find(adapter) if adapter is not None else None
        if adapter is not None and weights is None:
            if model_cache.loads.count() >= model_cache.host.places:
                return False
            if self._queue.take(ticket):
                model_cache.loads.wait_for(adapter, ticket)
            return True
        if not self._queue.take(ticket):
            return True
        arrival = LoadResult(ticket, weights)
        return self._join(arrival) or not self._give_back(arrival)

    def _is_at_hand(self, ticket: Ticket) -> bool:
        """Whether the ticket's model answers now, or can, because no other model has answers in progress."""
        model_cache = self._model_cache
        wanted = model_cache.of(ticket.request)
        is_here = model_cache.now == wanted
        if is_here and not model_cache.is_too_cramped_for(ticket.request):
            return True
        if self._is_at_work():
            return False
        self._queue.let_pass(lambda other: model_cache.of(other.request) == wanted)
        model_cache.enter(wanted, is_only=is_here)
        return True

    def _is_at_work(self) -> bool:
        host, loads = self._model_cache.host, self._model_cache.loads
        return bool(self._arrived or (host is not None and host.running) or (loads is not None and loads.count()))

    def _join(self, arrival: LoadResult) -> bool:
        """Add an answer to the batch. Returns False while there is no place for it."""
        ticket = arrival.ticket
        if ticket.stop_reason is not None:
            self._finish(ticket, ticket.stop_reason)
            return True
        assert self._model_cache.host is not None
        return self._model_cache.host.admit(ticket, arrival.weights)

    def _answer_alone(self, ticket: Ticket) -> None:
        resident, adapter = self._model_cache.resident, self._model_cache.beside(ticket.request)
        if resident is None or not self._queue.take(ticket):
            return
        try:
            if adapter is not None:
                resident.ensure_adapter(adapter)
            self._finish(ticket, answer_alone(resident, ticket, adapter))
        except Refusal as refusal:
            self._finish(ticket, refusal.error)
        except Exception as error:
            self._model_cache.unload_all()  # the next request reads the files again
            if isinstance(error, torch.AcceleratorError):
                raise
            self._finish(ticket, event_of(error))

    def _finish(self, ticket: Ticket, event: TokenEvent) -> None:
        if isinstance(event, EngineError) and event.code == OUT_OF_MEMORY:
            self._model_cache.unload_others()
        self._queue.done(ticket)
        ticket.put(event)

    def _start_over(self, error: Exception) -> None:
        """The content of the memory cannot be trusted: end every answer, and read all files again."""
        self._end_all(event_of(error))
        self._model_cache.unload_all()
        if isinstance(error, torch.AcceleratorError):  # this process cannot use the device any more
            self._on_broken_device()

    def _end_all(self, event: EngineError | None) -> None:
        """End all answers in progress, each with its own stop reason if it has one, else with `event`."""
        self._arrived.clear()
        for ticket in self._queue.served():
            self._finish(ticket, ticket.stop_reason or event or ticket.stop(*STOPPING))
