"""What `tunesmith up` decides and refuses before anything runs. That all of it runs and ends is shown in tests/e2e."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.processes.lock import CannotStart, hold_lock
from app.supervisor import settle, up


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def silent(_: str) -> None:
    """Nothing to say."""


def settings_of(home: Path, **chosen: object) -> Settings:
    return Settings.model_validate({"home": home, "port": 0, **chosen})


ELSEWHERE = "https://gpu-host:8100"
DATABASE = "postgresql+psycopg://me:secret@127.0.0.1:1/x"


def test_what_was_not_chosen_is_settled(tmp_path: Path) -> None:
    settled = settle(settings_of(tmp_path))

    assert settled.port > 0
    assert (settled.engine_url, settled.engine_key) == (f"unix://{tmp_path}/run/engine.sock", None)


def test_what_was_chosen_is_kept(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = found.getsockname()[1]

    settled = settle(settings_of(tmp_path, max_attempts=7, database_url=DATABASE, engine_url=ELSEWHERE))
    here = settle(settings_of(tmp_path, engine_url=f"http://localhost:{free}", engine_key="k" * 16))

    assert (settled.max_attempts, settled.database, settled.engine_url) == (7, DATABASE, ELSEWHERE)
    assert (here.engine_url, here.engine_key) == (f"http://127.0.0.1:{free}", "k" * 16)


def test_of_several_engines_the_first_on_this_host_is_started_and_the_others_keep_their_addresses(
    tmp_path: Path,
) -> None:
    urls = f"{ELSEWHERE},http://localhost:0,https://third:8100"

    settled = settle(settings_of(tmp_path, engine_url=urls, engine_key="k" * 16))

    elsewhere, here, third = (engine.url for engine in settled.engines)
    assert (elsewhere, third) == (ELSEWHERE, "https://third:8100")
    assert here.startswith("http://127.0.0.1:")
    assert not here.endswith(":0")
    assert {engine.key for engine in settled.engines} == {"k" * 16}


VLLM_ELSEWHERE = f"set them where the engine at {ELSEWHERE} runs"
CANNOT_START: list[tuple[dict[str, Any], str]] = [
    ({"vllm_command": "no-such-vllm serve"}, "TUNESMITH_VLLM_COMMAND: there is no program 'no-such-vllm' on this host"),
    ({"engine_url": ELSEWHERE, "vllm_url": "https://gpu-host:8000"}, VLLM_ELSEWHERE),
    ({"engine_url": ELSEWHERE, "vllm_command": "vllm serve"}, VLLM_ELSEWHERE),
    ({"host": "203.0.113.1", "trust_network": True}, r"cannot listen on port 0 of 203\.0\.113\.1"),
    ({"trusted_proxies": "a proxy"}, "TUNESMITH_TRUSTED_PROXIES or TUNESMITH_PROXY_GROUPS: found 'a proxy'"),
    ({"database_url": DATABASE}, r"the database postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x cannot be"),
]


@pytest.mark.parametrize(("chosen", "reason"), CANNOT_START, ids=str)
def test_what_cannot_start_is_named(tmp_path: Path, chosen: dict[str, object], reason: str) -> None:
    with pytest.raises(CannotStart, match=reason):
        up(settings_of(tmp_path, **chosen), silent)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.1"])
def test_a_service_that_others_reach_asks_for_keys(tmp_path: Path, host: str) -> None:
    assert settings_of(tmp_path, host=host).needs_key
    assert not settings_of(tmp_path, host=host, trust_network=True).needs_key
    with pytest.raises(ValueError, match=r"TUNESMITH_HOST: found .* with TUNESMITH_TRUST_NETWORK=1"):
        settings_of(tmp_path, host=host, keys="optional")


def test_a_home_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="too long for a unix socket"):
        up(settings_of(tmp_path / ("x" * 100)), silent)


def test_an_engine_on_a_port_has_a_key_that_is_made_at_the_start(tmp_path: Path) -> None:
    keys = {settle(settings_of(tmp_path, engine_url="http://localhost:0")).engine_key for _ in range(2)}

    assert len(keys) == 2
    assert all(key is not None and len(key) > 32 for key in keys)


def test_children_in_another_folder_find_the_same_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    settled = settle(settings_of(tmp_path, database_url="sqlite:///mine.db"))

    assert settled.database == f"sqlite:///{tmp_path}/mine.db"


def test_a_vllm_is_started_from_wherever_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.touch(mode=0o700)
    monkeypatch.chdir(tmp_path)

    settled = settle(settings_of(tmp_path, vllm_command="bin/vllm serve --dtype 'float 16'"))

    assert settled.vllm_command == f"{program} serve --dtype 'float 16'"


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(CannotStart, match=f"port {taken_port} of 127.0.0.1 is in use"):
        up(settings_of(tmp_path, port=taken_port), silent)

    assert not list((tmp_path / "logs").iterdir())


def test_a_taken_engine_port_is_named(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(CannotStart, match=f"port {taken_port} of 127.0.0.1 is in use"):
        settle(settings_of(tmp_path, engine_url=f"http://127.0.0.1:{taken_port}"))


def test_a_second_service_on_one_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with hold_lock(tmp_path / "run" / "up.lock", "held"), pytest.raises(CannotStart, match="already runs on"):
        up(settings_of(tmp_path), silent)


def test_the_command_says_it_in_one_line(tmp_path: Path, taken_port: int) -> None:
    command = [sys.executable, "-m", "app.cli", "up", "--home", str(tmp_path), "--port", str(taken_port)]

    told = subprocess.run(command, capture_output=True, text=True, check=False)

    assert told.returncode == 1
    free = "choose another with TUNESMITH_PORT (0: any free port)"
    assert told.stderr == f"port {taken_port} of 127.0.0.1 is in use; {free}\n"
