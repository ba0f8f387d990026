"""Whoever writes to the broker runs no code, stops no worker, and fills no queue: a notification says nothing else."""

import base64
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from app.database.connection import Database
from app.database.migrate import upgrade
from app.jobs.queue.notifier import QUEUES, TASK, CeleryNotifier, make_celery
from app.jobs.states import JobStatus, Stage
from app.processes.broker import answers, open_broker
from tests.support.jobs import add_job, read
from tests.support.waiting import wait_for

PREFIX = "tunesmith:"
QUEUE = QUEUES[Stage.CHECK]
KEY = f"{PREFIX}{QUEUE}"
MANY = 10_000


class TouchesAFile:
    """What a pickle of somebody else would be: code that runs when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._path}",)


@dataclass
class Scene:
    """A worker that wakes up for notifications alone, and the broker's other client."""

    worker: subprocess.Popen[bytes]
    redis: Redis
    celery: Celery
    database: Database
    trap: Path

    def write(self, message: bytes) -> None:
        self.redis.lpush(KEY, message)

    def is_well(self) -> None:
        """It takes a job for which somebody rings, what was in its queue is gone, and nobody's code was run."""
        self.takes_a_job()
        wait_for("nothing waits", lambda: self.redis.llen(KEY) == 0, 60)

    def takes_a_job(self) -> None:
        job_id = add_job(self.database, model={"model_name": "not-there"}, status=JobStatus.VALIDATING)
        CeleryNotifier(self.celery).notify(Stage.CHECK)
        wait_for("the job is taken", lambda: read(self.database, job_id).status is JobStatus.FAILED, 60)
        assert self.worker.poll() is None
        assert not self.trap.exists()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        home = Path(name)
        path = home / "run" / "broker.sock"
        database_url = f"sqlite:///{home / 'tunesmith.db'}"
        upgrade(database_url)
        environment = {
            **os.environ,
            "TUNESMITH_HOME": str(home),
            "TUNESMITH_RECONCILE_SECONDS": "3600",
            "TUNESMITH_BROKER_PREFIX": PREFIX,
        }
        words = f"-A worker.supervising.celery_app worker -P threads -c 1 -Q {QUEUE} -n checker0@here".split()
        database = Database.open(database_url)
        with open_broker(path) as broker, broker.start(home / "broker.log"), (home / "log").open("wb") as log:
            wait_for("the broker answers", lambda: answers(path))
            worker = subprocess.Popen([sys.executable, "-m", "celery", *words], env=environment, stdout=log, stderr=log)
            with Redis(unix_socket_path=str(path)) as redis:
                celery = make_celery(f"redis+socket://{path}", PREFIX)
                yield Scene(worker, redis, celery, database, home / "trap")
                celery.close()
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
        database.close()


def envelope(body: bytes, content_type: str = "application/json", **headers: Any) -> bytes:
    """A message as kombu puts it into a list."""
    named = {"lang": "py", "task": TASK, "id": "i", "root_id": "i", "argsrepr": "", "origin": "x", **headers}
    properties = {
        "correlation_id": "i",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "t",
    }
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8" if "json" in content_type else "binary",
        "content-type": content_type,
        "headers": named,
        "properties": properties,
    }
    return json.dumps(message).encode()


def call(*arguments: Any, **embed: Any) -> bytes:
    """The body of a task message (Celery's protocol 2)."""
    plain = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([list(arguments), {}, {**plain, **embed}]).encode()


def yaml_of(trap: Path) -> bytes:
    return f"!!python/object/apply:os.system ['touch {trap}']".encode()


CALLBACK = {"task": "os.system", "args": ["x"], "kwargs": {}, "options": {"queue": QUEUE}, "subtask_type": None}
IN_A_YEAR = "2099-01-01T00:00:00+00:00"
HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "a pickle": lambda trap: envelope(pickle.dumps(TouchesAFile(trap)), "application/x-python-serialize"),
    "yaml": lambda trap: envelope(yaml_of(trap), "application/x-yaml"),
    "no such type": lambda trap: envelope(b"x", "application/x-nothing"),
    "no such task": lambda trap: envelope(call("check"), task="os.system"),
    "celery's own task": lambda trap: envelope(call("check"), task="celery.backend_cleanup"),
    "another argument": lambda trap: envelope(call("../../etc")),
    "an argument that is none": lambda trap: envelope(call({"a": [1]})),
    "no argument": lambda trap: envelope(call()),
    "too many arguments": lambda trap: envelope(call("check", "train")),
    "a callback": lambda trap: envelope(call("check", callbacks=[CALLBACK], errbacks=[CALLBACK])),
    "a chain": lambda trap: envelope(call("check", chain=[CALLBACK])),
    "a body that is none": lambda trap: envelope(b"{"),
    "a body of null": lambda trap: envelope(b"null"),
    "16 MiB": lambda trap: envelope(call("x" * 2**24)),
    "for next century": lambda trap: envelope(call("check"), eta=IN_A_YEAR),
    "eta that is none": lambda trap: envelope(call("check"), eta="soon"),
    "no headers": lambda trap: json.dumps({"body": "", "properties": {}}).encode(),
    "no envelope": lambda trap: b"\x80\x04garbage",
    "null": lambda trap: b"null",
    "a list": lambda trap: b"[]",
    "a number": lambda trap: b"7",
    "empty": lambda trap: b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_that_is_no_notification_changes_nothing(scene: Scene, name: str) -> None:
    scene.write(HOSTILE[name](scene.trap))

    scene.is_well()


@pytest.mark.parametrize("command", ["shutdown", "conf", "ping", "pool_restart", "revoke", "add_consumer"])
def test_nobody_commands_a_worker_from_afar(scene: Scene, command: str) -> None:
    asked = {"queue": "x", "task_id": "i"}
    replies = scene.celery.control.broadcast(command, arguments=asked, reply=True, timeout=0.5)

    assert replies == []
    scene.is_well()


def test_a_job_does_not_wait_behind_ten_thousand_notifications(scene: Scene) -> None:
    """Any of them says what the last one says, and they become fewer."""
    with scene.redis.pipeline() as pipeline:
        for _ in range(MANY):
            pipeline.lpush(KEY, envelope(call("check")))
        pipeline.execute()

    scene.takes_a_job()

    wait_for("they become fewer", lambda: scene.redis.llen(KEY) < MANY, 60)


@pytest.mark.parametrize("message", [b"garbage", b'{"body": "", "properties": {}}'])
def test_a_job_does_not_wait_behind_ten_thousand_that_are_no_messages(scene: Scene, message: bytes) -> None:
    with scene.redis.pipeline() as pipeline:
        for _ in range(MANY):
            pipeline.lpush(KEY, message)
        pipeline.execute()

    scene.takes_a_job()
