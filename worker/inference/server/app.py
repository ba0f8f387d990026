"""The HTTP interface of the engine process for API and workers: it takes orders and answers one event per line."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from app.contracts.generation import EngineError, EngineEvent, EngineHealth, GenerateOrder
from app.contracts.hub import MOST_BYTES
from app.contracts.memory_lease import ResumeOrder, YieldOrder, YieldState
from app.contracts.probe import Proof, ProofOrder
from app.known_hosts import HostRules, KnownHosts, Refused
from app.processes.logs import request_id
from app.store.copies import HomeFiles
from worker.inference.engine import Engine, Refusal
from worker.inference.proving.proof import prove
from worker.inference.server.answering import answer
from worker.inference.server.bundles import Bundles
from worker.inference.server.listening import Keyed
from worker.inference.server.memory_lease import MemoryLeases
from worker.inference.server.roots import Roots
from worker.inference.server.sources import Sources

log = logging.getLogger(__name__)


def create_app(
    engine: Engine,
    roots: Roots,
    leases: MemoryLeases | None = None,
    rules: HostRules | None = None,
    cache: Path | None = None,
    most_hub_bytes: int = MOST_BYTES,
    *,
    key: str | None = None,
    files: HomeFiles | None = None,
) -> FastAPI:
    """The HTTP application of one engine. Without `leases` the engine never gives memory to trainings.

    `roots` are the folders whose files may be opened. `key` is the key that every request must send; None if a unix
    socket controls access. `rules` say which clients are answered; without them only those of this machine. `cache` is
    the folder for the hashes of base models, `most_hub_bytes` the size limit of a model that is downloaded. `files` are
    those of the home; None if there is no store.
    """
    app = FastAPI(title="Tunesmith engine", openapi_url=None)
    if key is not None:
        app.add_middleware(Keyed, key=key, respond=_refuse)
    app.add_middleware(KnownHosts, rules=rules or HostRules(), respond=_refuse)
    sources, bundles = Sources(cache, most_hub_bytes), Bundles(roots, files)

    @app.get("/health")
    async def health() -> EngineHealth:
        return engine.health()

    @app.post("/generate")
    async def generate(order: GenerateOrder, request: Request) -> Response:
        request_id.set(request.headers.get("x-request-id"))
        return EventStream(answer(await bundles.bring(order), engine, sources))

    @app.post("/prove")
    async def prove_adapter(order: ProofOrder) -> Proof:
        return await prove(await bundles.bring(order), engine, sources)

    if leases is not None:
        _add_yielding(app, leases)

    _add_errors(app)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        error = refusal.error
        return Response(error.model_dump_json(), status_code=error.status, media_type="application/json")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        refused = EngineError(status=422, code="invalid_order", message=f"{param}: {first['msg']}", param=param or None)
        return Response(refused.model_dump_json(), status_code=422, media_type="application/json")


def _refuse(refused: Refused) -> Response:
    error = EngineError(status=refused.status, code=refused.code, message=refused.message, param=refused.param)
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else None
    return Response(error.model_dump_json(), error.status, headers, "application/json")


def _add_yielding(app: FastAPI, leases: MemoryLeases) -> None:
    @app.post("/yield")
    async def step_aside(order: YieldOrder) -> YieldState:
        return leases.hold(order)

    @app.post("/resume")
    async def come_back(order: ResumeOrder) -> YieldState:
        return leases.release(order.holder)


class EventStream(Response):
    """Events as lines of JSON. The first event decides the status. If the client disconnects, the generation is
    cancelled.
    """

    def __init__(self, events: AsyncGenerator[EngineEvent, None]) -> None:
        super().__init__()
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()  # this closes the events, which cancels the answer
            outcomes = await asyncio.gather(sending, leaving, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            is_started = False
            async for event in events:
                if not is_started:
                    await send(_head(event))
                    is_started = True
                await send(_body(f"{event.model_dump_json()}\n", is_last=False))
        await send(_body("", is_last=True))


def _head(first: EngineEvent) -> dict[str, object]:
    is_error = isinstance(first, EngineError)
    kind = b"application/json" if is_error else b"application/x-ndjson"
    status = first.status if isinstance(first, EngineError) else 200
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}


def _body(line: str, *, is_last: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": line.encode(), "more_body": not is_last}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
