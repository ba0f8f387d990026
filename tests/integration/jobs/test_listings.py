"""Lists of jobs and workers: what they can be asked for, and what they do not tell."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from app import __version__
from app.config import Settings
from app.contracts.spec import SPEC_VERSION
from app.database.connection import Database, utc_now
from app.jobs.models import Worker
from app.jobs.queue.claims import job_held_by
from app.jobs.states import JobStatus, Stage
from tests.support.checks import RecordingNotifier
from tests.support.jobs import NOW, add_job, take
from tests.support.jobs_api import error_of
from worker.supervising.context import WorkerContext
from worker.supervising.reconciler import Reconciler
from worker.supervising.slots import Slot


def show_up(database: Database, name: str, stage: Stage = Stage.TRAIN, problem: str | None = None) -> None:
    """What a worker says of itself at every round."""
    with database.writer() as session:
        row = Worker(
            name=name,
            stage=stage,
            host="h",
            device="cpu",
            problem=problem,
            spec_version=SPEC_VERSION,
            job_id=job_held_by(session, name),
            started_at=NOW,
            last_seen=utc_now(),
        )
        session.merge(row)
        session.commit()


def test_a_worker_says_of_which_version_it_is(api: TestClient, database: Database, settings: Settings) -> None:
    slot = Slot.open(settings.slots, "gpu0")
    Reconciler(WorkerContext(settings, database, RecordingNotifier(), Stage.TRAIN, "new", "cpu", slot)).round()
    slot.release()
    show_up(database, "of an older version, which did not say it")

    versions = {worker["name"]: worker["version"] for worker in api.get("/workers").json()["data"]}
    assert versions == {"new": __version__, "of an older version, which did not say it": None}


def listed(api: TestClient, **query: str | int) -> list[str]:
    return [job["id"] for job in api.get("/jobs", params=query).json()["data"]]


def test_jobs_are_listed_by_project_and_status(api: TestClient, database: Database) -> None:
    waiting, failed = add_job(database, project="a", age=1), add_job(database, JobStatus.FAILED, project="a", age=2)
    add_job(database, project="b", age=3)
    add_job(database, project="a", is_temporary=True)

    assert listed(api, project="a") == [waiting, failed]
    assert listed(api, project="a", status="failed") == [failed]
    assert listed(api, project="c") == []
    assert listed(api, project="a", limit=1, after=waiting) == [failed]


@pytest.mark.parametrize("project", ["", "x" * 65, "a\0b", "a b", "../x"])
def test_a_project_that_none_can_be_is_refused(api: TestClient, project: str) -> None:
    answer = api.get("/jobs", params={"project": project})

    assert answer.status_code == 422
    assert error_of(answer)[2] == "project"


def test_the_project_of_a_job_is_shown(api: TestClient, database: Database) -> None:
    add_job(database, project="a")

    assert [job["project"] for job in api.get("/jobs").json()["data"]] == ["a"]


def test_a_dry_run_is_not_named_by_the_worker_that_holds_it(api: TestClient, database: Database) -> None:
    add_job(database, JobStatus.VALIDATING, is_temporary=True)
    job_id = add_job(database)
    for name, stage in (("checker", Stage.CHECK), ("trainer", Stage.TRAIN)):
        assert take(database, name, stage) is not None
        show_up(database, name, stage)
    show_up(database, "idle")

    workers = api.get("/workers").json()["data"]
    assert {worker["name"]: worker["job_id"] for worker in workers} == {
        "checker": None,
        "idle": None,
        "trainer": job_id,
    }


def test_a_worker_says_why_it_takes_no_job(api: TestClient, database: Database) -> None:
    show_up(database, "w", problem="another worker holds the slot gpu0")

    assert api.get("/workers").json()["data"][0]["problem"] == "another worker holds the slot gpu0"


@pytest.mark.parametrize(("ahead", "said"), [(300, "the next may start at"), (10**7, "the next free worker takes it")])
def test_a_job_that_waits_after_a_failure_says_until_when(
    api: TestClient, database: Database, ahead: int, said: str
) -> None:
    """One put off further than any pause was put off by a clock that was set back, and is claimed at once."""
    show_up(database, "w")
    job_id = add_job(database, run_after=utc_now() + timedelta(seconds=ahead))

    assert said in api.get(f"/jobs/{job_id}").json()["queue"]["reason"]
