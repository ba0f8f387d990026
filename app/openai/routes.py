"""OpenAI's own paths, for clients that were written for them."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.dependencies import DatabaseDep, EngineDep, SettingsDep
from app.errors import ServiceError
from app.generate.asking import ask_all
from app.generate.client import EngineClient
from app.generate.departure import unless_gone
from app.generate.routes import CLIENT_IS_GONE
from app.generate.speakers import ask_again_if_gone
from app.generate.stream import KEEP_ALIVE_SECONDS, Opening
from app.openai import service
from app.openai.answers import ChatCompletion, ModelCard, ModelCards, ModelDeleted, TextCompletion
from app.openai.schemas import ChatRequest, CompletionRequest
from app.openai.service import Question
from app.openai.stream import ChatVoice, Chunks, TextVoice, Voice

router = APIRouter(prefix="/v1", tags=["openai"])
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@router.get("/models")
@router.get("/models/", include_in_schema=False)
def list_models(database: DatabaseDep, settings: SettingsDep) -> ModelCards:
    """Base models and adapters; an adapter's `parent` is its base."""
    with database.reader() as session:
        return ModelCards(data=service.list_models(session, settings.models))


@router.get("/models/{model_id:path}")
def get_model(model_id: str, database: DatabaseDep, settings: SettingsDep) -> ModelCard:
    with database.reader() as session:
        return service.find_model(session, settings, model_id)


@router.delete("/models/{model_id:path}")
def delete_model(model_id: str, database: DatabaseDep, settings: SettingsDep) -> ModelDeleted:
    """Remove an adapter and its files, as `DELETE /adapters/{id}`."""
    with database.writer() as session:
        return ModelDeleted(id=service.delete_model(session, settings, model_id))


@router.post("/chat/completions", response_model=ChatCompletion, responses=STREAMED)
async def chat(
    body: ChatRequest, request: Request, database: DatabaseDep, settings: SettingsDep, engine: EngineDep
) -> ChatCompletion | Response:
    """Answer a chat, as OpenAI's `chat.completions`; whole, or as server-sent chunks."""

    def prepare(session: Session) -> Question:
        return service.prepare_chat(session, settings, body)

    async def answer(question: Question) -> ChatCompletion | Response:
        if not body.stream:
            return await unless_gone(request, service.answer_chat(engine, question))
        return await _streamed(request, engine, question, ChatVoice, has_usage=_wants_usage(body))

    try:
        return await ask_again_if_gone(lambda: _prepared(database, prepare), answer)
    except ClientDisconnect:
        return Response(status_code=CLIENT_IS_GONE)  # nobody reads it


@router.post("/completions", response_model=TextCompletion, responses=STREAMED)
async def complete(
    body: CompletionRequest, request: Request, database: DatabaseDep, settings: SettingsDep, engine: EngineDep
) -> TextCompletion | Response:
    """Continue texts, as OpenAI's `completions`; whole, or as server-sent chunks."""

    def prepare(session: Session) -> Question:
        return service.prepare_completion(session, settings, body)

    async def answer(question: Question) -> TextCompletion | Response:
        if not body.stream:
            return await unless_gone(request, service.answer_completion(engine, question))
        return await _streamed(request, engine, question, TextVoice, has_usage=_wants_usage(body))

    try:
        return await ask_again_if_gone(lambda: _prepared(database, prepare), answer)
    except ClientDisconnect:
        return Response(status_code=CLIENT_IS_GONE)  # nobody reads it


def _wants_usage(body: ChatRequest | CompletionRequest) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


async def _prepared(database: DatabaseDep, prepare: Callable[[Session], Question]) -> Question:
    def run() -> Question:
        with database.reader() as session:
            return prepare(session)

    return await run_in_threadpool(run)


async def _streamed(
    request: Request, engine: EngineClient, question: Question, voice: Callable[[int], Voice], *, has_usage: bool
) -> Response:
    opening = Opening(ask_all(engine, question.orders))
    try:
        await unless_gone(request, opening.check())
    except ServiceError as error:
        raise service.in_their_words(error, question) from None
    chunks = Chunks(question, voice, has_usage=has_usage)
    told = chunks.messages(opening, request.scope.get("request_id"))
    return EventSourceResponse(told, ping=KEEP_ALIVE_SECONDS)
