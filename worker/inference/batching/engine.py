"""The engine for many at once: one thread steps a batch in which every answer has its own adapter, dice and end.

generate ──> waiting room ──> loads (an adapter is read) ──> batch: step, step, … ──> one last event
                 │                                             ▲ first come first served; who does not fit, waits
                 └──> alone: a model that answers no batch, one request at a time, when nothing else runs
"""

import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable

import torch

from app.contracts.generation import OUT_OF_MEMORY, EngineError, EngineHealth
from worker.inference.batching.attention import NotBatchable
from worker.inference.batching.host import BatchLimits
from worker.inference.batching.loads import Arrival
from worker.inference.batching.memory import Memory
from worker.inference.batching.model_cache import ModelCache
from worker.inference.engine import Refusal, TokenEvent, TokenRequest
from worker.inference.models.bases import Placement
from worker.inference.models.serial import answer_alone, event_of
from worker.inference.server.memory_lease import memory_held, place_of
from worker.inference.server.waiting import PATIENCE_SECONDS, STOPPING, Ticket, WaitingRoom, answers

PLACES = 64
IDLE_SECONDS = 60.0
log = logging.getLogger(__name__)


class BatchingEngine:
    """Answers from one base model with many adapters at a time; from another base when all before is answered.

    An adapter that no batch can hold is merged into its base, which is another base then. Bases that were asked before
    stay in memory where there is room for them.
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
        """`patience_seconds`: how long an answer may stand still before its request ends with an error.

        `idle_seconds`: after so long without a request, memory that is kept for later ones is given back on a CPU.
        """
        self._placement = placement
        self._place = place_of(placement.device)
        self._patience_seconds = patience_seconds
        self._on_broken_device = on_broken_device
        self._idle_seconds = idle_seconds
        self._room = WaitingRoom(places)
        memory = memory or Memory(placement.device)
        self._model_cache = ModelCache(placement, limits or BatchLimits(), self._finish, self._room.notify, memory)
        self._arrived: deque[Arrival] = deque()
        self._aside_for: EngineError | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def health(self) -> EngineHealth:
        waiting, is_busy = self._room.count()
        now, alone, shut = self._model_cache.now, self._model_cache.alone, self._room.shut_reason
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
        """The engine's thread has let go of all since it was asked to; what comes before `come_back` is sent away."""
        return self._aside_for is not None and self._aside_for is self._room.shut_reason

    def step_aside(self, reason: EngineError) -> None:
        self._room.shut(reason)

    def end_answers(self) -> None:
        self._room.stop_served()

    def come_back(self) -> None:
        self._room.open()

    def count_blocks(self) -> tuple[int, int]:
        """Free and all blocks of keys and values; none while no base answers in batches."""
        host = self._model_cache.host
        return (host.blocks.free, host.blocks.total) if host is not None else (0, 0)

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        return answers(request, self._room, self._patience_seconds)

    def close(self) -> None:
        self._room.close()

    def join(self, seconds: float) -> bool:
        """Wait for the engine's thread after `close`; false when it is still in the middle of something."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._room.is_closed:
            try:
                if not self._turn() and not self._room.rest(self._idle_seconds):
                    self._model_cache.give_back()
                    self._room.rest()
            except Exception as error:  # noqa: BLE001  no failure may end the engine's thread
                self._start_over(error)
        self._end_all(None)
        self._model_cache.let_go()

    def _turn(self) -> bool:
        """Whatever can be done now: receive adapters, begin answers, one step of all. False when there was nothing."""
        self._make_room()
        has_received = self._receive()
        has_begun = self._begin_answers()
        host = self._model_cache.host
        return (host is not None and host.step()) or has_begun or has_received or self._prepare()

    def _prepare(self) -> bool:
        """Use an idle moment; false when there is nothing to use it for."""
        host = self._model_cache.host
        return host is not None and self._room.shut_reason is None and host.prepare()

    def _make_room(self) -> None:
        reason = self._room.shut_reason
        if reason is not None and reason is not self._aside_for and not self._is_at_work():
            self._model_cache.let_go()
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

    def _give_back(self, arrival: Arrival) -> bool:
        """Let a ticket wait at the head of the queue again; false when it was stopped, which is the next thing told."""
        if self._room.put_back(arrival.ticket):
            return True
        self._arrived.append(Arrival(arrival.ticket, None))
        return False

    def _begin_answers(self) -> bool:
        """Let in who can be let in, in the order of arrival; whoever does not fit keeps back all behind it."""
        has_begun = False
        while self._arrived:
            if not self._join(self._arrived[0]):
                return has_begun
            self._arrived.popleft()
            has_begun = True
        while (ticket := self._room.first()) is not None and self._call_in(ticket):
            has_begun = True
        return has_begun

    def _call_in(self, ticket: Ticket) -> bool:
        """Serve the ticket at the head of the queue, or refuse it; false when it has to wait."""
        try:
            return self._serve(ticket)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of a request: it must end with an event
            event = event_of(error)
            if self._room.take(ticket) or ticket in self._room.served():
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
            if self._room.take(ticket):
                model_cache.loads.wait_for(adapter, ticket)
            return True
        if not self._room.take(ticket):
            return True
        arrival = Arrival(ticket, weights)
        return self._join(arrival) or not self._give_back(arrival)

    def _is_at_hand(self, ticket: Ticket) -> bool:
        """Whether the ticket's world answers now; it does so as soon as nobody is answered in another one."""
        model_cache = self._model_cache
        wanted = model_cache.of(ticket.request)
        is_here = model_cache.now == wanted
        if is_here and not model_cache.is_too_cramped_for(ticket.request):
            return True
        if self._is_at_work():
            return False
        self._room.let_pass(lambda other: model_cache.of(other.request) == wanted)
        model_cache.enter(wanted, is_only=is_here)
        return True

    def _is_at_work(self) -> bool:
        host, loads = self._model_cache.host, self._model_cache.loads
        return bool(self._arrived or (host is not None and host.running) or (loads is not None and loads.count()))

    def _join(self, arrival: Arrival) -> bool:
        """Give an answer its place in the batch; false while there is none."""
        ticket = arrival.ticket
        if ticket.stop_reason is not None:
            self._finish(ticket, ticket.stop_reason)
            return True
        assert self._model_cache.host is not None
        return self._model_cache.host.admit(ticket, arrival.weights)

    def _answer_alone(self, ticket: Ticket) -> None:
        resident, adapter = self._model_cache.resident, self._model_cache.beside(ticket.request)
        if resident is None or not self._room.take(ticket):
            return
        try:
            if adapter is not None:
                resident.ensure_adapter(adapter)
            self._finish(ticket, answer_alone(resident, ticket, adapter))
        except Refusal as refusal:
            self._finish(ticket, refusal.error)
        except Exception as error:
            self._model_cache.let_go()  # the next request begins from the files again
            if isinstance(error, torch.AcceleratorError):
                raise
            self._finish(ticket, event_of(error))

    def _finish(self, ticket: Ticket, event: TokenEvent) -> None:
        if isinstance(event, EngineError) and event.code == OUT_OF_MEMORY:
            self._model_cache.let_go_of_others()
        self._room.done(ticket)
        ticket.put(event)

    def _start_over(self, error: Exception) -> None:
        """Nothing of what is in memory can be trusted: end every answer, and begin from the files again."""
        self._end_all(event_of(error))
        self._model_cache.let_go()
        if isinstance(error, torch.AcceleratorError):  # no later call on this device can succeed in this process
            self._on_broken_device()

    def _end_all(self, event: EngineError | None) -> None:
        """End all that is being served, each with its own reason to stop if it has one."""
        self._arrived.clear()
        for ticket in self._room.served():
            self._finish(ticket, ticket.stop_reason or event or ticket.stop(*STOPPING))
