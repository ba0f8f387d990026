"""A process that has as many connections as it takes: on real sockets."""

import socket
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from app.web.connection_limit import LimitedProtocol
from tests.support.serving import serving
from tests.support.waiting import wait_for

MOST = 3


def an_app() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def root() -> str:
        return "here"

    return app


@pytest.fixture
def url() -> Iterator[str]:
    with serving(an_app(), http=LimitedProtocol, limit_concurrency=MOST) as url:
        yield url


def test_a_connection_above_the_limit_gets_an_error_of_the_service_and_is_closed(url: str) -> None:
    address = httpx.URL(url)
    others = [socket.create_connection((address.host, address.port or 0)) for _ in range(MOST)]

    refused = httpx.get(url)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
    for other in others:
        other.close()
    wait_for("there is room again", lambda: httpx.get(url).is_success)


def test_as_many_connections_as_the_limit_are_answered(url: str) -> None:
    clients = [httpx.Client() for _ in range(MOST)]

    assert [client.get(url).status_code for client in clients * 2] == [200] * MOST * 2
    for client in clients:
        client.close()
