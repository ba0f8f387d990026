"""What `tunesmith up` decides and refuses before anything runs. That all of it runs and ends is shown in tests/e2e."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def test_a_port_of_zero_becomes_a_free_one(tmp_path: Path) -> None:
    settled = settle(settings_of(tmp_path))

    assert settled.port > 0


def test_the_engine_of_this_host_has_a_socket_in_the_home_and_no_port(tmp_path: Path) -> None:
    settled = settle(settings_of(tmp_path))

    assert settled.engine_url == f"unix://{tmp_path}/run/engine.sock"
    assert settled.engine_key is None


def test_an_engine_on_a_port_has_a_key_that_is_made_at_the_start(tmp_path: Path) -> None:
    keys = {settle(settings_of(tmp_path, engine_url="http://localhost:0")).engine_key for _ in range(2)}

    assert len(keys) == 2
    assert all(key is not None and len(key) > 32 for key in keys)


def test_the_operators_own_key_stays(tmp_path: Path) -> None:
    settled = settle(settings_of(tmp_path, engine_url="http://localhost:0", engine_key="k" * 16))

    assert settled.engine_key == "k" * 16


def test_a_chosen_engine_port_is_kept(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        free = found.getsockname()[1]

    settled = settle(settings_of(tmp_path, engine_url=f"http://localhost:{free}"))

    assert settled.engine_url == f"http://127.0.0.1:{free}"


def test_an_engine_elsewhere_is_left_alone(tmp_path: Path) -> None:
    settled = settle(settings_of(tmp_path, engine_url="https://gpu-host:8100"))

    assert settled.engine_url == "https://gpu-host:8100"


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


def test_a_vllm_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="TUNESMITH_VLLM_COMMAND: there is no program 'no-such-vllm' on this host"):
        settle(settings_of(tmp_path, vllm_command="no-such-vllm serve"))


@pytest.mark.parametrize("chosen", [{"vllm_url": "https://gpu-host:8000"}, {"vllm_command": "vllm serve"}], ids=str)
def test_a_vllm_for_an_engine_elsewhere_is_refused(tmp_path: Path, chosen: dict[str, str]) -> None:
    with pytest.raises(CannotStart, match="set them where the engine at https://gpu-host:8100 runs"):
        settle(settings_of(tmp_path, engine_url="https://gpu-host:8100", **chosen))


def test_what_was_chosen_otherwise_is_kept(tmp_path: Path) -> None:
    settled = settle(settings_of(tmp_path, max_attempts=7, database_url="postgresql+psycopg://me:secret@db/x"))

    assert settled.max_attempts == 7
    assert settled.database == "postgresql+psycopg://me:secret@db/x"


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(CannotStart, match=f"port {taken_port} of 127.0.0.1 is in use"):
        up(settings_of(tmp_path, port=taken_port), silent)

    assert not list((tmp_path / "logs").iterdir())


def test_a_taken_engine_port_is_named(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(CannotStart, match=f"port {taken_port} of 127.0.0.1 is in use"):
        settle(settings_of(tmp_path, engine_url=f"http://127.0.0.1:{taken_port}"))


def test_a_host_that_is_not_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on port 0 of 203\.0\.113\.1"):
        settle(settings_of(tmp_path, host="203.0.113.1", trust_network=True))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "203.0.113.1"])
def test_an_address_that_strangers_reach_needs_trust_in_the_network(tmp_path: Path, host: str) -> None:
    with pytest.raises(CannotStart, match=r"TUNESMITH_HOST: found .* with TUNESMITH_TRUST_NETWORK=1"):
        settle(settings_of(tmp_path, host=host))


def test_a_second_service_on_one_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with hold_lock(tmp_path / "run" / "up.lock", "held"), pytest.raises(CannotStart, match="already runs on"):
        up(settings_of(tmp_path), silent)


def test_a_home_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="too long for a unix socket"):
        up(settings_of(tmp_path / ("x" * 100)), silent)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, database_url="postgresql+psycopg://me:secret@127.0.0.1:1/x")

    with pytest.raises(CannotStart, match=r"the database postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x cannot be"):
        up(settings, silent)


def test_the_command_says_it_in_one_line(tmp_path: Path, taken_port: int) -> None:
    command = [sys.executable, "-m", "app.cli", "up", "--home", str(tmp_path), "--port", str(taken_port)]

    told = subprocess.run(command, capture_output=True, text=True, check=False)

    assert told.returncode == 1
    free = "choose another with TUNESMITH_PORT (0: any free port)"
    assert told.stderr == f"port {taken_port} of 127.0.0.1 is in use; {free}\n"
