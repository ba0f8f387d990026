"""A small HTTP server that answers in the service's shapes, for tests of what talks to it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from app.web.conditional_get import ConditionalGets
from tests.support.cli_answers import Json, a_file, a_job, a_page_of_adapters


@dataclass
class RestService:
    """One job, its events, and what came in. The stream breaks once after each event number in `breaks`.

    The first `lost` submits are taken and their answers lost.
    """

    url: str = ""
    job: Json = field(default_factory=a_job)
    events: list[Json] = field(default_factory=list)
    checkpoints: list[Json] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    log: str = ""
    answer: list[tuple[str, Json]] = field(default_factory=list)
    refusal: Json | None = None
    requests: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    authorization: str | None = None
    lost: int = 0
    lost_status: int | None = None

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_middleware(ConditionalGets)
        app.middleware("http")(self._note)
        _add_job_routes(app, self)
        _add_job_reading(app, self)
        _add_other_routes(app, self)
        return app

    async def _note(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        self.requests.append(f"{request.method} {request.url.path}")
        self.authorization = request.headers.get("authorization")
        if self.refusal is not None:
            return JSONResponse({"error": self.refusal}, status_code=422)
        response = await answer(request)
        self.statuses.append(response.status_code)
        return response

    def messages(self, after: int) -> Iterator[str]:
        """The events above a number, the last of them the job's end."""
        history = [*self.events, {"kind": "status", "status": self.job["status"]}]
        for seq, event in enumerate(history[after:], after + 1):
            data = json.dumps({"seq": seq, **event})
            yield f": ping\r\n\r\nid: {seq}\r\nevent: {event['kind']}\r\ndata: {data}\r\n\r\n"
            if seq in self.breaks:
                self.breaks.remove(seq)
                return


async def _broken_off() -> AsyncIterator[bytes]:
    """Less than was announced: the connection breaks in the middle of the answer."""
    yield b'{"id": '


def _add_job_routes(app: FastAPI, service: RestService) -> None:
    @app.post("/jobs", status_code=201)
    async def submit(request: Request) -> Response:
        service.bodies.append(await request.json())
        service.keys.append(request.headers.get("idempotency-key"))
        if len(service.keys) > service.lost:
            return JSONResponse(service.job, status_code=201)
        if service.lost_status is not None:
            return Response("try again", status_code=service.lost_status)
        return StreamingResponse(_broken_off(), headers={"content-length": "100"}, media_type="application/json")

    @app.get("/jobs/{job_id}/stream")
    def stream(job_id: str, last_event_id: int = Header()) -> StreamingResponse:
        return StreamingResponse(service.messages(last_event_id), media_type="text/event-stream")


def _add_job_reading(app: FastAPI, service: RestService) -> None:
    @app.get("/jobs")
    def jobs(text: str | None = None) -> Json:
        found = [] if text not in (None, service.job["id"], service.job["name"]) else [service.job]
        return {"object": "list", "data": found, "first_id": "job-1", "last_id": "job-1", "has_more": text is None}

    @app.get("/jobs/{job_id}")
    @app.post("/jobs/{job_id}/cancel")
    @app.post("/jobs/{job_id}/pause")
    @app.post("/jobs/{job_id}/resume")
    @app.post("/jobs/{job_id}/checkpoint")
    @app.delete("/jobs/{job_id}")
    def job(job_id: str) -> Json:
        return service.job

    @app.get("/jobs/{job_id}/checkpoints")
    def checkpoints(job_id: str) -> Json:
        return {"object": "list", "data": service.checkpoints}

    @app.get("/jobs/{job_id}/logs")
    def logs(job_id: str, offset: int) -> Json:
        text = service.log[offset : offset + 5]
        end = offset + len(text)
        is_complete = end == len(service.log) and service.job["status"] != "running"
        return {"attempt": 1, "text": text, "next_offset": end, "is_complete": is_complete}


def _add_other_routes(app: FastAPI, service: RestService) -> None:
    @app.post("/files", status_code=201)
    async def upload(request: Request) -> Json:
        service.bodies.append({"multipart": (await request.body()).decode()})
        return a_file()

    @app.get("/adapters")
    def adapters() -> Json:
        return a_page_of_adapters()

    @app.get("/models")
    def models() -> Json:
        return {"object": "list", "data": [{"id": "tiny"}]}

    @app.post("/generate")
    async def generate(request: Request) -> StreamingResponse:
        service.bodies.append(await request.json())
        pairs = [(kind, json.dumps(data, ensure_ascii=False)) for kind, data in service.answer]
        events = [f"event: {kind}\ndata: {data}\n\n" for kind, data in pairs]
        return StreamingResponse(iter(events), media_type="text/event-stream")
