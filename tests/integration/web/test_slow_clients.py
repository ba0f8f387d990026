"""Clients that stall are closed, clients that are slow and go on are not: on real sockets, with short times."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from app import slow_clients
from app.slow_clients import TimedProtocol
from tests.support.waiting import wait_for

STALL_SECONDS = 0.5
SOON = 3 * STALL_SECONDS + 2
POST = b"POST /body HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"


class ShortProtocol(TimedProtocol):
    stall_seconds = STALL_SECONDS


def an_app() -> FastAPI:
    app = FastAPI()

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.get("/late")
    async def late() -> str:
        await asyncio.sleep(4 * STALL_SECONDS)
        return "late"

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        return StreamingResponse(pieces(b"x" * 65536, 10**9, 0))

    @app.get("/seldom")
    async def seldom() -> StreamingResponse:
        return StreamingResponse(pieces(b"piece", 3, 2 * STALL_SECONDS))

    return app


async def pieces(piece: bytes, times: int, seconds_between: float) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield piece
        await asyncio.sleep(seconds_between)


@pytest.fixture(scope="module")
def server() -> Iterator[uvicorn.Server]:
    server = uvicorn.Server(uvicorn.Config(an_app(), http=ShortProtocol, log_level="critical", timeout_keep_alive=60))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for("the server is up", lambda: server.started)
        server.config.port = listener.getsockname()[1]
        yield server
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture
def client(server: uvicorn.Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.config.port), timeout=30) as connection:
        yield connection


def seconds_to_close(client: socket.socket) -> float:
    began = time.monotonic()
    while client.recv(65536):
        pass
    return time.monotonic() - began


STALLS = {
    "nothing": b"",
    "half a head": b"GET /late HTTP/1.1\r\nhost: loc",
    "a head without an end": b"GET /late HTTP/1.1\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(20)),
    "a head without a body": POST % 1000,
    "half a body": POST % 1000 + b"x" * 500,
    "half an upload": POST % 10**8 + b"x" * 200_000,
    "half a second head": b"GET /docs HTTP/1.1\r\nhost: localhost\r\n\r\nGET /do",
}


@pytest.mark.parametrize("stall", STALLS)
def test_a_client_that_stalls_is_closed(client: socket.socket, stall: str) -> None:
    client.sendall(STALLS[stall])

    assert seconds_to_close(client) < SOON


@pytest.mark.parametrize(
    ("begun", "piece"), [(b"GET /late HTTP/1.1\r\n", b"x-header: 1\r\n"), (POST % 100_000, b"x")], ids=["head", "body"]
)
def test_bytes_that_trickle_are_a_stall(client: socket.socket, begun: bytes, piece: bytes) -> None:
    client.sendall(begun)
    with pytest.raises(OSError, match=r"reset|pipe"):
        trickle(client, piece, 100)


def trickle(client: socket.socket, piece: bytes, times: int) -> None:
    for _ in range(times):
        client.sendall(piece)
        time.sleep(STALL_SECONDS / 5)


def test_an_honest_slow_upload_is_not_cut(client: socket.socket) -> None:
    least = int(slow_clients.LEAST_BYTES_A_SECOND * STALL_SECONDS)
    client.sendall(POST % (15 * least))

    trickle(client, b"x" * least, 15)

    assert client.recv(65536).endswith(str(15 * least).encode())


@pytest.mark.parametrize(("path", "end"), [(b"/late", b'"late"'), (b"/seldom", b"0\r\n\r\n")])
def test_an_application_may_take_its_time(client: socket.socket, path: bytes, end: bytes) -> None:
    client.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    answer = b""
    while piece := client.recv(65536):
        answer += piece

    assert answer.endswith(end)


def test_a_reader_that_stops_is_cut(client: socket.socket, server: uvicorn.Server) -> None:
    tasks = server.server_state.tasks
    wait_for("answers of other tests have ended", lambda: not tasks)
    client.sendall(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert client.recv(100)
    wait_for("it is answered", lambda: tasks)

    wait_for("its answer has ended", lambda: not tasks, SOON + 10)


def test_a_reader_that_is_slow_is_not_cut(client: socket.socket) -> None:
    client.sendall(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n")
    for _ in range(8):
        assert len(client.recv(2**20)) > 0
        time.sleep(STALL_SECONDS / 2)
