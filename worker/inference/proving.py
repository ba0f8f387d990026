"""Holds an adapter against the probe that its trainer left in its bundle, through the very path that serves it.

An adapter is proved on its base as the files hold it; one that was trained on a quantised base and is another one there
is proved on the values that its trainer had, or not at all. Whoever asks it later is answered on the same.

The recorded steps are asked of the engine as an answer that is dictated: it has no choice of the tokens, and tells how
likely it finds them; with the adapter and without, so that the adapter is known by what it changes.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.contracts.generation import AdapterRef, EngineError, Sampling
from app.contracts.probe import PROBE, Probe, Prompt, Proof, ProofOrder
from worker.inference.adapters import check_folder, rejected
from worker.inference.bases import is_quantised
from worker.inference.comparing import Scores, compare
from worker.inference.engine import AdapterFolder, Engine, ModelFolder, Refusal, Token, TokenEvent, TokenRequest
from worker.inference.language import load_language
from worker.inference.sources import Sources
from worker.rendering.renderer import NoTokenizer

# Refusals that say something of the engine or its host, and nothing of the adapter.
PASSING = frozenset({429, 499, 500, 502, 503, 504})
# Refusals of an engine that cannot serve what another one may.
ELSEWHERE = frozenset({"base_not_served", "unsupported_by_engine"})
# Of each step the best tokens that are listened to: those that the trained model chose, the base may find unlikely.
LISTENED = 1000
NOT_FINITE = "model_not_finite"
# Variants that are all of what quantising does: 8 bits round what goes into a layer as well.
ALL_IN_WEIGHTS = frozenset({"dequant-nf4", "dequant-fp4"})


@dataclass(frozen=True)
class Dictation:
    """A grammar of one single answer. `heard` has the tokens of each step whose log-probabilities are compared."""

    ids: tuple[int, ...]
    heard: tuple[tuple[int, ...], ...]

    def begin(self) -> "Reading":
        return Reading(self.ids)


class Reading:
    """The way through a dictation; behind its end every token may come."""

    def __init__(self, ids: tuple[int, ...]) -> None:
        self._left = list(ids)

    def restrict(self, scores: Any) -> Any:
        """Raises Refusal 409 for a token that the model does not have."""
        if not self._left:
            return scores
        check_has(self._left[0], scores.shape[-1])
        only = torch.full_like(scores, -torch.inf)
        only[..., self._left[0]] = 0.0
        return only

    def accept(self, token: int) -> None:
        self._left = self._left[1:] if self._left[:1] == [token] else []


def check_has(token: int, vocabulary: int) -> None:
    """Raises Refusal 409 for a token that a model of so many does not have."""
    if token >= vocabulary:
        raise Refusal(409, "tokenizer_mismatch", f"the probe has token {token}, the model knows {vocabulary}")


class Answers(Protocol):
    """What of an engine a proof needs."""

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]: ...


async def prove(order: ProofOrder, engine: Engine, sources: Sources) -> Proof:
    """Whether the engine says with the adapter what its trainer saw.

    Raises Refusal where that cannot be found out now: the engine is busy or stops, the base is not to be had.
    """
    try:
        return await _prove(order, engine, sources)
    except Refusal as refusal:
        error = refusal.error
        if is_about_the_adapter(error, order.adapter):
            return Proof(proved=False, reason=error.message)
        raise


def is_about_the_adapter(error: EngineError, adapter: AdapterRef) -> bool:
    """Whether a refusal is a verdict on the adapter, and no other time or engine would help."""
    if error.code == "model_unavailable":  # the base, unless the bundle is a whole model
        return adapter.kind == "full"
    if error.code in ELSEWHERE:
        return False
    return error.code == NOT_FINITE or error.status not in PASSING


async def _prove(order: ProofOrder, engine: Engine, sources: Sources) -> Proof:
    bundle = AdapterFolder(order.adapter.name, Path(order.adapter.path))
    probe = await run_in_threadpool(read_probe, bundle)
    if order.adapter.kind == "full":
        return await hold_against(probe, engine, ModelFolder(bundle.name, bundle.folder), None)
    base = await sources.find(order.base)
    proof = await hold_against(probe, engine, base, bundle)
    if proof.proved or probe.variant is None or await run_in_threadpool(is_quantised, base):
        return proof
    try:
        other = await _on_variant(probe, engine, replace(base, variant=probe.variant), bundle)
    except Refusal as refusal:
        if refusal.error.code not in ELSEWHERE:
            raise
        return proof
    return _better(proof, other)


async def _on_variant(probe: Probe, engine: Engine, base: ModelFolder, bundle: AdapterFolder) -> Proof:
    """The values are the trainer's own there: of 4 bits, not even rounding is left to be allowed for."""
    is_exact = base.variant is not None and base.variant.name in ALL_IN_WEIGHTS
    proof = await hold_against(probe.model_copy(update={"quantised": not is_exact}), engine, base, bundle)
    return proof.model_copy(update={"base_variant": base.variant})


def _better(plain: Proof, other: Proof) -> Proof:
    if other.proved:
        return other
    assert other.base_variant is not None, "it was tried on a variant"
    return plain.model_copy(update={"reason": f"{plain.reason}; on {other.base_variant.name}, {other.reason}"})


async def hold_against(probe: Probe, engine: Answers, base: ModelFolder, adapter: AdapterFolder | None) -> Proof:
    """What comes of the probe of an adapter, or of a whole model. Raises Refusal where the engine does not answer."""
    who = [(base, None)] if adapter is None else [(base, adapter), (base, None)]
    asked = [_listen(engine, *each, prompt) for each in who for prompt in probe.prompts]
    answers = await asyncio.gather(*asked)
    for answer in answers:
        if isinstance(answer, EngineError):
            raise Refusal(answer.status, answer.code, answer.message, answer.param)
    seen = [answer for answer in answers if not isinstance(answer, EngineError)]
    half = len(probe.prompts)
    return compare(probe, list(chain(*seen[:half])), list(chain(*seen[half:])))


def read_probe(bundle: AdapterFolder) -> Probe:
    """Raises Refusal 409 for a bundle that could not be asked in text, or has no probe."""
    check_folder(bundle)
    try:
        load_language(bundle.folder)
        return Probe.model_validate_json((bundle.folder / PROBE).read_bytes())
    except NoTokenizer as error:
        raise rejected(bundle, str(error)) from None
    except FileNotFoundError:
        raise rejected(bundle, f"{PROBE} is missing: nothing tells what its trainer saw") from None
    except (OSError, ValidationError):
        raise rejected(bundle, f"{PROBE} cannot be read") from None


async def _listen(
    engine: Answers, base: ModelFolder, adapter: AdapterFolder | None, prompt: Prompt
) -> list[Scores] | EngineError:
    """What the engine finds of each recorded step, or its refusal."""
    said = tuple(step.id for step in prompt.steps)
    dictation = Dictation(said, tuple(tuple(token for token, _ in step.top) for step in prompt.steps))
    sampling = Sampling(temperature=0, max_new_tokens=len(said), ignore_eos=True)
    sampling = sampling.model_copy(update={"logprobs": LISTENED})  # more than a client may ask for
    request = TokenRequest(base, adapter, list(prompt.ids), frozenset(), sampling, dictation)
    heard: list[Scores] = []
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            match event:
                case Token(id=token, logprob=float(logprob), top=top):
                    heard.append({**dict(top), token: logprob})
                case EngineError():
                    return event
    if len(heard) < len(said):
        message = f"the engine told {len(heard)} of {len(said)} log-probabilities"
        return EngineError(status=500, code="engine_failed", message=message)
    return heard
