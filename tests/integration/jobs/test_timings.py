"""How the newest attempt at a job started, as a client sees it."""

from datetime import timedelta
from typing import Any

from fastapi.testclient import TestClient

from app.contracts.events import AttemptEvent, Phase, PhaseStarted, StepLogged, TrainingStarted
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


def in_phase(phase: Phase, seconds: float) -> PhaseStarted:
    return PhaseStarted(phase=phase, at=NOW + timedelta(seconds=seconds))


def test_each_phase_of_an_attempt_is_told_once_with_all_its_seconds(api: TestClient, database: Database) -> None:
    job_id = add_job(database)
    claim = taken(database)
    began = [(Phase.LOAD, 0), (Phase.TRAIN, 4), (Phase.EVAL, 10), (Phase.TRAIN, 11), (Phase.SAVE, 20)]
    tell(database, claim, *[in_phase(phase, at) for phase, at in began])
    with database.writer() as session:
        finish(session, claim, JobStatus.QUEUED, NOW + timedelta(seconds=25), outcome="worker_stopped", reason=None)
        session.commit()
    tell(database, taken(database), in_phase(Phase.LOAD, 30))

    found = api.get(f"/jobs/{job_id}/phases").json()["data"]
    assert [(one["attempt"], one["phase"], one["seconds"], one["times"]) for one in found[:4]] == [
        (1, "load", 4, 1),
        (1, "train", 15, 2),
        (1, "eval", 1, 1),
        (1, "save", 5, 1),
    ]
    assert [(one["attempt"], one["phase"], one["is_under_way"]) for one in found[4:]] == [(2, "load", True)]
