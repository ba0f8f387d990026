"""Checks whether the service accepts jobs and can run them. The check of each part has a time limit."""

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy import text

from app.database.connection import AWAY, Database
from app.errors import EngineUnavailable
from app.generate.client import SingleEngine
from app.jobs import repository
from app.jobs.states import Stage
from app.store.copies import HomeFiles, OnlyHome
from app.store.faults import StoreAway

LIMIT_SECONDS = 2.0
# Requests within this time share one check.
KEPT_SECONDS = 1.0
# A disk with less free space counts as full, because running jobs still have to write checkpoints and results.
RESERVE_BYTES = 256 * 2**20
WORKER_IS_AWAY_AFTER = timedelta(seconds=30)
NO_ANSWER = f"it did not answer within {LIMIT_SECONDS:.0f} seconds"
T = TypeVar("T")


@dataclass(frozen=True)
class EngineState:
    """Whether an engine's process is up, and why it answers no requests at present."""

    is_up: bool
    reason: str | None


@dataclass(frozen=True)
class ServiceState:
    """The result of a check. `problems` are sentences by part of the service; a part without one works."""

    problems: dict[str, str]
    takes_jobs: bool
    has_database: bool
    has_broker: bool
    engines: dict[str, EngineState]
    disk_free_bytes: int | None
    checkers: int
    trainers: int

    @property
    def has_engine(self) -> bool:
        return any(engine.is_up for engine in self.engines.values())

    @property
    def engine_reason(self) -> str | None:
        """Why no engine answers requests at present."""
        return None if any(not engine.reason for engine in self.engines.values()) else _reasons(self.engines)


class Look(Generic[T]):
    """Checks one part. Only one check runs at a time, even if it never ends."""

    def __init__(self, look: Callable[[], Awaitable[T]]) -> None:
        self._look = look
        self._task: asyncio.Future[T] | None = None
        self._began = 0.0

    async def found(self) -> T | None:
        """Return a result that is at most a second old, or None if there is none within the limit."""
        is_over = self._task is None or self._task.done()
        if self._task is None or (is_over and time.monotonic() >= self._began + KEPT_SECONDS):
            self._task, self._began = asyncio.ensure_future(self._look()), time.monotonic()
        left = max(0.0, self._began + LIMIT_SECONDS - time.monotonic())
        done, _ = await asyncio.wait({self._task}, timeout=left)
        return self._task.result() if done else None


def in_a_thread(look: Callable[[], T]) -> Look[T]:
    """Run the check in its own thread, because all threads of requests may be waiting for the part that is checked."""
    limiter = CapacityLimiter(1)
    return Look(lambda: to_thread.run_sync(look, limiter=limiter, abandon_on_cancel=True))


class Readiness:
    """All checks of this process."""

    def __init__(
        self,
        database: Database,
        home: Path,
        broker_problem: Callable[[], str | None],
        engines: Mapping[str, SingleEngine],
        files: Callable[[], HomeFiles] = OnlyHome,
    ) -> None:
        self._database = in_a_thread(lambda: look_at_database(database))
        self._disk = in_a_thread(lambda: look_at_disk(home))
        self._broker = in_a_thread(lambda: (broker_problem(),))
        self._engines = [(name, Look(partial(look_at_engine, engine))) for name, engine in engines.items()]
        self._store = in_a_thread(lambda: (look_at_store(files),))

    async def found(self) -> ServiceState:
        database, disk, broker, engines, store = await asyncio.gather(
            *(self._database.found(), self._disk.found(), self._broker.found()),
            self._look_at_engines(),
            self._store.found(),
        )
        stored = database or DatabaseState(problem=NO_ANSWER)
        free, disk_problem = disk or (None, NO_ANSWER)
        (broker_problem,) = broker or (NO_ANSWER,)
        (store_problem,) = store or (NO_ANSWER,)
        found = {
            "database": stored.problem,
            "disk": disk_problem,
            "broker": broker_problem and f"{broker_problem}; jobs wait",
            "checkers": stored.absence(Stage.CHECK),
            "trainers": stored.absence(Stage.TRAIN),
            "engine": _reasons(engines),
            "store": store_problem,
        }
        return ServiceState(
            problems={part: problem for part, problem in found.items() if problem is not None},
            takes_jobs=stored.problem is None and disk_problem is None,
            has_database=stored.problem is None,
            has_broker=broker_problem is None,
            engines=engines,
            disk_free_bytes=free,
            checkers=stored.workers.get(Stage.CHECK, 0),
            trainers=stored.workers.get(Stage.TRAIN, 0),
        )

    async def _look_at_engines(self) -> dict[str, EngineState]:
        found = await asyncio.gather(*(look.found() for _, look in self._engines))
        return {
            name: state or EngineState(is_up=False, reason=NO_ANSWER)
            for (name, _), state in zip(self._engines, found, strict=True)
        }


def _reasons(engines: Mapping[str, EngineState]) -> str | None:
    """Return the reasons of all engines that answer nobody, each with its engine's name if there are several."""
    reasons = {name: engine.reason for name, engine in engines.items() if engine.reason is not None}
    named = [reason if len(engines) == 1 else f"{name}: {reason}" for name, reason in reasons.items()]
    return "; ".join(named) or None


@dataclass(frozen=True)
class DatabaseState:
    """The state of the database, and how many workers of each stage are alive and take jobs."""

    problem: str | None
    workers: dict[Stage, int] = field(default_factory=dict)

    def absence(self, stage: Stage) -> str | None:
        """Say that no worker of a stage takes jobs. Returns None if one does, or if the database did not answer."""
        if self.problem is not None or self.workers.get(stage):
            return None
        within = f"in the last {WORKER_IS_AWAY_AFTER.seconds} seconds"
        return f"no {stage} worker that takes jobs has been seen {within}; jobs wait"


def look_at_database(database: Database) -> DatabaseState:
    try:
        with database.reader() as session:
            workers = repository.able_workers(session, WORKER_IS_AWAY_AFTER)
            is_postgres = session.get_bind().dialect.name == "postgresql"
            is_read_only = is_postgres and session.scalar(text("SHOW transaction_read_only")) == "on"
    except AWAY as error:
        return DatabaseState(f"it cannot be read: {type(error).__name__}")
    return DatabaseState("it is read-only" if is_read_only else _write_problem(database), workers)


def _write_problem(database: Database) -> str | None:
    """Return why SQLite cannot write its file, or None. Other databases have their own disk."""
    file = database.engine.url.database if database.engine.dialect.name == "sqlite" else None
    if file is None:
        return None
    if not os.access(file, os.W_OK) or os.statvfs(file).f_flag & os.ST_RDONLY:
        return "its file cannot be written"
    return _room_problem(shutil.disk_usage(file).free)


def look_at_disk(home: Path) -> tuple[int | None, str | None]:
    """Return the free bytes of the home's disk, and what is wrong with it."""
    try:
        free = shutil.disk_usage(home).free
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    return free, _room_problem(free)


def look_at_store(files: Callable[[], HomeFiles]) -> str | None:
    """Return why the store of files cannot be used, or None if it can, or if there is none."""
    try:
        entries = files().entries
        if entries is not None:
            entries.bucket.check()
    except StoreAway as error:
        return f"{error}; uploads and downloads fail, and jobs wait"
    return None


def _room_problem(free: int) -> str | None:
    return f"{free} bytes are free, and {RESERVE_BYTES} are needed" if free < RESERVE_BYTES else None


async def look_at_engine(engine: SingleEngine) -> EngineState:
    try:
        return EngineState(is_up=True, reason=(await engine.health()).stepped_aside)
    except EngineUnavailable as error:
        return EngineState(is_up=False, reason=error.message)
