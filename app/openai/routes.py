"""OpenAI's own paths, for clients that were written for them."""

from typing import Any

from fastapi import APIRouter, Response

from app.generate.exchange import ExchangeDep
from app.openai import service
from app.openai.answers import ChatCompletion, ListedModel, ModelCards, ModelDeleted, TextCompletion
from app.openai.schemas import ChatRequest, CompletionRequest
from app.openai.shapes import ChatShape, TextShape
from app.web.dependencies import DatabaseDep, JobsCaller, ReadCaller, SettingsDep

router = APIRouter(prefix="/v1", tags=["openai"])
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@router.get("/models")
@router.get("/models/", include_in_schema=False)
def list_models(caller: ReadCaller, database: DatabaseDep, settings: SettingsDep) -> ModelCards:
    """Base models and adapters; an adapter's `parent` is its base."""
    with database.reader() as session:
        return ModelCards(data=service.list_models(session, caller.scope, settings.models))


@router.get("/models/{model_id:path}")
def get_model(model_id: str, caller: ReadCaller, database: DatabaseDep, settings: SettingsDep) -> ListedModel:
    with database.reader() as session:
        return service.find_model(session, caller.scope, settings, model_id)


@router.delete("/models/{model_id:path}")
def delete_model(model_id: str, caller: JobsCaller, database: DatabaseDep, settings: SettingsDep) -> ModelDeleted:
    """Remove an adapter and its files, as `DELETE /adapters/{id}`."""
    with database.writer() as session:
        return ModelDeleted(id=service.delete_model(session, caller.scope, settings, model_id))


@router.post("/chat/completions", response_model=ChatCompletion, responses=STREAMED)
async def chat(body: ChatRequest, exchange: ExchangeDep) -> ChatCompletion | Response:
    """Answer a chat, as OpenAI's `chat.completions`; whole, or as server-sent chunks."""
    return await exchange.respond(body, service.prepare, ChatShape)


@router.post("/completions", response_model=TextCompletion, responses=STREAMED)
async def complete(body: CompletionRequest, exchange: ExchangeDep) -> TextCompletion | Response:
    """Continue texts, as OpenAI's `completions`; whole, or as server-sent chunks."""
    return await exchange.respond(body, service.prepare, TextShape)
