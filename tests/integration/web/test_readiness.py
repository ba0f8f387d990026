"""What `/readyz` tells, and that it tells it in time."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.connection import Database
from app.jobs.states import Stage
from app.system import readiness
from app.system.readiness import NO_ANSWER, Look, Readiness, in_a_thread, look_at_disk
from tests.support.jobs import add_worker
from tests.support.jobs_api import an_app
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import LOCAL


@pytest.fixture
def app(settings: Settings, database: Database, database_url: str) -> FastAPI:
    settings.root.mkdir()
    app = an_app(settings, database_url)
    app.state.engine = ScriptedEngine([])
    app.state.readiness = Readiness(database, settings.root, lambda: None, {"engine": ScriptedEngine([])})
    return app


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=LOCAL) as client:
        yield client


def test_a_service_with_all_its_parts_is_ready(api: TestClient, database: Database) -> None:
    for stage in Stage:
        add_worker(database, stage)

    answer = api.get("/readyz")

    told = answer.json()
    assert answer.status_code == 200
    assert told.pop("disk_free_bytes") > readiness.RESERVE_BYTES
    assert told == {
        "status": "ready",
        "database": True,
        "broker": True,
        "engine": True,
        "engine_reason": None,
        "engines": {"engine": {"is_up": True, "reason": None}},
        "checkers": 1,
        "trainers": 1,
        "problems": {},
    }


def test_jobs_are_taken_without_workers_and_it_is_said_that_they_wait(api: TestClient, database: Database) -> None:
    add_worker(database, Stage.CHECK, seconds_ago=31)
    add_worker(database, Stage.TRAIN, problem="another worker has this GPU")

    answer = api.get("/readyz")

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["problems"] == {
        "checkers": "no check worker that takes jobs has been seen in the last 30 seconds; jobs wait",
        "trainers": "no train worker that takes jobs has been seen in the last 30 seconds; jobs wait",
    }


def test_a_broker_that_is_away_is_said(app: FastAPI, database: Database, settings: Settings) -> None:
    app.state.readiness = Readiness(database, settings.root, lambda: "it does not answer", {})
    with TestClient(app, base_url=LOCAL) as api:
        told = api.get("/readyz").json()

    assert (told["status"], told["broker"]) == ("degraded", False)
    assert told["problems"]["broker"] == "it does not answer; jobs wait"


def test_a_full_disk_takes_no_jobs(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "RESERVE_BYTES", 2**60)

    answer = api.get("/readyz")

    assert (answer.status_code, answer.json()["status"]) == (503, "unready")
    assert f"{2**60} are needed" in answer.json()["problems"]["disk"]


def test_a_database_that_is_away_takes_no_jobs(settings: Settings) -> None:
    settings.root.mkdir()
    away = Database.open("postgresql+psycopg://nobody@127.0.0.1:1/x")
    app = an_app(settings, f"sqlite:///{settings.root / 'x.db'}")
    app.state.readiness = Readiness(away, settings.root, lambda: None, {})
    with TestClient(app, base_url=LOCAL) as api:
        answer = api.get("/readyz")

    assert (answer.status_code, answer.json()["database"]) == (503, False)
    assert answer.json()["problems"]["database"] == "it cannot be read: OperationalError"


def test_a_home_that_is_gone_is_said(tmp_path: Path) -> None:
    assert look_at_disk(tmp_path / "gone") == (None, "it cannot be read: No such file or directory")


def test_a_silent_database_holds_up_neither_the_answer_nor_the_loop(
    app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LIMIT_SECONDS", 0.3)
    monkeypatch.setattr(readiness, "look_at_database", lambda _: time.sleep(3))
    silent = Readiness(app.state.database, settings.root, lambda: None, {"engine": ScriptedEngine([])})

    async def ask() -> tuple[readiness.ServiceState, float, float]:
        asked, longest_stop, began = asyncio.create_task(silent.found()), 0.0, time.monotonic()
        while not asked.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest_stop = max(longest_stop, time.monotonic() - before)
        return await asked, time.monotonic() - began, longest_stop

    found, seconds, longest_stop = asyncio.run(ask())

    assert found.problems["database"] == NO_ANSWER
    assert seconds < 2
    assert longest_stop < 0.25


def test_who_asks_at_once_shares_one_look_and_a_silent_part_has_one_at_a_time() -> None:
    numbers = iter(range(99))

    def look() -> int:
        time.sleep(0.2)
        return next(numbers)

    async def ask() -> list[int | None]:
        shared = in_a_thread(look)
        return await asyncio.gather(*(shared.found() for _ in range(50)))

    assert asyncio.run(ask()) == [0] * 50


def test_a_look_is_taken_anew_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "KEPT_SECONDS", 0.05)
    numbers = iter(range(9))

    async def ask() -> list[int | None]:
        async def look() -> int:
            return next(numbers)

        looked = Look(look)
        before = [await looked.found(), await looked.found()]
        await asyncio.sleep(0.1)
        return [*before, await looked.found()]

    assert asyncio.run(ask()) == [0, 0, 1]
