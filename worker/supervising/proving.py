"""Asks the engine to prove that an adapter behaves as it did in its trainer. No adapter is published before that.

If the engine is unavailable the finished training is kept: the job waits, and only the verification is repeated.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import httpx
from pydantic import ValidationError

from app.contracts.events import Blame, Failed
from app.contracts.generation import OUT_OF_MEMORY, EngineError
from app.contracts.order import BASE_REPLACED
from app.contracts.probe import Proof, ProofOrder, Unproved
from app.processes.engine_address import SAYS_WRONG_KEY, WRONG_KEY, EngineAddress
from app.processes.engine_ranking import ranked, ranking_key
from worker.supervising.attempt import StopReason
from worker.supervising.verdict import ENGINE_AWAY, ENGINE_DIED, NOT_PROVED

CONNECT_SECONDS = 3.0
# The engine may have to download the base first, and serves earlier requests before this one.
ANSWER_SECONDS = 1800.0
# How long an unavailable or busy engine is asked again before the job goes back to waiting.
PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 1.0
# The status codes of an engine that is busy or stopping, cannot download the base at present, or has another key.
TEMPORARY_STATUSES = frozenset({401, 429, 499, 503})

# The connection broke after the engine had accepted the request. The request itself may have crashed the engine.
BROKEN_OFF = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
# The code for a base that the engine does not find or cannot load.
NO_BASE = "model_unavailable"
DEFAULT_HINT = "the engine's log may tell more, and details have the figures; the job can be sent again"
HINTS: dict[Unproved | None, str] = {
    Unproved.BASE_DIFFERS: "put back the base's files on which the job was trained, or send the job again",
    Unproved.BUNDLE_DIFFERS: "nothing else may write to the folder of the adapter; send the job again",
}
log = logging.getLogger(__name__)
KEPT = "the adapter is kept in the folder of the attempt and is not served"

# Renews this worker's claim on the job; returns why the wait is to end, or None.
Heartbeat = Callable[[], StopReason | None]


class NoAnswer(Exception):
    """The engine did not decide whether the adapter is proved."""

    def __init__(self, code: str, message: str, hint: str, blame: Blame = Blame.SYSTEM) -> None:
        super().__init__(message)
        self.failure = Failed(blame=blame, code=code, message=message, hint=hint)


class EngineAway(NoAnswer):
    """The engine is unavailable at present and may decide later."""

    def __init__(self, message: str) -> None:
        super().__init__(ENGINE_AWAY, message, "the adapter is complete; it is verified once the engine is back")


def ask(
    engines: Sequence[EngineAddress], order: ProofOrder, heartbeat: Heartbeat, heartbeat_seconds: float
) -> Proof | StopReason:
    """Have the engine that will answer with an adapter verify it, or the next one in its ranking that can.

    Returns the proof, or the reason why `heartbeat` ended the wait.

    `heartbeat` is called every `heartbeat_seconds` meanwhile. Raises NoAnswer, and what `heartbeat` raises.
    """
    by_name = {engine.name: engine for engine in engines}
    in_order = [by_name[name] for name in ranked(by_name, ranking_key(order.base, order.adapter))]
    return asyncio.run(_ask(in_order, order, heartbeat, heartbeat_seconds))


async def _ask(
    engines: Sequence[EngineAddress], order: ProofOrder, heartbeat: Heartbeat, heartbeat_seconds: float
) -> Proof | StopReason:
    request = asyncio.create_task(_retry_while_away(engines, order))
    try:
        while not request.done():
            await asyncio.wait({request}, timeout=heartbeat_seconds)
            reason = None if request.done() else heartbeat()
            if reason is not None:
                return reason
        return request.result()
    finally:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)


async def _retry_while_away(engines: Sequence[EngineAddress], order: ProofOrder) -> Proof:
    patience_ends: float | None = None
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(engine.async_client(timeout)) for engine in engines]
        while True:
            try:
                return await _post_to_one(clients, order)
            except EngineAway:
                patience_ends = patience_ends or time.monotonic() + PATIENCE_SECONDS
                if time.monotonic() >= patience_ends:
                    raise
            await asyncio.sleep(RETRY_SECONDS)


async def _post_to_one(clients: Sequence[httpx.AsyncClient], order: ProofOrder) -> Proof:
    """Ask one engine after the other until one is not away."""
    for http in clients[:-1]:
        try:
            return await _post_order(http, order)
        except EngineAway as away:
            log.info("the next engine is asked: %s", away)
    return await _post_order(clients[-1], order)


async def _post_order(http: httpx.AsyncClient, order: ProofOrder) -> Proof:
    headers = {"content-type": "application/json"}
    try:
        response = await http.post("/prove", content=order.model_dump_json(exclude_defaults=True), headers=headers)
    except BROKEN_OFF as error:
        message = f"the engine broke off while it verified the adapter ({type(error).__name__})"
        raise NoAnswer(ENGINE_DIED, message, f"the engine's log tells more; {KEPT}") from error
    except httpx.ReadTimeout as error:
        message = f"the engine took the adapter and has not answered for {ANSWER_SECONDS:.0f} s"
        raise NoAnswer("engine_failed", message, f"the engine's log tells more; {KEPT}") from error
    except httpx.TransportError as error:
        raise EngineAway(f"the engine does not answer ({type(error).__name__})") from error
    if response.status_code in TEMPORARY_STATUSES and _code(response) != OUT_OF_MEMORY:  # may be permanent
        raise EngineAway(f"the engine cannot verify the adapter at present: {_describe(response)}")
    try:
        return Proof.model_validate_json(response.raise_for_status().content, extra="ignore")
    except (httpx.HTTPStatusError, ValidationError) as error:
        raise _no_answer_from(response) from error


def _no_answer_from(response: httpx.Response) -> NoAnswer:
    """The failure for a response that is neither a proof nor temporary."""
    message = f"the engine could not verify the adapter: {_describe(response)}"
    code = _code(response)
    if code == NO_BASE:
        return NoAnswer(NO_BASE, message, f"repair the base model where the engine runs; {KEPT}")
    if code == BASE_REPLACED:
        return NoAnswer(code, message, f"post the job again to train on the new files; {KEPT}", Blame.USER)
    if code == OUT_OF_MEMORY:
        return NoAnswer(code, message, f"the engine needs more memory for this base; {KEPT}")
    return NoAnswer("engine_failed", message, f"the engine's log tells more; {KEPT}")


def _describe(response: httpx.Response) -> str:
    refusal = _refusal(response)
    if refusal is None:
        return f"it answered {response.status_code} with something other than a proof"
    return refusal.message if refusal.code != WRONG_KEY else SAYS_WRONG_KEY


def _code(response: httpx.Response) -> str | None:
    refusal = _refusal(response)
    return None if refusal is None else refusal.code


def _refusal(response: httpx.Response) -> EngineError | None:
    try:
        return EngineError.model_validate_json(response.content, extra="ignore")
    except ValidationError:
        return None


def not_proved(proof: Proof) -> Failed:
    """The failure of a finished training whose adapter is not proved: a user error if the training diverged, otherwise
    a system error."""
    details = [proof.model_dump(mode="json")]
    if proof.cause is Unproved.TRAINING_DIVERGED:
        hint = f"a learning_rate of a tenth, or more warmup_steps, usually helps; {KEPT}"
        param = "training.learning_rate"
        return Failed(
            blame=Blame.USER, code=proof.cause, message=proof.reason or "", hint=hint, param=param, details=details
        )
    message = f"in the engine the adapter is not what was trained: {proof.reason}"[:1000]
    hint = f"{HINTS.get(proof.cause, DEFAULT_HINT)}; {KEPT}"
    return Failed(blame=Blame.SYSTEM, code=NOT_PROVED, message=message, hint=hint, details=details)
