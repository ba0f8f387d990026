"""Who may ask an engine: whoever can open its unix socket, or names its key. Nobody else is told anything."""

import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.contracts.generation import EngineHealth
from app.processes.engine_address import EngineAddress
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.processes import HEADERS, KEY, MODULE, EngineProcess
from tests.integration.engine.requests import an_order
from tests.support.forking import Forked, start_forker
from tests.support.waiting import wait_for
from worker.inference.__main__ import read_options
from worker.inference.server.listening import listen


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: a unix socket's has to fit in 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


WRONG = {
    "no key": [],
    "another key": [("authorization", f"Bearer {KEY}x")],
    "a part of it": [("authorization", f"Bearer {KEY[:-1]}")],
    "no scheme": [("authorization", KEY)],
    "another scheme": [("authorization", f"Basic {KEY}")],
    "an empty one": [("authorization", "Bearer")],
    "two": [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer x")],
    "what is no ASCII": [("authorization", b"Bearer \xff\xfe")],
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/health"), ("POST", "/generate"), ("POST", "/prove"), ("POST", "/yield"), ("GET", "/x")],
)
def test_who_does_not_name_the_key_is_told_nothing(
    engine_process: EngineProcess, method: str, path: str, headers: Any
) -> None:
    answer = httpx.request(method, f"{engine_process.url}{path}", headers=headers, trust_env=False)

    assert (answer.status_code, answer.json()["code"]) == (401, "wrong_engine_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


def test_who_names_the_key_is_answered(engine_process: EngineProcess, served_model: ServedModel) -> None:
    answer = httpx.post(
        f"{engine_process.url}/generate", content=an_order(served_model).model_dump_json(), headers=HEADERS
    )

    assert answer.status_code == 200


def test_the_key_is_in_no_command_line(engine_process: EngineProcess) -> None:
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]

    assert not any(KEY.encode() in line for line in lines)


@pytest.mark.parametrize("words", [["--port", "0"], ["--host", "127.0.0.1"], ["--host", "0.0.0.0", "--port", "1"]])
def test_an_engine_on_a_port_without_a_key_does_not_start(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TUNESMITH_ENGINE_KEY", raising=False)

    with pytest.raises(SystemExit, match="2"):
        read_options(words)

    assert "it needs a key in TUNESMITH_ENGINE_KEY" in " ".join(capsys.readouterr().err.split())


def test_a_key_that_is_easily_guessed_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNESMITH_ENGINE_KEY", "tunesmith")

    with pytest.raises(SystemExit, match="2"):
        read_options(["--port", "0"])

    told = capsys.readouterr().err
    assert "at least 16 characters" in told
    assert "'tunesmith'" not in told


def test_a_key_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("TUNESMITH_ENGINE_KEY_FILE", str(tmp_path / "key"))

    assert read_options(["--port", "0"]).key == KEY


def test_a_vllm_elsewhere_is_not_asked_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        read_options(["--vllm-url", "http://gpu-host:8000"])
    assert "expected https or an address of this host" in " ".join(capsys.readouterr().err.split())

    assert read_options(["--vllm-url", "https://gpu-host:8000"]).vllm_url == "https://gpu-host:8000"
    monkeypatch.setenv("TUNESMITH_TRUST_NETWORK", "1")
    assert read_options(["--vllm-url", "http://gpu-host:8000"]).vllm_url == "http://gpu-host:8000"


def test_behind_its_socket_it_is_this_users_alone(home: Path) -> None:
    path, told = home / "run" / "engine.sock", home / "told"
    environment = {**os.environ, "TUNESMITH_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    (home / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # as a killed engine leaves it

    first = Forked(start_forker(), MODULE, ["--device", "cpu"], environment)
    with EngineAddress(f"unix://{path}").client(5.0) as http:
        wait_for("it answers", lambda: _answers(http), 60)
        health = EngineHealth.model_validate_json(http.get("/health").content)
        foreign = http.get("/health", headers={"host": "evil.example"})
        page = http.post("/yield", headers={"origin": "http://evil.example"})
    mode = stat.S_IMODE(path.stat().st_mode)
    second = Forked(start_forker(), MODULE, ["--device", "cpu"], environment, told).wait(60)
    still_there = path.exists()
    first.send_signal(signal.SIGTERM)

    assert first.wait(30) == 0
    assert health.device == "cpu"
    assert mode == 0o600
    assert (foreign.status_code, page.status_code) == (400, 403)
    assert second != 0
    assert f"another engine listens on {path}" in told.read_text()
    assert still_there


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health").is_success
    except httpx.TransportError:
        return False


def test_a_socket_can_be_opened_by_this_user_alone(home: Path) -> None:
    with listen(home / "deep" / "engine.sock") as listener:
        mode = stat.S_IMODE((home / "deep" / "engine.sock").stat().st_mode)

    assert mode == 0o600
    assert listener.family is socket.AF_UNIX


def test_a_path_that_is_too_long_is_named(home: Path) -> None:
    with pytest.raises(ValueError, match="should have at most 107 bytes"):
        listen(home / ("x" * 100) / "engine.sock")
