"""Two hosts on this machine: a host name and a home each, one database, one broker, one store.

A host name needs a UTS namespace of its own (`unshare --uts`), and so root.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import redis
from sqlalchemy import func, select

from app.config import Settings
from app.database.connection import Database
from app.database.migrate import upgrade
from app.jobs.models import Job
from bench.chaos.processes import Process, of_run
from bench.chaos.stack import MODEL, ROOT, TIMERS
from tests.support.s3_server import S3Server, serving_s3
from tests.support.stalling_proxy import StallingProxy, stalling_proxy
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for

POSTGRES, REDIS_DATABASE = ("127.0.0.1", 5432), 7
REDIS = ("127.0.0.1", 6379)
NAMED = 'hostname "$0" && exec "$@"'
ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")
HOSTS = ("day-a", "day-b")
# The host, the slot and the name of each training worker.
TRAINERS = (("day-a", "cpu0"), ("day-b", "cpu0"), ("day-b", "cpu1"))


@dataclass
class Day:
    """The service, and the proxies between it and what it needs."""

    folder: Path
    environment: dict[str, str]
    port: int
    store: S3Server
    proxies: dict[str, StallingProxy]
    canaries: dict[str, str]
    settings: Settings
    programs: dict[str, tuple[str, list[str], dict[str, str]]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self) -> list[Process]:
        return list(of_run(str(self.folder)))

    def add(self, name: str, host: str, *module: str, **variables: str) -> None:
        self.programs[name] = (host, [sys.executable, "-m", *module], variables)

    def add_worker(self, host: str, stage: str, slot: str = "cpu0") -> None:
        name, threads = f"{stage}-{slot}", "2" if stage == "check" else "1"
        words = ("celery", "-A", "worker.supervising.celery_app", "worker", "-P", "threads", "-c", threads)
        place = ("-n", f"{name}@%h", "-Q", f"tunesmith.{stage}")
        self.add(f"{host} {name}", host, *words, *place, *ALONE, TUNESMITH_SLOT=slot)

    def keep_running(self) -> None:
        """Start what is not running, as an init system does, until the day is over."""
        while not self.over.wait(0.3):
            for name, (host, argv, variables) in [*self.programs.items()]:
                process = self.running.get(name)
                if process is None or process.poll() is not None:
                    self.running[name] = self._start(name, host, argv, variables)

    def _start(self, name: str, host: str, argv: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        home = self.folder / host
        home.mkdir(exist_ok=True, mode=0o700)
        environment = {**self.environment, "TUNESMITH_HOME": str(home), **variables}
        with (self.folder / f"{name}.log").open("ab") as log:
            command = ["unshare", "--uts", "sh", "-c", NAMED, host, *argv]
            return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)

    def statuses(self) -> Counter[str]:
        """How many jobs have each status, as the database has it."""
        with closing(Database.open(self.settings.database)) as database, database.reader() as session:
            query = select(Job.status, func.count()).group_by(Job.status)
            return Counter({str(status): count for status, count in session.execute(query)})

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=3).status_code == 200
        return False

    def end(self) -> None:
        """End all processes: with SIGTERM, and what is left by force."""
        self.over.set()
        for process in self.running.values():
            process.terminate()
        with contextlib.suppress(AssertionError):
            wait_for("all have ended", lambda: not self.processes(), 20)
        while left := self.processes():
            for one in left:
                one.send(signal.SIGKILL)
        for process in self.running.values():
            process.wait(10)


@contextmanager
def a_day(work: Path) -> Iterator[Day]:
    """The service without its training workers; nothing of it is left afterwards but the folder."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="day-", dir=work))
        build_tiny_model(folder / "models" / MODEL)
        store = stack.enter_context(serving_s3(folder / "s3"))
        database, prefix = stack.enter_context(_database()), stack.enter_context(_prefix())
        servers = {"database": POSTGRES, "broker": REDIS, "store": ("127.0.0.1", store.port)}
        proxies = {name: stack.enter_context(stalling_proxy(*place)) for name, place in servers.items()}
        words = {"database": f"CANARY-{secrets.token_hex(8)}", "store": store.secret}
        words["secret-key"] = b64encode(secrets.token_bytes(32)).decode()
        url = "postgresql+psycopg://postgres:{}@127.0.0.1:{}/" + database  # it trusts loopback, whatever the password
        settings = Settings(
            home=folder / HOSTS[0],
            database_url=url.format(words["database"], POSTGRES[1]),
            secret_key=words["secret-key"],
        )
        upgrade(settings.database)
        port = _free_port()
        environment = {
            **os.environ,
            **TIMERS,
            **store.environment,
            "PYTHONPATH": str(ROOT),
            "CHAOS_RUN": str(folder),
            "TUNESMITH_PASS_ENVIRONMENT": "CHAOS_RUN",
            "TUNESMITH_PORT": str(port),
            "TUNESMITH_KEYS": "required",
            "TUNESMITH_DATABASE_URL": url.format(words["database"], proxies["database"].port),
            "TUNESMITH_BROKER_URL": f"redis://127.0.0.1:{proxies['broker'].port}/{REDIS_DATABASE}",
            "TUNESMITH_BROKER_PREFIX": prefix,
            "TUNESMITH_STORE_ENDPOINT": f"http://127.0.0.1:{proxies['store'].port}",
            "TUNESMITH_SECRET_KEY": words["secret-key"],
            "TUNESMITH_WEBHOOK_PRIVATE_NETWORKS": "127.0.0.1",
            "TUNESMITH_MODELS_DIR": str(folder / "models"),
            "TUNESMITH_TRAINER_MODULE": "tests.support.stand_in_trainer",
            "TUNESMITH_PLUGINS": "bench.day.stand_in_check",
            "TUNESMITH_ENGINE_URL": "http://127.0.0.2:9",  # another host's, and not asked
            "TUNESMITH_VERIFY": "off",  # what this trainer leaves is no real adapter
            "TUNESMITH_WARM_SPARE": "0",
            "TUNESMITH_MAX_ATTEMPTS": "100",
        }
        day = Day(folder, environment, port, store, proxies, words, settings)
        day.add("api", HOSTS[0], "app.serve")
        stack.callback(day.end)
        threading.Thread(target=day.keep_running, daemon=True).start()
        wait_for("the API answers", day.answers, 60)
        yield day


@contextmanager
def _database() -> Iterator[str]:
    name = f"bench_day_{secrets.token_hex(4)}"
    with psycopg.connect(host=POSTGRES[0], port=POSTGRES[1], user="postgres", autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _prefix() -> Iterator[str]:
    prefix = f"day_{secrets.token_hex(4)}:"
    yield prefix
    with redis.Redis(host=REDIS[0], port=REDIS[1], db=REDIS_DATABASE) as broker:
        for key in broker.scan_iter(f"{prefix}*"):
            broker.delete(key)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
