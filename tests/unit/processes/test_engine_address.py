"""What a client of the engine, or of the service, reads before its first request."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.cli.client import Client
from app.config import Settings
from app.processes.engine_address import EngineAddress


def of_worker(url: str) -> None:
    EngineAddress(url).client(1).close()


def of_api(url: str) -> None:
    asyncio.run(EngineAddress(url).async_client(httpx.Timeout(1)).aclose())


def of_command(url: str) -> None:
    with Client(url):
        pass


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the certificates of this host fails."""
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")


@pytest.mark.parametrize("make_client", [of_worker, of_api, of_command])
def test_certificates_are_read_only_where_a_server_or_a_proxy_may_have_one(make_client: Callable[[str], None]) -> None:
    for url in ("http://127.0.0.1:8100", "http://localhost:8100"):
        make_client(url)
    for url in ("http://gpu-host:8100", "https://gpu-host"):
        with pytest.raises(FileNotFoundError):
            make_client(url)


@pytest.mark.parametrize("make_client", [of_worker, of_api])
def test_a_unix_socket_needs_no_certificate(make_client: Callable[[str], None]) -> None:
    make_client("unix:///run/engine.sock")


def test_several_engines_have_one_key_and_each_its_name(tmp_path: Path) -> None:
    urls = "https://gpu-a:8100, https://GPU-B ,unix:///run/engine.sock"

    engines = Settings(home=tmp_path, engine_url=urls, engine_key="k" * 16).engines

    assert [engine.name for engine in engines] == ["gpu-a:8100", "gpu-b:https", "engine.sock"]
    assert {engine.key for engine in engines} == {"k" * 16}


@pytest.mark.parametrize(
    ("urls", "key", "complaint"),
    [
        ("https://gpu-a:8100,https://gpu-a:8100", "k" * 16, "found gpu-a:8100 more than once"),
        ("https://gpu-a:8100,", "k" * 16, "found ''"),
        ("https://gpu-a:8100,https://gpu-b:8100", None, "names 2 engines: TUNESMITH_ENGINE_KEY has to be set"),
        ("https://gpu-a:8100,http://gpu-b:8100", "k" * 16, "found http://gpu-b:8100, expected https"),
        ("https://me:secret@gpu-a:8100", "k" * 16, "found a user name or a password"),
    ],
)
def test_engines_that_cannot_be_told_apart_or_reached_safely_are_refused(
    tmp_path: Path, urls: str, key: str | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        _ = Settings(home=tmp_path, engine_url=urls, engine_key=key).engines


def test_a_process_that_asks_no_engine_needs_no_key(tmp_path: Path) -> None:
    """A checker has the settings of all processes, and no key."""
    assert Settings(home=tmp_path, engine_url="https://gpu-a:8100,https://gpu-b:8100").root == tmp_path
