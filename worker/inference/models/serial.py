"""Answers one request at a time, for models that cannot answer in batches, and converts errors to events."""

import logging

from app.contracts.generation import OUT_OF_MEMORY, EngineError
from worker.inference.engine import AdapterFolder, Ended, Refusal, TokenEvent
from worker.inference.models.bases import is_out_of_memory
from worker.inference.models.resident import Resident
from worker.inference.server.limits import check_fits, end_tokens
from worker.inference.server.waiting import Ticket
from worker.inference.text.decoding import decode
from worker.inference.text.sampling import TokenChooser, answer_ends

log = logging.getLogger(__name__)


def answer_alone(resident: Resident, ticket: Ticket, adapter: AdapterFolder | None) -> TokenEvent:
    """Answer one ticket with an adapter that is in memory; returns its last event. Raises Refusal."""
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
    raise AssertionError("decoding never ends by itself")


def event_of(error: Exception) -> EngineError:
    """The event for a request that failed with this error, which is logged unless it is a refusal."""
    if isinstance(error, Refusal):
        return error.error
    log.error("a request failed: %s", type(error).__name__, exc_info=error)
    error.__traceback__ = None  # its frames keep tensors alive
    if is_out_of_memory(error):
        message = "the engine ran out of memory: ask for fewer tokens, or for a smaller model"
        return EngineError(status=503, code=OUT_OF_MEMORY, message=message)
    message = f"the engine failed ({type(error).__name__}); see its log"
    return EngineError(status=500, code="engine_failed", message=message)
