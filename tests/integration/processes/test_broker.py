"""The bundled broker: one a folder, private, and gone with its owner."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from app.processes import broker as brokers
from app.processes.broker import Broker, answers, open_broker
from app.processes.guardian import Guarded
from app.processes.lock import CannotStart, hold_lock
from tests.support.waiting import wait_for

SECONDS = 10
OWNER = """
import signal, sys
from pathlib import Path
from app.processes.broker import open_broker

signal.alarm(30)  # the end, should the test fail
with open_broker(Path(sys.argv[1])) as broker, broker.start(Path(sys.argv[2])) as server:
    signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's has to fit in 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@contextmanager
def running(folder: Path) -> Iterator[tuple[Broker, Guarded]]:
    with open_broker(folder / "run" / "broker.sock") as broker, broker.start(folder / "log") as server:
        wait_for("the broker answers", lambda: answers(broker.socket), SECONDS)
        yield broker, server


def owner(broker_socket: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", OWNER, str(broker_socket), str(broker_socket.parent / "log")])


def test_it_passes_messages_for_its_own_user_and_keeps_nothing_evicts_nothing_and_has_no_port(folder: Path) -> None:
    expected = {"port": "0", "save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}
    with running(folder) as (broker, _), Redis(unix_socket_path=str(broker.socket), decode_responses=True) as client:
        client.lpush("queue", "a bell")

        assert client.rpop("queue") == "a bell"
        assert client.config_get(*expected) == expected
        assert stat.S_IMODE(broker.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(broker.socket.parent.stat().st_mode) == 0o700


def test_a_second_broker_in_the_same_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "LOCK_WAIT_SECONDS", 0.2)
    with (
        running(folder) as (broker, _),
        pytest.raises(CannotStart, match=f"another broker runs in {folder}/run"),
        open_broker(broker.socket),
    ):
        pass


def test_it_stops_when_asked(folder: Path) -> None:
    with running(folder) as (broker, server):
        server.stop()

        assert server.wait(SECONDS) == 0
        assert not answers(broker.socket)


def test_it_is_gone_with_an_owner_killed_by_force_and_the_next_starts_at_once(folder: Path) -> None:
    broker_socket = folder / "broker.sock"
    with owner(broker_socket) as first:
        wait_for("the broker answers", lambda: answers(broker_socket), SECONDS)
        first.kill()

    with open_broker(broker_socket) as broker, broker.start(folder / "log"):
        wait_for("the broker answers", lambda: answers(broker_socket), SECONDS)


def test_a_server_killed_by_force_can_be_started_again(folder: Path) -> None:
    with running(folder) as (broker, server):
        with Redis(unix_socket_path=str(broker.socket)) as client:
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
        assert server.wait(SECONDS) == 128 + signal.SIGKILL

        with broker.start(folder / "log"):
            wait_for("the broker answers", lambda: answers(broker.socket), SECONDS)


def test_a_lock_is_free_again_after_its_holder(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "lock", "taken"), pytest.raises(CannotStart, match="taken"):
        hold_lock(tmp_path / "lock", "taken").__enter__()

    with hold_lock(tmp_path / "lock", "taken"):
        pass
