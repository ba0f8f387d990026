"""A database that an earlier version filled is migrated, and all that is in it goes on.

`dumps` has what each version left when it was killed: jobs of every status, with their rows and small files.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.contracts.spec import JobSpec
from app.database.connection import Database
from app.database.migrate import check, revision_of, upgrade
from app.jobs.states import JobStatus
from app.jobs.stored import read_plan
from tests.integration.conftest import a_postgres_database
from tests.integration.upgrading.stored_dump import DUMPS, Dump, Row, Snapshot
from tests.support.checks import Checker, Findings
from tests.support.hub import SHA
from tests.support.jobs import read
from tests.support.jobs_api import an_api, hub_body
from tests.support.make_dump import KEY
from tests.support.scripted_engine import ScriptedEngine
from tests.support.waiting import wait_for
from tests.support.workers import (
    QUIET,
    attempts_of,
    check_events,
    claim_next,
    losses,
    outcomes,
    settings_of,
    slot_acquired,
    work,
)
from worker.supervising.lifecycle import take, work_on
from worker.supervising.reconciler import Reconciler

NAMES = sorted(path.stem for path in DUMPS.glob("*.json"))
# What a worker of an earlier version looks for.
CLAIMABLE = "SELECT id FROM jobs WHERE status IN ('validating', 'queued') AND worker IS NULL AND spec_version <= :known"


@dataclass(frozen=True)
class Upgraded:
    """A migrated database, and a home with the files that its rows need."""

    dump: Dump
    url: str
    database: Database
    home: Path

    @contextmanager
    def api(self) -> Iterator[TestClient]:
        with an_api(settings_of(self.home), self.url) as client:
            client.app.state.engine = ScriptedEngine()  # type: ignore[attr-defined]
            yield client

    def rows(self, statement: str, **values: object) -> list[Row]:
        with self.database.reader() as session:
            return [dict(row) for row in session.execute(text(statement), values).mappings()]


@pytest.fixture(scope="module", params=NAMES)
def dump(request: pytest.FixtureRequest) -> Dump:
    return Dump(request.param)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def unfilled_url(request: pytest.FixtureRequest, dump: Dump, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database without tables, one for each dump."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp(dump.name) / 'old.db'}"
    else:
        yield from a_postgres_database()


@pytest.fixture(scope="module")
def migrated_rows(unfilled_url: str, dump: Dump) -> Snapshot:
    upgrade(unfilled_url, dump.revision)
    dump.fill_database(unfilled_url)
    upgrade(unfilled_url)
    return Snapshot(unfilled_url)


@pytest.fixture
def upgraded(unfilled_url: str, migrated_rows: Snapshot, dump: Dump, home: Path) -> Iterator[Upgraded]:
    migrated_rows.restore()
    dump.fill_home(home)
    database = Database.open(unfilled_url)
    yield Upgraded(dump, unfilled_url, database, home)
    database.engine.dispose()


def test_a_filled_database_is_migrated_to_the_schema_of_the_models(upgraded: Upgraded) -> None:
    assert revision_of(upgraded.url) != upgraded.dump.revision
    check(upgraded.url)


def test_every_job_is_listed_and_shown_as_it_was(upgraded: Upgraded) -> None:
    jobs = {job["id"]: job for job in upgraded.dump.jobs}
    with upgraded.api() as api:
        listed = api.get("/jobs", params={"limit": 100}).json()["data"]
        shown = {job_id: api.get(f"/jobs/{job_id}").json() for job_id in jobs}

    assert {job["id"]: job["status"] for job in listed} == {job_id: job["status"] for job_id, job in jobs.items()}
    for job_id, job in shown.items():
        assert job["unreadable"] == []
        for field, column in {"spec": "spec", "resolved_spec": "resolved"}.items():
            assert job[field] == jobs[job_id][column]
        for name in ("name", "project", "labels", "priority", "status"):
            assert job[name] == jobs[job_id][name]
        for name in ("data_report", "result", "error", "adapter_id"):
            assert job[name] == jobs[job_id].get(name)
        assert without_newer_fields(job["progress"]) == jobs[job_id].get("progress")
        assert [one["epoch"] for one in job["attempts"]] == epochs(upgraded.dump.rows_of("attempts", job_id))


def without_newer_fields(document: Row | None) -> Row | None:
    """What this version shows with a default where nothing was stored."""
    return document and {name: value for name, value in document.items() if (name, value) != ("metrics", {})}


def epochs(attempts: list[Row]) -> list[int]:
    return sorted(attempt["epoch"] for attempt in attempts)


def test_every_event_and_every_checkpoint_of_a_job_is_shown(upgraded: Upgraded) -> None:
    with upgraded.api() as api:
        for job in upgraded.dump.jobs:
            events = api.get(f"/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
            checkpoints = api.get(f"/jobs/{job['id']}/checkpoints").json()["data"]
            stored = upgraded.dump.rows_of("job_events", job["id"])
            logged = [row for row in stored if row["kind"] == "step"]
            metrics = api.get(f"/jobs/{job['id']}/metrics").json()["steps"]

            assert [(event["seq"], event["kind"]) for event in events] == [(row["seq"], row["kind"]) for row in stored]
            assert sorted(one["step"] for one in checkpoints) == sorted(
                row["step"] for row in upgraded.dump.rows_of("checkpoints", job["id"])
            )
            assert [point["loss"] for point in metrics] == [row["payload"]["loss"] for row in logged]


def test_a_trained_adapter_is_shown_answers_and_is_an_artifact(upgraded: Upgraded) -> None:
    job, (row,) = upgraded.dump.job("succeeded"), upgraded.dump.rows("adapters")
    with upgraded.api() as api:
        shown = api.get("/adapters").json()["data"]
        answer = api.post("/generate", json={"prompt": "1,", "adapter": job["id"]})
        asked = api.app.state.engine.orders[-1].adapter  # type: ignore[attr-defined]

    assert [(adapter["id"], adapter["version"]) for adapter in shown] == [(job["adapter_id"], row["version"])]
    assert answer.status_code == 200
    assert asked.path == str(upgraded.home / row["path"])
    kept = upgraded.rows("SELECT id, job_id, kind, location, bytes FROM artifacts")
    expected = {"job_id": job["id"], "kind": "adapter", "location": row["path"], "bytes": row["bytes"]}
    assert kept == [{"id": row["id"], **expected}]


def test_a_request_that_is_sent_again_gets_its_first_job(upgraded: Upgraded) -> None:
    (key,) = upgraded.dump.rows("idempotency_keys")
    job = next(job for job in upgraded.dump.jobs if job["id"] == key["job_id"])
    with upgraded.api() as api:
        again = api.post("/jobs", json=job["spec"], headers={"Idempotency-Key": KEY})
        other = api.post("/jobs", json={**job["spec"], "priority": 9}, headers={"Idempotency-Key": KEY})

    assert (again.status_code, again.json()["id"]) == (200, job["id"])
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_spec_of_before_is_understood(upgraded: Upgraded) -> None:
    for job in upgraded.dump.jobs:
        assert read_plan(read(upgraded.database, job["id"])) is not None, job["name"]


def test_jobs_that_wait_are_checked_and_trained(upgraded: Upgraded) -> None:
    checker = Checker(settings_of(upgraded.home), upgraded.database, lambda _: Findings())
    while (unchecked := take(checker.context)) is not None:
        checker.conclude(unchecked)
    work(upgraded.database, upgraded.home)

    waited = [job for job in upgraded.dump.jobs if job["status"] in ("validating", "queued")]
    for job in waited:
        assert read(upgraded.database, job["id"]).status is JobStatus.SUCCEEDED
        assert outcomes(upgraded.database, job["id"]) == ["finished"]
        check_events(upgraded.database, job["id"])
    begun = {job["name"]: attempts_of(upgraded.database, job["id"])[0].resume_step for job in waited}
    assert begun == {"job": 0, "every-group": 0, "of-an-adapter": 0, "of-a-checkpoint": 4}
    check_order(upgraded, upgraded.dump.job("every-group"))


def check_order(upgraded: Upgraded, job: Row) -> None:
    """The trainer was ordered to do all that was asked, on the base that the earlier version had pinned and scaled."""
    attempt = attempts_of(upgraded.database, job["id"])[0].epoch
    folder = settings_of(upgraded.home).job_dir(job["id"]) / "attempts" / str(attempt)
    order = json.loads((folder / "order.json").read_text())

    assert order["base"] == {"source": "org/model", "is_local": False, "revision": SHA, "scaled_to": 128}
    spec = JobSpec.model_validate(job["spec"]).model_dump(mode="json")
    assert (order["spec"]["lora"], order["spec"]["training"]) == (spec["lora"], spec["training"])


def test_a_running_job_is_taken_over_and_goes_on_behind_its_checkpoint(upgraded: Upgraded) -> None:
    job_id, database = upgraded.dump.job("running")["id"], upgraded.database
    with slot_acquired(settings_of(upgraded.home, lease_seconds=1), database) as context:
        reconciler = Reconciler(context)

        def is_taken() -> bool:
            reconciler.round()
            return read(database, job_id).worker is None

        wait_for("its lease is over", is_taken, 10)
    train(upgraded, job_id)

    assert outcomes(database, job_id) == ["worker_lost", "finished"]
    assert attempts_of(database, job_id)[1].resume_step == 4
    assert losses(database, job_id) == QUIET
    check_events(database, job_id)


def test_a_paused_job_is_resumed_behind_its_checkpoint(upgraded: Upgraded) -> None:
    job_id, database = upgraded.dump.job("paused")["id"], upgraded.database
    (saved,) = upgraded.dump.rows_of("checkpoints", job_id)
    with upgraded.api() as api:
        assert api.post(f"/jobs/{job_id}/resume").json()["status"] == "queued"
    train(upgraded, job_id)

    assert outcomes(database, job_id) == ["paused", "finished"]
    assert attempts_of(database, job_id)[1].resume_step == saved["step"]
    assert losses(database, job_id) == QUIET
    check_events(database, job_id)


def train(upgraded: Upgraded, job_id: str) -> None:
    """Run one attempt of the job, before all others that wait."""
    with upgraded.database.writer() as session:
        session.execute(text("UPDATE jobs SET priority = 100 WHERE id = :id"), {"id": job_id})
        session.commit()
    with slot_acquired(settings_of(upgraded.home), upgraded.database) as context:
        work_on(context, claim_next(context))
    assert read(upgraded.database, job_id).status is JobStatus.SUCCEEDED


def test_a_worker_of_the_version_before_takes_its_own_jobs_and_none_of_a_newer_spec(upgraded: Upgraded) -> None:
    """Such a worker may still run beside the API of this version."""
    known = upgraded.dump.spec_version
    with upgraded.api() as api:
        posted = api.post("/jobs", json=hub_body()).json()["id"]
    found = {row["id"] for row in upgraded.rows(CLAIMABLE, known=known)}

    waiting = {job["id"] for job in upgraded.dump.rows("jobs") if job["status"] in ("validating", "queued")}
    assert found == waiting
    assert posted not in found


def test_a_temporary_job_of_before_is_of_the_kind_that_validates(upgraded: Upgraded) -> None:
    kinds = {row["id"]: row["kind"] for row in upgraded.rows("SELECT id, kind FROM jobs")}

    dry = {job["id"] for job in upgraded.dump.rows("jobs") if job["is_dry_run"]}
    assert {job_id for job_id, kind in kinds.items() if kind == "validate"} == dry
