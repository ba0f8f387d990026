"""How the newest attempt at a job started, as a client sees it."""

from datetime import timedelta
from typing import Any

from fastapi.testclient import TestClient

from app.contracts.events import AttemptEvent, StepLogged, TrainingStarted
from app.database.connection import Database
from app.jobs.queue.claims import Claim, finish, record
from app.jobs.states import JobStatus
from tests.support.cli_answers import figures
from tests.support.jobs import NOW, add_job, taken

STARTED = TrainingStarted(
    began_at=NOW + timedelta(seconds=1.5),
    is_warm=True,
    import_seconds=0.1,
    load_seconds=2,
    first_step_seconds=3,
    compile_seconds=None,
)


def tell(database: Database, claim: Claim, *events: AttemptEvent) -> None:
    with database.writer() as session:
        record(session, claim, [StepLogged(**figures(1, 9)), *events], 1)
        session.commit()


def timings(api: TestClient, job_id: str) -> Any:
    answer = api.get(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()["timings"]


def test_a_job_shows_the_parts_of_its_start_from_its_claim_on(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    claim = taken(database)
    tell(database, claim)
    assert timings(api, job_id) is None

    with database.writer() as session:
        record(session, claim, [STARTED], 2)
        session.commit()

    parts = {"import_seconds": 0.1, "load_seconds": 2, "first_step_seconds": 3, "compile_seconds": None}
    assert timings(api, job_id) == {**parts, "is_warm": True, "claim_seconds": 1.5}


def test_an_attempt_does_not_show_how_an_earlier_one_started(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    first = taken(database)
    tell(database, first, STARTED)
    with database.writer() as session:
        finish(session, first, JobStatus.QUEUED, NOW, outcome="worker_stopped", reason=None)
        session.commit()

    tell(database, taken(database))

    assert timings(api, job_id) is None
