"""Answers one order: finds the files, encodes the messages, runs the engine and decodes its tokens."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from app.contracts.generation import (
    CONTEXT_EXCEEDED,
    AdapterRef,
    EngineError,
    EngineEvent,
    Finish,
    GenerateOrder,
    PromptDetails,
    Sampling,
    TextDelta,
    Usage,
)
from worker.inference.engine import AdapterFolder, Ended, Engine, ModelFolder, Refusal, Token, TokenEvent, TokenRequest
from worker.inference.models.adapters import check_folder, rejected
from worker.inference.models.checkpoint import blame_checkpoint, check_checkpoint
from worker.inference.server.sources import Sources, unavailable
from worker.inference.server.writing import Writer
from worker.inference.text.language import Language, load_job_language, load_language
from worker.inference.text.sampling import check_known
from worker.model_card import read_card
from worker.rendering.renderer import NoTokenizer


@dataclass(frozen=True)
class Responder:
    """The model that answers: a base, with or without an adapter, and the language whose tokenizer is used."""

    base: ModelFolder
    adapter: AdapterFolder | None
    language: Language


async def answer(order: GenerateOrder, engine: Engine, sources: Sources) -> AsyncGenerator[EngineEvent, None]:
    """Yield pieces of the answer, then exactly one `Finish` or `EngineError`. Closing the generator cancels."""
    deadline = asyncio.get_running_loop().time() + order.timeout if order.timeout is not None else None
    async with aclosing(_answer(order, engine, sources)) as events:
        event: EngineEvent = TextDelta(text="")
        while isinstance(event, TextDelta):
            event = await _next(events, deadline, order.timeout)
            yield event


async def _next(
    events: AsyncGenerator[EngineEvent, None], deadline: float | None, timeout_seconds: float | None
) -> EngineEvent:
    """The next event, or the timeout error if the deadline passes first; no event follows that error."""
    try:
        async with asyncio.timeout_at(deadline) as patience:
            return await anext(events)
    except TimeoutError:
        if not patience.expired():
            raise
    message = f"timeout: the answer was not complete within {timeout_seconds:g} seconds"
    return EngineError(status=408, code="timeout", message=message, param="timeout")


async def _answer(order: GenerateOrder, engine: Engine, sources: Sources) -> AsyncGenerator[EngineEvent, None]:
    try:
        responder = await find_responder(order, sources)
        request = await run_in_threadpool(read_order, order, responder)
        if order.response_format is not None:
            request = replace(request, grammar=await responder.language.grammar_of(order.response_format))
    except Refusal as refusal:
        yield _blame(order, refusal.error)
        return
    async with aclosing(_write(request, order, responder.language, engine)) as events:
        async for event in events:
            yield _blame(order, event) if isinstance(event, EngineError) else event


async def find_responder(order: GenerateOrder, sources: Sources) -> Responder:
    """Find the model and its language. Raises Refusal if the base is not available, or the adapter's folder is not a
    bundle.
    """
    ref = order.adapter
    if ref is None:
        base = await sources.find(order.base)
        return Responder(base, None, await run_in_threadpool(_base_language, base))
    bundle = AdapterFolder(ref.name, Path(ref.path), is_checkpoint=ref.language is not None)
    language = await run_in_threadpool(_language_of, ref, bundle)
    if ref.kind == "full":
        return Responder(ModelFolder(ref.name, bundle.folder), None, language)
    base = await sources.find(order.base)
    return Responder(replace(base, variant=ref.base_variant), bundle, language)


def _base_language(base: ModelFolder) -> Language:
    try:
        return load_language(base.folder, base.files)
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


def read_order(order: GenerateOrder, responder: Responder) -> TokenRequest:
    """The request for the engine. Raises Refusal for anything that this model's tokenizer or template cannot encode."""
    language, sampling = responder.language, order.sampling
    check_known(sampling.stop_token_ids, language.vocabulary, "stop_token_ids")
    check_known(sampling.logit_bias, language.vocabulary, "logit_bias")
    ids = _read(language, order)
    if order.shrinks_to_fit:
        card = read_card(responder.base.folder)
        context = responder.base.scaled_to or (card.positions if card is not None else None)
        sampling = _shrunk(sampling, context, len(ids))
    return TokenRequest(responder.base, responder.adapter, ids, language.eos_ids, sampling)


def _read(language: Language, order: GenerateOrder) -> list[int]:
    if order.messages is not None:
        return language.read_messages(order.messages, order.tools, order.form)
    if order.prompt_token_ids is not None:
        check_known(order.prompt_token_ids, language.vocabulary, "prompt_token_ids")
        return order.prompt_token_ids
    return language.read_prompt(order.prompt or "")


def _shrunk(sampling: Sampling, context: int | None, prompt_tokens: int) -> Sampling:
    """The sampling with max_new_tokens reduced to what still fits. If the prompt fills the context, the engine refuses
    it.
    """
    room = sampling.max_new_tokens if context is None else min(sampling.max_new_tokens, context - prompt_tokens)
    if room < max(1, sampling.min_tokens):
        return sampling
    return sampling.model_copy(update={"max_new_tokens": room})


async def _write(
    request: TokenRequest, order: GenerateOrder, language: Language, engine: Engine
) -> AsyncGenerator[EngineEvent, None]:
    """Decode tokens to text. A stop string ends the answer and the computation."""
    writer = _writer(request, order, language)
    prompt_ids = request.prompt_ids if order.wording.return_token_ids else None
    count, cached = 0, 0
    opening = _echo(request, order, language)
    async with aclosing(engine.generate(request)) as tokens:
        async for event in tokens:
            piece = _piece_of(event, writer)
            if isinstance(event, EngineError):
                if piece is not None:
                    yield piece
                yield event
                return
            if isinstance(event, Ended):
                count, cached = event.completion_tokens, event.cached_tokens
            else:
                count += 1
            if opening:
                yield TextDelta(text=opening)
                opening = ""
            if piece is not None:
                yield piece
            if writer.has_stopped or isinstance(event, Ended):
                reason = "stop" if writer.has_stopped or not isinstance(event, Ended) else event.reason
                yield Finish(reason=reason, usage=_usage(request, count, cached), prompt_token_ids=prompt_ids)
                return


def _piece_of(event: TokenEvent, writer: Writer) -> TextDelta | None:
    """The text that can be sent with an event; for a failed answer, the text that was not sent yet."""
    match event:
        case Token():
            return writer.feed(event)
        case Ended():
            return writer.finish()
        case EngineError():
            return writer.catch_up()


def _echo(request: TokenRequest, order: GenerateOrder, language: Language) -> str:
    """The prompt as text, if the order wants it before the answer."""
    if not order.wording.echo:
        return ""
    written = language.write(request.prompt_ids, skip_special_tokens=order.wording.skip_special_tokens)
    return written if order.prompt is None else order.prompt


def _writer(request: TokenRequest, order: GenerateOrder, language: Language) -> Writer:
    return Writer(
        language,
        request.sampling.stop,
        tells_scores=request.sampling.logprobs is not None,
        wording=order.wording,
        before=() if order.messages is not None and order.form.asks else request.prompt_ids,
        stop_after=order.stop_after,
    )


def _usage(request: TokenRequest, completion_tokens: int, cached_tokens: int) -> Usage:
    prompt_tokens = len(request.prompt_ids)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=cached_tokens),
    )


def _blame(order: GenerateOrder, error: EngineError) -> EngineError:
    """Attribute an error: a trained model that cannot be loaded is a rejected adapter, not a missing base, and the
    error of a raw prompt names `prompt` as its parameter.
    """
    if error.param == "prompt":
        fields = ("prompt", "messages", "prompt_token_ids")
        name = next(name for name in fields if getattr(order, name) is not None)
        message = f"{name}: {error.message}"
        if error.code == CONTEXT_EXCEEDED:  # this is OpenAI's sentence, which clients parse
            message = error.message if name == "messages" else error.message.replace("messages", "prompt")
        error = error.model_copy(update={"param": name, "message": message})
    ref: AdapterRef | None = order.adapter
    if ref is not None and ref.language is not None:
        error = blame_checkpoint(ref, error)
    if ref is None or ref.kind != "full" or error.code != "model_unavailable":
        return error
    update = {"status": 409, "code": "adapter_rejected", "param": "adapter"}
    return error.model_copy(update=update)
