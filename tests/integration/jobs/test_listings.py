"""Lists of jobs and workers: what they can be asked for, and what they do not tell."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app import __version__
from app.config import Settings
from app.contracts.spec import SPEC_VERSION
from app.database.connection import Database, utc_now
from app.jobs import listing
from app.jobs.models import JobLabel, Worker
from app.jobs.queue.claims import job_held_by
from app.jobs.states import JobStatus, Stage
from tests.support.checks import RecordingNotifier
from tests.support.jobs import NOW, add_job, take
from tests.support.jobs_api import error_of
from tests.support.specs import a_body
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


def listed(api: TestClient, **query: str | int | list[str]) -> list[str]:
    return [job["id"] for job in api.get("/jobs", params=query).json()["data"]]


def test_jobs_are_listed_by_project_and_status(api: TestClient, database: Database) -> None:
    waiting, failed = add_job(database, project="a", age=1), add_job(database, JobStatus.FAILED, project="a", age=2)
    add_job(database, project="b", age=3)
    add_job(database, project="a", is_temporary=True)

    assert listed(api, project="a") == [waiting, failed]
    assert listed(api, project="a", status="failed") == [failed]
    assert listed(api, project="c") == []
    assert listed(api, project="a", limit=1, after=waiting) == [failed]


def test_jobs_are_listed_by_their_labels(api: TestClient, database: Database) -> None:
    both, one = add_job(database, labels={"team": "a", "x=y": "1"}), add_job(database, labels={"team": "a"}, age=1)
    add_job(database, labels={"team": "A"})
    add_job(database, labels={"team": "a"}, is_temporary=True)
    failed = add_job(database, JobStatus.FAILED, labels={"team": "a", "run": "k=v"}, project="p", age=2)

    assert listed(api, label="team=a") == [both, one, failed]
    assert listed(api, label=["team=a", "run=k=v"]) == [failed]
    assert listed(api, label="team=a", status="failed", project="p") == listed(api, label="run=k=v") == [failed]
    assert listed(api, label="team=a", status="queued") == [both, one]
    assert listed(api, label="team=a", after=both, limit=1) == [one]
    assert listed(api, label="team=") == listed(api, label=["team=a", "team=A"]) == []


def test_a_label_is_gone_with_its_job(api: TestClient, database: Database) -> None:
    job_id = add_job(database, JobStatus.FAILED, labels={"team": "a"})
    api.delete(f"/jobs/{job_id}")

    with database.reader() as session:
        assert session.scalars(select(JobLabel.job_id)).all() == []


def test_a_text_is_found_in_names_ids_and_values_of_labels_in_any_case(api: TestClient, database: Database) -> None:
    named, labelled = add_job(database, name="Fib-1"), add_job(database, labels={"owner": "Ülli_%"}, age=1)

    assert listed(api, text="fIB") == [named]
    assert listed(api, text="üLLI_") == listed(api, text="%") == listed(api, text=labelled.upper()) == [labelled]
    assert listed(api, text="owner") == listed(api, text="fib", status="failed") == []


def test_a_search_of_many_jobs_goes_on_where_it_stopped(
    api: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_SEARCHED", 6)
    monkeypatch.setattr(listing, "SEARCHED_AT_ONCE", 2)
    sought = [add_job(database, name="sought" if age in (1, 9, 19) else "other", age=age) for age in range(20)]
    pages: list[Any] = []
    after: dict[str, str] = {}
    while not pages or pages[-1]["has_more"]:
        pages.append(api.get("/jobs", params={"text": "SOUGHT", "limit": 1, **after}).json())
        after = {"after": pages[-1]["last_id"]}

    assert [job["id"] for page in pages for job in page["data"]] == [sought[1], sought[9], sought[19]]
    assert [] in [page["data"] for page in pages]


@pytest.mark.parametrize(
    "wrong", [{"label": "team"}, {"label": "=a"}, {"label": "a=\0"}, {"text": ""}, {"text": "\0"}, {"text": "x" * 201}]
)
def test_a_filter_that_no_job_can_fit_is_refused(api: TestClient, wrong: dict[str, str]) -> None:
    answer = api.get("/jobs", params=wrong)

    assert answer.status_code == 422
    assert str(error_of(answer)[2]).removesuffix(".0") == next(iter(wrong))


def test_jobs_are_counted_by_status_without_temporary_jobs(api: TestClient, database: Database) -> None:
    for project in ("a", "b"):
        add_job(database, project=project)
        add_job(database, JobStatus.FAILED, project=project)
    add_job(database, JobStatus.FAILED, project="a", is_temporary=True)
    add_job(database, JobStatus.CANCELLED, project="b", is_temporary=True)

    others = dict.fromkeys(("validating", "running", "paused", "succeeded", "cancelled"), 0)
    assert api.get("/jobs/counts").json()["counts"] == {**others, "queued": 2, "failed": 2}
    assert api.get("/jobs/counts?project=a").json()["counts"] == {**others, "queued": 1, "failed": 1}


def test_jobs_are_counted_up_to_a_number(api: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_COUNTED", 2)
    for is_temporary in (False, False, False, True):
        add_job(database, is_temporary=is_temporary)
    found = api.get("/jobs/counts").json()

    assert (found["counts"]["queued"], found["counted_up_to"]) == (2, 2)


@pytest.mark.parametrize("project", ["", "x" * 65, "a\0b", "a b", "../x"])
def test_a_project_that_none_can_be_is_refused(api: TestClient, project: str) -> None:
    answer = api.get("/jobs", params={"project": project})

    assert answer.status_code == 422
    assert error_of(answer)[2] == "project"


def test_the_project_of_a_job_is_shown(api: TestClient, database: Database) -> None:
    add_job(database, project="a")

    assert [job["project"] for job in api.get("/jobs").json()["data"]] == ["a"]


def test_a_list_shows_the_model_of_a_job_and_who_made_it(api: TestClient, database: Database) -> None:
    add_job(database, body=a_body(model={"model_name": "org/tiny"}), created_by="jane", age=1)
    add_job(database, sent={"model": "of another version"}, age=2)

    shown = [(job["model"], job["created_by"]) for job in api.get("/jobs").json()["data"]]
    assert shown == [("org/tiny", "jane"), (None, None)]


def test_a_temporary_job_is_not_named_by_the_worker_that_holds_it(api: TestClient, database: Database) -> None:
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
