"""A temporary job whose request is gone is ended, removed with its files, and holds up nothing meanwhile."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.config import Settings
from app.contracts.spec import JobSpec
from app.database.connection import Database, utc_now
from app.errors import Unavailable
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.queue import retention
from app.jobs.states import JobStatus, RequestedAction, Stage
from app.jobs.validating import Validations
from app.main import create_app
from app.scope import EVERY_PROJECT
from tests.support.callers import ANYONE
from tests.support.checks import Checker, Findings, RecordingNotifier, a_checker
from tests.support.jobs import add_job, take
from tests.support.learned_text import chat_parts, write_data
from tests.support.serving import serving
from tests.support.specs import FILE
from tests.support.waiting import wait_for
from worker.supervising.reconciler import Reconciler

HUB: dict[str, Any] = {"model": {"model_name": "org/model"}, "dataset": {"source": {"hub": "org/chats"}}}
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def checker(settings: Settings, database: Database) -> Checker:
    """One that has shown up, and works when the test says so."""
    checker = Checker(settings, database, lambda _: Findings())
    checker.show_up()
    return checker


@pytest.fixture
def url(database: Database, database_url: str, settings: Settings) -> Iterator[str]:
    app = create_app(settings.model_copy(update={"database_url": database_url}))
    app.state.notifier = RecordingNotifier()
    with serving(app) as found:
        yield found


def make(database: Database, settings: Settings, status: JobStatus = JobStatus.VALIDATING, **values: Any) -> str:
    """One with a folder."""
    job_id = add_job(database, status, is_temporary=True, **{"created_at": utc_now(), **values})
    write_data(settings.job_dir(job_id) / "data", train={1: chat_parts("q", "a")})
    return job_id


def find(database: Database, job_id: str) -> Job | None:
    with database.reader() as session:
        return session.get(Job, job_id)


def the_only(database: Database) -> Job | None:
    with database.reader() as session:
        return session.query(Job).one_or_none()


@contextmanager
def validating(url: str) -> Iterator[None]:
    """Ask for a validation, and go away at the end of the block, before it is answered."""
    body, place = json.dumps(HUB), urlsplit(url)
    head = f"POST /jobs/validate HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((str(place.hostname), place.port or 0)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        yield


@pytest.mark.usefixtures("checker")
def test_a_client_that_goes_away_while_nobody_checks_leaves_nothing(url: str, database: Database) -> None:
    with validating(url):
        wait_for("the row is there", lambda: the_only(database))

    wait_for("the row is gone", lambda: the_only(database) is None)


def test_a_client_that_goes_away_has_the_check_ended(url: str, database: Database, settings: Settings) -> None:
    has_begun, has_gone = threading.Event(), threading.Event()

    def check(job: Job) -> Findings:
        has_begun.set()
        has_gone.wait(60)
        return Findings()

    with a_checker(settings, database, check):
        with validating(url):
            assert has_begun.wait(30)
        wait_for(
            "the checker is told",
            lambda: (job := the_only(database)) and job.requested_action is RequestedAction.CANCEL,
        )
        has_gone.set()
        wait_for("it has ended", lambda: (job := the_only(database)) and job.status.is_final)


def test_a_check_that_takes_too_long_is_given_up(database: Database, settings: Settings, checker: Checker) -> None:
    temporary_jobs = Validations(database, ANYONE, settings, checker.notifier, longest=timedelta(seconds=0.3))
    job_id = temporary_jobs.start(JobSpec.model_validate(HUB), HUB)

    with pytest.raises(Unavailable, match="not done within") as refusal:
        asyncio.run(temporary_jobs.wait(job_id))
    assert refusal.value.code == "check_takes_too_long"


def test_a_check_waits_on_while_a_checker_holds_it(database: Database, settings: Settings) -> None:
    """Who holds it is watched by the lease of the job, and not by when it was last seen."""
    temporary_jobs = Validations(database, ANYONE, settings, RecordingNotifier(), longest=timedelta(seconds=0.3))
    job_id = temporary_jobs.start(JobSpec.model_validate(HUB), HUB)
    take(database, stage=Stage.CHECK)

    with pytest.raises(Unavailable, match="not done within"):
        asyncio.run(temporary_jobs.wait(job_id))


def test_a_check_that_was_ended_from_outside_has_no_answer(database: Database, settings: Settings) -> None:
    temporary_jobs = Validations(database, ANYONE, settings, RecordingNotifier())
    job_id = make(database, settings, JobStatus.CANCELLED)

    with pytest.raises(Unavailable, match="was cancelled before it was done"):
        temporary_jobs.read(job_id, 3)


def test_an_ended_temporary_job_that_nobody_read_is_swept_with_its_folder(
    database: Database, settings: Settings, checker: Checker
) -> None:
    job_id = make(database, settings, JobStatus.SUCCEEDED, finished_at=utc_now() - 2 * MINUTE)
    Reconciler(checker.context).round()

    assert find(database, job_id) is None
    assert not list((settings.root / "jobs").iterdir())


def test_a_temporary_job_that_has_just_ended_is_left_to_its_request(
    database: Database, settings: Settings, checker: Checker
) -> None:
    job_id = make(database, settings, JobStatus.SUCCEEDED, finished_at=utc_now())
    Reconciler(checker.context).round()

    assert find(database, job_id) is not None
    assert settings.job_dir(job_id).is_dir()


def test_one_of_a_dead_api_is_ended_and_removed(database: Database, settings: Settings, checker: Checker) -> None:
    job_id = make(database, settings, created_at=utc_now() - HOUR - MINUTE)
    Reconciler(checker.context).round()

    assert find(database, job_id) is None
    assert not settings.job_dir(job_id).exists()


def test_one_that_a_checker_holds_is_ended_by_the_checker(database: Database, settings: Settings) -> None:
    job_id = make(database, settings, created_at=utc_now() - HOUR - MINUTE)
    take(database, stage=Stage.CHECK)
    retention.sweep(database, settings)

    job = find(database, job_id)
    assert job is not None
    assert (job.status, job.requested_action) == (JobStatus.VALIDATING, RequestedAction.CANCEL)
    assert settings.job_dir(job_id).is_dir()


@pytest.mark.parametrize("status", [JobStatus.VALIDATING, JobStatus.FAILED, JobStatus.SUCCEEDED])
def test_no_job_of_a_user_is_swept(database: Database, settings: Settings, status: JobStatus) -> None:
    old = utc_now() - 2 * HOUR
    job_id = add_job(database, status, created_at=old, finished_at=old)
    retention.sweep(database, settings)

    assert find(database, job_id) is not None


@pytest.mark.parametrize(
    ("age", "values", "is_in_use"),
    [
        (HOUR, {"is_temporary": False}, True),
        (MINUTE, {"is_temporary": True}, True),
        (HOUR, {"is_temporary": True}, False),
        (MINUTE, {"is_temporary": True, "requested_action": RequestedAction.CANCEL}, False),
        (MINUTE, {"is_temporary": True, "status": JobStatus.FAILED}, False),
    ],
)
def test_a_temporary_job_keeps_its_file_while_somebody_waits_for_it(
    database: Database, age: timedelta, values: dict[str, Any], is_in_use: bool
) -> None:
    add_job(database, **{"status": JobStatus.VALIDATING, "created_at": utc_now() - age, **values})
    with database.reader() as session:
        assert repository.uses_file(session, EVERY_PROJECT, FILE) is is_in_use


def test_two_that_end_the_same_temporary_job_do_no_harm(database: Database, settings: Settings) -> None:
    job_id = make(database, settings)
    for _ in range(2):
        with database.writer() as session:
            retention.end_temporary(session, EVERY_PROJECT, settings, job_id)

    assert find(database, job_id) is None
