"""From an order to its events: find the files, read the messages, let the engine compute, write text."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from app.contracts.generation import (
    AdapterRef,
    EngineError,
    EngineEvent,
    Finish,
    GenerateOrder,
    TextDelta,
    Usage,
)
from worker.inference.adapters import check_folder, rejected
from worker.inference.engine import AdapterFolder, Ended, Engine, ModelFolder, Refusal, Token, TokenRequest
from worker.inference.language import Language, load_language
from worker.inference.sources import Sources, unavailable
from worker.inference.text import Detokenizer, StopScanner
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
        ids = await run_in_threadpool(_read, speaker.language, order)
    except Refusal as refusal:
        yield _blame(order, refusal.error)
        return
    request = TokenRequest(speaker.base, speaker.adapter, ids, speaker.language.eos_ids, order.sampling)
    async with aclosing(_write(request, speaker.language, engine)) as events:
        async for event in events:
            yield _blame(order, event) if isinstance(event, EngineError) else event


async def find_speaker(order: GenerateOrder, sources: Sources) -> Speaker:
    """Raises Refusal when a base is not to be had, or a bundle is not one."""
    ref = order.adapter
    if ref is None:
        base = await sources.find(order.base)
        return Speaker(base, None, await run_in_threadpool(_base_language, base))
    bundle = AdapterFolder(ref.name, Path(ref.path))
    language = await run_in_threadpool(_bundle_language, bundle)
    if ref.kind == "full":
        return Speaker(ModelFolder(ref.name, bundle.folder), None, language)
    return Speaker(await sources.find(order.base), bundle, language)


def _base_language(base: ModelFolder) -> Language:
    try:
        return load_language(base.folder)
    except NoTokenizer as error:
        raise unavailable(404, base.name, f"cannot be used: {error}") from None


def _bundle_language(bundle: AdapterFolder) -> Language:
    check_folder(bundle)
    try:
        return load_language(bundle.folder)
    except NoTokenizer as error:
        raise rejected(bundle, str(error)) from None


def _read(language: Language, order: GenerateOrder) -> list[int]:
    if order.messages is not None:
        return language.read_messages(order.messages)
    return language.read_prompt(order.prompt or "")


async def _write(request: TokenRequest, language: Language, engine: Engine) -> AsyncGenerator[EngineEvent, None]:
    """Tokens become text; a stop string ends the answer and the computing."""
    letters, stops = Detokenizer(language.write), StopScanner(request.sampling.stop)
    count = 0
    async with aclosing(engine.generate(request)) as tokens:
        async for event in tokens:
            match event:
                case Token():
                    count += 1
                    piece = stops.feed(letters.feed(event.id))
                case Ended():
                    count = event.completion_tokens
                    piece = stops.feed(letters.finish()) + stops.finish()
                case EngineError():
                    yield event
                    return
            if piece:
                yield TextDelta(text=piece)
            if stops.has_stopped or isinstance(event, Ended):
                reason = "stop" if stops.has_stopped or not isinstance(event, Ended) else event.reason
                yield Finish(reason=reason, usage=_usage(request, count))
                return


def _usage(request: TokenRequest, completion_tokens: int) -> Usage:
    prompt_tokens = len(request.prompt_ids)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def _blame(order: GenerateOrder, error: EngineError) -> EngineError:
    """A trained model that cannot be loaded is a rejected adapter, not a missing base."""
    ref: AdapterRef | None = order.adapter
    if ref is None or ref.kind != "full" or error.code != "model_unavailable":
        return error
    update = {"status": 409, "code": "adapter_rejected", "param": "adapter"}
    return error.model_copy(update=update)
