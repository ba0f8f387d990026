"""An upload goes from the request to one file of the home, once; one that does not fit, or breaks off, leaves none."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.migrate import upgrade
from app.errors import DiskFull
from app.files import storage
from app.main import create_app
from tests.support.serving import LOCAL, serving
from tests.support.waiting import wait_for

ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
PURPOSE = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
END = b"\r\n--x--\r\n"
TYPE = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    settings.root.mkdir()
    upgrade(settings.database)
    with TestClient(create_app(settings), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def served(settings: Settings) -> Iterator[str]:
    settings.root.mkdir()
    upgrade(settings.database)
    with serving(create_app(settings)) as url:
        yield url


def stored(settings: Settings) -> list[Path]:
    return [*(settings.root / "files").glob("*")]


@pytest.mark.parametrize("body", [PURPOSE + HEAD + ROW + END, HEAD + ROW + b"\r\n" + PURPOSE + b"--x--\r\n"])
def test_fields_come_in_any_order(api: TestClient, body: bytes) -> None:
    answer = api.post("/files", content=body, headers=TYPE)

    assert (answer.status_code, answer.json()["bytes"]) == (201, len(ROW))


def test_the_bytes_are_written_once_and_at_once(
    served: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def body() -> Iterator[bytes]:
        yield HEAD + ROW * 20_000
        wait_for("the bytes are in the home", lambda: [path.stat().st_size > 2**20 for path in stored(settings)])
        assert not [*(tmp_path / "tmp").iterdir()]
        yield END

    answer = httpx.post(f"{served}/files", content=body(), headers=TYPE, timeout=60)

    assert answer.json()["bytes"] == 20_000 * len(ROW)


def test_what_would_not_fit_is_refused_before_it_is_read(
    api: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "RESERVE_BYTES", 2**62)

    def unread() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = api.post("/files", content=unread(), headers={**TYPE, "content-length": "1000"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert stored(settings) == []


def test_an_upload_that_fills_the_disk_ends_and_leaves_nothing(
    served: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BYTES_BETWEEN_CHECKS", 2**16)

    def body() -> Iterator[bytes]:
        yield HEAD + ROW * 100
        wait_for("the upload has begun", lambda: stored(settings))
        monkeypatch.setattr(storage, "RESERVE_BYTES", 2**62)
        yield ROW * 10_000

    answer = httpx.post(f"{served}/files", content=body(), headers=TYPE, timeout=60)

    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert stored(settings) == []


def test_the_kernel_says_that_the_disk_is_full(tmp_path: Path) -> None:
    with pytest.raises(DiskFull), storage.disk_full_errors(), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"a")


@pytest.mark.parametrize("sent", [HEAD + ROW * 1000, HEAD[:20], PURPOSE])
def test_a_client_that_vanishes_leaves_nothing(served: str, settings: Settings, sent: bytes) -> None:
    place = urlsplit(served)
    with socket.create_connection((place.hostname, place.port)) as client:
        lines = ["POST /files HTTP/1.1", f"Host: {place.netloc}", f"Content-Type: {TYPE['content-type']}"]
        client.sendall("\r\n".join([*lines, "Content-Length: 1000000", "", ""]).encode() + sent)
        wait_for("the upload has begun", lambda: stored(settings), 10)

    wait_for("nothing is left", lambda: not stored(settings), 10)
