"""The engine that is always right: one request at a time, on one thread that alone touches the model.

generate ──> waiting room ──> the thread: load what is missing, check, decode ──> token, token, … ──> one last event
"""

import gc
import logging
import threading
from collections.abc import AsyncGenerator, Callable

import torch

from app.contracts.generation import OUT_OF_MEMORY, EngineError, EngineHealth
from worker.inference.bases import Placement, load_base
from worker.inference.decoding import decode
from worker.inference.engine import AdapterFolder, Ended, ModelFolder, Refusal, TokenEvent, TokenRequest
from worker.inference.limits import check_fits, end_tokens
from worker.inference.resident import Resident
from worker.inference.sampling import TokenChooser, answer_ends
from worker.inference.waiting import PATIENCE_SECONDS, Ticket, WaitingRoom, answers

PLACES = 64
MAX_ADAPTERS = 8
log = logging.getLogger(__name__)


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
        self._room = WaitingRoom(places)
        self._base: ModelFolder | None = None
        self._resident: Resident | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def health(self) -> EngineHealth:
        waiting, is_busy = self._room.count()
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
        return answers(request, self._room, self._patience_seconds)

    def close(self) -> None:
        self._room.close()

    def join(self, seconds: float) -> bool:
        """Wait for the engine's thread after `close`; false when it is still in the middle of something."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (ticket := self._room.call_next()) is not None:
            ticket.put(self._last_event(ticket))

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
            log.info("%s was loaded on %s", request.base.name, self._placement.device)
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


def answer_alone(resident: Resident, ticket: Ticket, adapter: AdapterFolder | None) -> TokenEvent:
    """Answer one ticket up to its last event, which is returned, with an adapter that is in memory. Raises Refusal."""
    request = ticket.request
    check_fits(resident.model, request.prompt_ids, request.sampling.max_new_tokens)
    eos = end_tokens(resident.model)
    ends = answer_ends(request, eos)
    with resident.answering_as(adapter.name if adapter else None) as model:
        chooser = TokenChooser.of(request, eos, model.device)
        tokens = decode(model, request.prompt_ids, chooser, use_cache=request.sampling.use_cache)
        for count, token in enumerate(tokens, start=1):
            if token.id in ends:
                return Ended("stop", count)
            ticket.put(token)
            if count == request.sampling.max_new_tokens:
                return Ended("length", count)
            if ticket.stop_reason is not None:
                return ticket.stop_reason
    raise AssertionError("decoding has no end of its own")


def event_of(error: Exception) -> EngineError:
    """How a request ends that failed with this error; it is logged unless it is a refusal."""
    if isinstance(error, Refusal):
        return error.error
    log.error("a request failed: %s", type(error).__name__, exc_info=error)
    error.__traceback__ = None  # its frames hold tensors
    if is_out_of_memory(error):
        message = "the engine ran out of memory: ask for fewer tokens, or for a smaller model"
        return EngineError(status=503, code=OUT_OF_MEMORY, message=message)
    message = f"the engine failed ({type(error).__name__}); its log tells more"
    return EngineError(status=500, code="engine_failed", message=message)


def is_out_of_memory(error: Exception) -> bool:
    """A GPU says it by type, the CPU allocator only in words."""
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
