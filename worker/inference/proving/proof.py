"""Compares an adapter with the probe that its trainer saved in the bundle, through the same path that serves it.

An adapter is proved on the original base. If it was trained on a quantised base that differs too much from it, it is
proved on the de-quantised values that its trainer used, or not at all. Requests are answered on the same base.

The recorded tokens are replayed by teacher forcing: the engine returns their log-probabilities, with and without the
adapter, so that the adapter is identified by what it changes.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import chain
from math import isclose
from pathlib import Path
from typing import Any, Protocol

import torch
from starlette.concurrency import run_in_threadpool

from app.contracts.generation import AdapterRef, EngineError, Sampling
from app.contracts.order import BASE_REPLACED
from app.contracts.probe import PROBE, Probe, ProbePrompt, Proof, ProofOrder, Unproved
from app.contracts.stored import read_json
from worker.hashing import bundle_version
from worker.inference.engine import AdapterFolder, Engine, ModelFolder, Refusal, Token, TokenEvent, TokenRequest
from worker.inference.models.adapters import Bundle, check_folder, rejected, validate_bundle
from worker.inference.models.bases import load_config
from worker.inference.models.peft_shapes import PeftShapes
from worker.inference.proving.comparing import Scores, compare, diverged
from worker.inference.server.sources import Sources
from worker.inference.text.language import Language, load_language
from worker.inference.text.sampling import check_has
from worker.model_card import read_card
from worker.rendering.question import question_ids
from worker.rendering.renderer import NoTokenizer
from worker.weights import digest_of

# Statuses of refusals that are about the engine or its host, not about the adapter.
PASSING = frozenset({429, 499, 500, 502, 503, 504})
# Codes of refusals for which another engine may serve the adapter.
ELSEWHERE = frozenset({"base_not_served", "unsupported_by_engine"})
# Codes of refusals that are about the base or the engine, not about the adapter.
NO_VERDICT = ELSEWHERE | {BASE_REPLACED}
NOT_FINITE = "model_not_finite"
# Variants that contain the whole effect of quantisation; with 8 bits the inputs of a layer are rounded as well.
ALL_IN_WEIGHTS = frozenset({"dequant-nf4", "dequant-fp4"})


@dataclass(frozen=True)
class ForcedTokens:
    """A grammar that allows exactly one sequence of tokens."""

    ids: tuple[int, ...]

    def begin(self) -> "ForcedWalk":
        return ForcedWalk(self.ids)


class ForcedWalk:
    """The position in the forced tokens; after their end every token is allowed."""

    def __init__(self, ids: tuple[int, ...]) -> None:
        self._left = list(ids)

    def restrict(self, scores: Any) -> Any:
        """Raises Refusal 409 if a token is not in the model's vocabulary."""
        if not self._left:
            return scores
        check_has(self._left[:1], scores.shape[-1])
        only = torch.full_like(scores, -torch.inf)
        only[..., self._left[0]] = 0.0
        return only

    def accept(self, token: int) -> None:
        self._left = self._left[1:] if self._left[:1] == [token] else []


class Answers(Protocol):
    """The part of an engine that a proof needs."""

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]: ...


async def prove(order: ProofOrder, engine: Engine, sources: Sources) -> Proof:
    """Whether the engine with the adapter computes what its trainer computed.

    Raises Refusal if that cannot be decided now: the engine is busy or stops, or the base is not available.
    """
    try:
        return await _prove(order, engine, sources)
    except Refusal as refusal:
        error = refusal.error
        if is_about_the_adapter(error, order.adapter):
            cause = Unproved.NOT_FINITE if error.code == NOT_FINITE else Unproved.BUNDLE_DIFFERS
            return Proof(proved=False, cause=cause, reason=error.message)
        raise


def is_about_the_adapter(error: EngineError, adapter: AdapterRef) -> bool:
    """Whether a refusal is a verdict on the adapter, so that another time or engine would not help."""
    if error.code == "model_unavailable":  # this is about the base, unless the bundle is a full model
        return adapter.kind == "full"
    if error.code in NO_VERDICT:
        return False
    return error.code == NOT_FINITE or error.status not in PASSING


async def _prove(order: ProofOrder, engine: Engine, sources: Sources) -> Proof:
    bundle = AdapterFolder(order.adapter.name, Path(order.adapter.path))
    await run_in_threadpool(check_version, bundle, order.adapter.version)
    probe = await run_in_threadpool(read_probe, bundle)
    if probe.fit is not None and probe.fit.has_diverged:
        return diverged(probe.fit)
    if order.adapter.kind == "full":
        return await hold_against(probe, engine, ModelFolder(bundle.name, bundle.folder), None)
    base = await sources.find(order.base)
    if probe.weights is not None:
        await run_in_threadpool(_check_files, bundle, base, probe)
    proof = await hold_against(probe, engine, base, bundle)
    card = await run_in_threadpool(read_card, base.folder)
    if proof.proved or probe.variant is None or (card is not None and card.is_quantised):
        return proof
    try:
        other = await _on_variant(probe, engine, replace(base, variant=probe.variant), bundle)
    except Refusal as refusal:
        if refusal.error.code not in ELSEWHERE:
            raise
        return proof
    return _better(proof, other)


async def _on_variant(probe: Probe, engine: Engine, base: ModelFolder, bundle: AdapterFolder) -> Proof:
    """Prove the adapter on the trainer's own de-quantised values: no difference by quantisation to 4 bits is left to
    allow for.
    """
    is_exact = base.variant is not None and base.variant.name in ALL_IN_WEIGHTS
    proof = await hold_against(probe.model_copy(update={"quantised": not is_exact}), engine, base, bundle)
    return proof.model_copy(update={"base_variant": base.variant})


def _better(plain: Proof, other: Proof) -> Proof:
    if other.proved:
        return other
    assert other.base_variant is not None, "it was tried on a variant"
    return plain.model_copy(update={"reason": f"{plain.reason}; on {other.base_variant.name}, {other.reason}"})


async def hold_against(probe: Probe, engine: Answers, base: ModelFolder, adapter: AdapterFolder | None) -> Proof:
    """The proof of an adapter, or of a full model. Raises Refusal if the engine does not answer."""
    who = [(base, None)] if adapter is None else [(base, adapter), (base, None)]
    replays = [_replay(engine, *each, prompt) for each in who for prompt in probe.prompts]
    answers = await asyncio.gather(*replays)
    for answer in answers:
        if isinstance(answer, EngineError):
            raise Refusal(answer.status, answer.code, answer.message, answer.param)
    seen = [answer for answer in answers if not isinstance(answer, EngineError)]
    half = len(probe.prompts)
    return compare(probe, list(chain(*seen[:half])), list(chain(*seen[half:])))


def check_version(bundle: AdapterFolder, version: str) -> None:
    """Raises Refusal 409 if the bundle's files are not exactly those that its trainer wrote."""
    check_folder(bundle)
    found = bundle_version(bundle.folder)
    if found != version:
        raise rejected(bundle, f"its files have changed since it was saved: their hash is {found}, expected {version}")


def read_probe(bundle: AdapterFolder) -> Probe:
    """Raises Refusal 409 if the bundle has no probe, or cannot be asked in the format that it was trained on."""
    check_folder(bundle)
    try:
        language = load_language(bundle.folder)
        probe = read_json(Probe, (bundle.folder / PROBE).read_bytes())
    except NoTokenizer as error:
        raise rejected(bundle, str(error)) from None
    except FileNotFoundError:
        raise rejected(bundle, f"{PROBE} is missing: it has no record of what its trainer computed") from None
    except OSError:
        probe = None
    if probe is None:
        raise rejected(bundle, f"{PROBE} cannot be read")
    check_language(bundle, language, probe)
    return probe


def check_weights(adapter: AdapterFolder, bundle: Bundle, probe: Probe) -> None:
    """Raises Refusal 409 if the weights or their scales differ from those that the trainer had in memory."""
    recorded = probe.weights
    if recorded is None:
        return
    if digest_of(bundle.tensors) != recorded.sha256:
        raise rejected(adapter, "its weights are not those that the trainer had in memory at the end of the training")
    found = {path: part.scaling for path, part in bundle.peft_shape.parts.items()}
    for path in sorted(found.keys() | recorded.scalings.keys()):
        there, here = recorded.scalings.get(path), found.get(path)
        if there is None or here is None or not isclose(there, here, rel_tol=1e-6):
            raise rejected(adapter, f"its layer {path} is scaled by {there} in the trainer, and by {here} here")


def _check_files(adapter: AdapterFolder, base: ModelFolder, probe: Probe) -> None:
    check_weights(adapter, validate_bundle(adapter, PeftShapes(load_config(base))), probe)


def check_language(bundle: AdapterFolder, language: Language, probe: Probe) -> None:
    """Raises Refusal 409 if tokenizer and template encode a question differently than in the trainer."""
    for prompt in probe.prompts:
        if prompt.question is None:
            continue
        ids = question_ids(language.renderer, prompt.question)[-len(prompt.ids) :]
        if tuple(ids) != prompt.ids:
            reason = (
                f"its tokenizer or its chat template is not the trainer's: {prompt.question!r} became the tokens "
                f"{list(prompt.ids)} there, and becomes {ids} here"
            )
            raise rejected(bundle, reason)


async def _replay(
    engine: Answers, base: ModelFolder, adapter: AdapterFolder | None, prompt: ProbePrompt
) -> list[Scores] | EngineError:
    """The engine's log-probabilities for each recorded step, or its refusal."""
    recorded = tuple(step.id for step in prompt.steps)
    scored = tuple(tuple(token for token, _ in step.top) for step in prompt.steps)
    sampling = Sampling(temperature=0, max_new_tokens=len(recorded), ignore_eos=True)
    request = TokenRequest(base, adapter, list(prompt.ids), frozenset(), sampling, ForcedTokens(recorded), scored)
    found: list[Scores] = []
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            match event:
                case Token(top=top):
                    found.append(dict(top))
                case EngineError():
                    return event
    expected = [set(step) for step in scored]
    if len(found) != len(expected) or any(one - there.keys() for one, there in zip(expected, found, strict=True)):
        message = "the engine did not return all requested log-probabilities"
        return EngineError(status=500, code="engine_failed", message=message)
    return found
