"""What fails behind the last step of a training is repeated alone, as often as a job may fail, and ends by its name."""

from collections import Counter
from pathlib import Path

import pytest
from fastapi import FastAPI, Response

from app.database.connection import Database
from app.jobs import repository
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from tests.integration.supervising.test_proving_waits import REFUSAL, answering, silent
from tests.support.jobs import read
from tests.support.published_bundles import children
from tests.support.serving import serving
from tests.support.workers import add_training, outcomes, settings_of, skip_pause, work
from worker.supervising import proving

STEPS = 4
# No more than these: the training itself, and as many repetitions as a job may fail in one place.
ATTEMPTS = 3


BROKEN = answering(Response(REFUSAL % (500, "engine_failed"), 500))


@pytest.mark.parametrize(
    ("labels", "blocked", "engine", "code", "trainers"),
    [
        ({"does": "cannot save"}, False, None, "save_failed", ATTEMPTS),
        ({}, True, None, "publish_failed", 1),
        ({}, True, BROKEN, "publish_failed", 1),
        ({}, False, BROKEN, "engine_failed", 1),
        ({}, False, silent(), "engine_failed", 1),
    ],
    ids=["saving", "publishing", "publishing-to-be-proved", "proving", "proving-without-an-answer"],
)
def test_no_step_is_trained_again(
    database: Database,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    labels: dict[str, str],
    blocked: bool,
    engine: FastAPI | None,
    code: str,
    trainers: int,
) -> None:
    monkeypatch.setattr(proving, "ANSWER_SECONDS", 0.5)
    job_id = add_training(database, steps=STEPS, **labels)
    if blocked:
        home.mkdir()
        (home / "adapters").write_text("in the way")

    with serving(engine or silent()) as url:
        for _ in range(ATTEMPTS):
            skip_pause(database, job_id)
            verify = "engine" if engine else "off"
            work(database, home, max_attempts=ATTEMPTS - 1, verify=verify, engine_url=url)

    job = read(database, job_id)
    assert job.error is not None
    assert (job.status, job.error["category"], job.error["code"]) == (JobStatus.FAILED, "system_error", code)
    assert outcomes(database, job_id) == [code] * ATTEMPTS
    assert children(database, home, job_id) == trainers
    with database.reader() as session:
        kept = repository.checkpoints(session, EVERY_PROJECT, job_id)
        events = repository.events(session, EVERY_PROJECT, job_id, after=0, limit=1000)
    assert Counter(event.payload["step"] for event in events if event.kind == "step") == dict.fromkeys(range(1, 5), 1)
    assert [(home / one.path).is_dir() for one in kept] == [True]
    adapters = settings_of(home).job_dir(job_id).glob("attempts/*/adapter/weights")
    assert len(list(adapters)) == (code != "save_failed")
