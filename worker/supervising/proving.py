"""Asks the engine whether an adapter says there what its trainer saw; nothing is published before it does.

A training that is finished is never lost to an engine that is away: the job waits for the engine, and only this is done
again.
"""

import asyncio
import time
from collections.abc import Callable

import httpx
from pydantic import ValidationError

from app.contracts.events import Blame, Failed
from app.contracts.generation import OUT_OF_MEMORY, EngineError
from app.contracts.order import BASE_REPLACED
from app.contracts.probe import Proof, ProofOrder, Unproved
from app.processes.engine_address import SAYS_WRONG_KEY, WRONG_KEY, EngineAddress
from worker.supervising.attempt import StopReason
from worker.supervising.verdict import ENGINE_AWAY, ENGINE_DIED, NOT_PROVED

CONNECT_SECONDS = 3.0
# The engine may have to download the base first, and answers those who asked before.
ANSWER_SECONDS = 1800.0
# How long an engine that is away, or full, is asked again before the job is handed back.
PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 1.0
# What a busy or stopping engine answers, one whose base cannot be fetched at present, and one with another key.
PASSING = frozenset({401, 429, 499, 503})

# An engine that took the question and then was gone; the question itself may be what ends it.
BROKEN_OFF = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
# A base that the engine does not find, or cannot load.
NO_BASE = "model_unavailable"
LOOK = "the engine's log may tell more, and details have the figures; the job can be sent again"
WHAT_TO_DO: dict[Unproved | None, str] = {
    Unproved.BASE_DIFFERS: "put the files of the base back that the job was trained on, or send the job again",
    Unproved.BUNDLE_DIFFERS: "nothing else may write to the folder of the adapter; send the job again",
}
KEPT = "the adapter is kept in the folder of the attempt and is not served"

# Renews the hold on the job, and says whether somebody wants the wait to end.
Beat = Callable[[], StopReason | None]


class NoAnswer(Exception):
    """The engine has not said whether the adapter is proved."""

    def __init__(self, code: str, message: str, hint: str, blame: Blame = Blame.SYSTEM) -> None:
        super().__init__(message)
        self.failure = Failed(blame=blame, code=code, message=message, hint=hint)


class EngineAway(NoAnswer):
    """It may do so later."""

    def __init__(self, message: str) -> None:
        super().__init__(ENGINE_AWAY, message, "the adapter is complete; it is verified once the engine is back")


def ask(engine: EngineAddress, order: ProofOrder, beat: Beat, beat_seconds: float) -> Proof | StopReason:
    """The engine's proof, or why the wait for it was ended. `beat` is called every `beat_seconds` meanwhile.

    Raises NoAnswer, and what `beat` raises.
    """
    return asyncio.run(_ask(engine, order, beat, beat_seconds))


async def _ask(engine: EngineAddress, order: ProofOrder, beat: Beat, beat_seconds: float) -> Proof | StopReason:
    asking = asyncio.create_task(_insist(engine, order))
    try:
        while not asking.done():
            await asyncio.wait({asking}, timeout=beat_seconds)
            reason = None if asking.done() else beat()
            if reason is not None:
                return reason
        return asking.result()
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def _insist(engine: EngineAddress, order: ProofOrder) -> Proof:
    patience_ends: float | None = None
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    async with engine.async_client(timeout) as http:
        while True:
            try:
                return await _once(http, order)
            except EngineAway:
                patience_ends = patience_ends or time.monotonic() + PATIENCE_SECONDS
                if time.monotonic() >= patience_ends:
                    raise
            await asyncio.sleep(RETRY_SECONDS)


async def _once(http: httpx.AsyncClient, order: ProofOrder) -> Proof:
    headers = {"content-type": "application/json"}
    try:
        answer = await http.post("/prove", content=order.model_dump_json(), headers=headers)
    except BROKEN_OFF as error:
        message = f"the engine broke off while it verified the adapter ({type(error).__name__})"
        raise NoAnswer(ENGINE_DIED, message, f"the engine's log tells more; {KEPT}") from error
    except httpx.ReadTimeout as error:
        message = f"the engine took the adapter and has not answered for {ANSWER_SECONDS:.0f} s"
        raise NoAnswer("engine_failed", message, f"the engine's log tells more; {KEPT}") from error
    except httpx.TransportError as error:
        raise EngineAway(f"the engine does not answer ({type(error).__name__})") from error
    if answer.status_code in PASSING and _code(answer) != OUT_OF_MEMORY:  # which may never pass
        raise EngineAway(f"the engine cannot verify the adapter at present: {_words(answer)}")
    try:
        return Proof.model_validate_json(answer.raise_for_status().content)
    except (httpx.HTTPStatusError, ValidationError) as error:
        raise _no_answer(answer) from error


def _no_answer(answer: httpx.Response) -> NoAnswer:
    """Neither a proof nor a word of what passes. A base that the engine cannot load is named as such."""
    message = f"the engine could not verify the adapter: {_words(answer)}"
    code = _code(answer)
    if code == NO_BASE:
        return NoAnswer(NO_BASE, message, f"repair the base model where the engine runs; {KEPT}")
    if code == BASE_REPLACED:
        return NoAnswer(code, message, f"post the job anew to train on the new files; {KEPT}", Blame.USER)
    if code == OUT_OF_MEMORY:
        return NoAnswer(code, message, f"the engine needs more memory for this base; {KEPT}")
    return NoAnswer("engine_failed", message, f"the engine's log tells more; {KEPT}")


def _words(answer: httpx.Response) -> str:
    refusal = _refusal(answer)
    if refusal is None:
        return f"it answered {answer.status_code} with something else than a proof"
    return refusal.message if refusal.code != WRONG_KEY else SAYS_WRONG_KEY


def _code(answer: httpx.Response) -> str | None:
    refusal = _refusal(answer)
    return None if refusal is None else refusal.code


def _refusal(answer: httpx.Response) -> EngineError | None:
    try:
        return EngineError.model_validate_json(answer.content)
    except ValidationError:
        return None


def not_proved(proof: Proof) -> Failed:
    """Why a job fails whose training was completed. A diverged one is the user's to mend, all else is the system's."""
    details = [proof.model_dump(mode="json")]
    if proof.cause is Unproved.TRAINING_DIVERGED:
        hint = f"a learning_rate of a tenth, or more warmup_steps, usually helps; {KEPT}"
        param = "training.learning_rate"
        return Failed(
            blame=Blame.USER, code=proof.cause, message=proof.reason or "", hint=hint, param=param, details=details
        )
    message = f"in the engine the adapter is not what was trained: {proof.reason}"[:1000]
    hint = f"{WHAT_TO_DO.get(proof.cause, LOOK)}; {KEPT}"
    return Failed(blame=Blame.SYSTEM, code=NOT_PROVED, message=message, hint=hint, details=details)
