"""From an order to its events: find the files, read the messages, let the engine compute, write text."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from app.contracts.generation import (
    AdapterRef,
    EngineError,
    EngineEvent,
    Finish,
    GenerateOrder,
    PromptDetails,
    Sampling,
    Usage,
)
from worker.inference.adapters import check_folder, rejected
from worker.inference.checkpoint import blame_checkpoint, check_checkpoint
from worker.inference.engine import AdapterFolder, Ended, Engine, ModelFolder, Refusal, Token, TokenRequest
from worker.inference.language import Language, context_tokens, load_job_language, load_language
from worker.inference.sampling import check_known
from worker.inference.sources import Sources, unavailable
from worker.inference.writing import Writer
from worker.rendering.renderer import NoTokenizer


@dataclass(frozen=True)
class Speaker:
    """Who answers: a base, with an adapter or not, and the folder whose tokenizer counts."""

    base: ModelFolder
    adapter: AdapterFolder | None
    language: Language


async def answer(order: GenerateOrder, engine: Engine, sources: Sources) -> AsyncGenerator[EngineEvent, None]:
    """Yield pieces of the answer, then exactly one `Finish` or `EngineError`. Closing it cancels."""
    try:
        speaker = await find_speaker(order, sources)
        request = await run_in_threadpool(read_order, order, speaker)
        if order.response_format is not None:
            request = replace(request, grammar=await speaker.language.grammar_of(order.response_format))
    except Refusal as refusal:
        yield _blame(order, refusal.error)
        return
    async with aclosing(_write(request, speaker.language, engine)) as events:
        async for event in events:
            yield _blame(order, event) if isinstance(event, EngineError) else event


async def find_speaker(order: GenerateOrder, sources: Sources) -> Speaker:
    """Raises Refusal when a base is not to be had, or a bundle is not one."""
    ref = order.adapter
    if ref is None:
        base = await sources.find(order.base)
        return Speaker(base, None, await run_in_threadpool(_base_language, base))
    bundle = AdapterFolder(ref.name, Path(ref.path), is_checkpoint=ref.language is not None)
    language = await run_in_threadpool(_language_of, ref, bundle)
    if ref.kind == "full":
        return Speaker(ModelFolder(ref.name, bundle.folder), None, language)
    return Speaker(await sources.find(order.base), bundle, language)


def _base_language(base: ModelFolder) -> Language:
    try:
        return load_language(base.folder)
    except NoTokenizer as error:
        raise unavailable(404, base.name, f"cannot be used: {error}") from None


def _language_of(ref: AdapterRef, bundle: AdapterFolder) -> Language:
    if ref.language is not None:
        check_checkpoint(ref)
    check_folder(bundle)
    try:
        return load_language(bundle.folder) if ref.language is None else load_job_language(Path(ref.language))
    except NoTokenizer as error:
        raise rejected(bundle, str(error)) from None


def read_order(order: GenerateOrder, speaker: Speaker) -> TokenRequest:
    """What the engine is to compute. Raises Refusal for what this model's language cannot read."""
    language, sampling = speaker.language, order.sampling
    check_known(sampling.stop_token_ids, language.vocabulary, "stop_token_ids")
    check_known(sampling.logit_bias, language.vocabulary, "logit_bias")
    ids = _read(language, order)
    if order.shrinks_to_fit:
        sampling = _shrunk(sampling, context_tokens(speaker.base.folder), len(ids))
    return TokenRequest(speaker.base, speaker.adapter, ids, language.eos_ids, sampling)


def _read(language: Language, order: GenerateOrder) -> list[int]:
    if order.messages is not None:
        return language.read_messages(order.messages, order.tools)
    if order.prompt_token_ids is not None:
        check_known(order.prompt_token_ids, language.vocabulary, "prompt_token_ids")
        return order.prompt_token_ids
    return language.read_prompt(order.prompt or "")


def _shrunk(sampling: Sampling, context: int | None, prompt_tokens: int) -> Sampling:
    """As many tokens as still fit; a prompt that fills the context is left for the engine to refuse."""
    room = sampling.max_new_tokens if context is None else min(sampling.max_new_tokens, context - prompt_tokens)
    if room < max(1, sampling.min_tokens):
        return sampling
    return sampling.model_copy(update={"max_new_tokens": room})


async def _write(request: TokenRequest, language: Language, engine: Engine) -> AsyncGenerator[EngineEvent, None]:
    """Tokens become text; a stop string ends the answer and the computing."""
    writer = Writer(language, request.sampling.stop, tells_scores=request.sampling.logprobs is not None)
    count, cached = 0, 0
    async with aclosing(engine.generate(request)) as tokens:
        async for event in tokens:
            match event:
                case Token():
                    count += 1
                    piece = writer.feed(event)
                case Ended():
                    count, cached = event.completion_tokens, event.cached_tokens
                    piece = writer.finish()
                case EngineError():
                    yield event
                    return
            if piece is not None:
                yield piece
            if writer.has_stopped or isinstance(event, Ended):
                reason = "stop" if writer.has_stopped or not isinstance(event, Ended) else event.reason
                yield Finish(reason=reason, usage=_usage(request, count, cached))
                return


def _usage(request: TokenRequest, completion_tokens: int, cached_tokens: int) -> Usage:
    prompt_tokens = len(request.prompt_ids)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=cached_tokens),
    )


def _blame(order: GenerateOrder, error: EngineError) -> EngineError:
    """A trained model that cannot be loaded is a rejected adapter, not a missing base."""
    ref: AdapterRef | None = order.adapter
    if ref is not None and ref.language is not None:
        error = blame_checkpoint(ref, error)
    if ref is None or ref.kind != "full" or error.code != "model_unavailable":
        return error
    update = {"status": 409, "code": "adapter_rejected", "param": "adapter"}
    return error.model_copy(update=update)
