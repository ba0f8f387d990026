"""HTTP for generation: the one place of the API that streams what another process computes."""

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.dependencies import DatabaseDep, EngineDep, SettingsDep
from app.generate import service
from app.generate.departure import unless_gone
from app.generate.schemas import GenerateRequest, Generation
from app.generate.speakers import ask_again_if_gone
from app.generate.stream import KEEP_ALIVE_SECONDS, messages, opened

router = APIRouter(tags=["generate"])
CLIENT_IS_GONE = 499


@router.post("/generate", response_model=Generation, responses={200: {"content": {"text/event-stream": {}}}})
async def generate(
    body: GenerateRequest, request: Request, database: DatabaseDep, settings: SettingsDep, engine: EngineDep
) -> Generation | Response:
    """Answer a chat or continue a text, with a base model, an adapter or a checkpoint; whole, or as a stream."""

    def prepare() -> service.Asked:
        with database.reader() as session:
            return service.prepare(session, settings, body)

    async def answer(asked: service.Asked) -> Generation | Response:
        if not body.stream:
            return await unless_gone(request, service.collect(engine, asked))
        opening = opened(engine, asked)
        await unless_gone(request, opening.check())
        told = messages(opening, asked, request.scope.get("request_id"))
        return EventSourceResponse(told, ping=KEEP_ALIVE_SECONDS)

    try:
        return await ask_again_if_gone(lambda: run_in_threadpool(prepare), answer)
    except ClientDisconnect:
        return Response(status_code=CLIENT_IS_GONE)  # nobody reads it
