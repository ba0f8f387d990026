"""What a worker does while an engine is busy, stops, breaks or is silent: a finished training is lost to none of it.

The engine's part is played by a server that answers by script; what is in the bundle makes no difference to it.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy.orm import Session

from app.adapters.schemas import AdapterView
from app.contracts.probe import Proof, ProofOrder
from app.contracts.variant import BaseVariant
from app.database.connection import Database
from app.generate.targets import find_target
from app.jobs import lineage as adapters
from app.jobs.models import Job
from app.jobs.queue import termination
from app.jobs.queue.attempts import DEATHS_A_FAULT
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT, Scope
from tests.support.jobs import read
from tests.support.published_bundles import BRINGING, bring, children, placed
from tests.support.serving import serving
from tests.support.waiting import wait_for
from tests.support.workers import add_training, at_work, outcomes, settings_of, skip_pause, slot_acquired, tell, work

REFUSAL = '{"status": %d, "code": "%s", "message": "not now"}'


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What every training of these tests leaves."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "adapter_config.json").write_text("{}")
    bring(monkeypatch, tmp_path / "bundle", Path("/base"))
    return tmp_path / "bundle"


def answering(*answers: Response) -> FastAPI:
    """An engine that answers so, one after the other, the last one for ever; none: it never does."""
    app, left = FastAPI(), list(answers)

    @app.post("/prove")
    async def prove(order: ProofOrder) -> Response:
        return left.pop(0) if len(left) > 1 else left[0]

    return app


def silent() -> FastAPI:
    app = FastAPI()

    @app.post("/prove")
    async def prove(order: ProofOrder, request: Request) -> Response:
        while not await request.is_disconnected():
            await asyncio.sleep(0.05)
        return Response()

    return app


@pytest.mark.parametrize(
    ("answers", "status", "outcome"),
    [
        ([(503, "engine_stopping"), (200, "")], JobStatus.SUCCEEDED, "finished"),
        ([(429, "engine_busy")], JobStatus.QUEUED, "engine_unavailable"),
        ([(503, "model_unavailable")], JobStatus.QUEUED, "engine_unavailable"),
        ([(502, "model_unavailable")], JobStatus.QUEUED, "model_unavailable"),
        ([(503, "engine_out_of_memory")], JobStatus.QUEUED, "engine_out_of_memory"),
        ([(504, "engine_stalled")], JobStatus.QUEUED, "engine_failed"),
        ([(500, "engine_failed")], JobStatus.QUEUED, "engine_failed"),
        ([(404, "model_unavailable")], JobStatus.QUEUED, "model_unavailable"),
    ],
)
def test_each_answer_of_an_engine_has_its_consequence(
    database: Database,
    home: Path,
    answers: list[tuple[int, str]],
    status: JobStatus,
    outcome: str,
) -> None:
    proved = Proof(proved=True).model_dump_json()
    scripted = [Response(REFUSAL % each if each[0] != 200 else proved, each[0]) for each in answers]
    job_id = add_training(database)

    with serving(answering(*scripted)) as url:
        work(database, home, engine_url=url, **BRINGING)

    job = read(database, job_id)
    assert (job.status, outcomes(database, job_id)) == (status, [outcome])
    assert len(placed(home)) == (status is JobStatus.SUCCEEDED)


@pytest.mark.parametrize(
    ("status", "code"), [(404, "model_unavailable"), (502, "model_unavailable"), (503, "engine_out_of_memory")]
)
def test_a_base_that_the_engine_can_never_load_fails_the_job_and_keeps_what_was_trained(
    database: Database, home: Path, status: int, code: str
) -> None:
    job_id = add_training(database)

    with serving(answering(Response(REFUSAL % (status, code), status))) as url:
        for _ in range(3):
            skip_pause(database, job_id)
            work(database, home, engine_url=url, **BRINGING)

    job = read(database, job_id)
    assert (job.status, outcomes(database, job_id)) == (JobStatus.FAILED, [code] * 3)
    assert job.error is not None
    assert (job.error["category"], job.error["message"]) == (
        "system_error",
        "the engine could not verify the adapter: not now",
    )
    assert children(database, home, job_id) == 1
    assert len(list(settings_of(home).job_dir(job_id).glob("attempts/1/adapter"))) == 1
    assert placed(home) == []


def test_the_form_of_the_base_that_was_proved_is_kept_and_asked_for_from_then_on(
    database: Database, home: Path
) -> None:
    variant = BaseVariant(name="dequant-nf4", is_nested=True, kept=("lm_head",))
    proved = Proof(proved=True, base_variant=variant).model_dump_json()
    job_id = add_training(database)

    with serving(answering(Response(proved))) as url:
        work(database, home, engine_url=url, **BRINGING)

    with database.reader() as session:
        target = find_target(session, EVERY_PROJECT, settings_of(home), job_id, "adapter")
        shown = AdapterView.model_validate(adapters.find(session, EVERY_PROJECT, job_id))
    assert target.adapter is not None
    assert target.adapter.base_variant == shown.base_variant == variant


@contextmanager
def dying() -> Iterator[str]:
    """An engine that takes the question and is gone."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def take() -> None:
            with suppress(OSError):  # the door is closed
                while True:
                    guest, _ = door.accept()
                    guest.recv(1)
                    guest.close()

        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        door.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_an_engine_that_dies_of_the_proof_every_time_fails_the_job(database: Database, home: Path) -> None:
    job_id = add_training(database)

    with dying() as url:
        for _ in range(1 + 2 * DEATHS_A_FAULT):
            skip_pause(database, job_id)
            work(database, home, engine_url=url, **BRINGING)
            if read(database, job_id).status is JobStatus.FAILED:
                break

    job = read(database, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (JobStatus.FAILED, "engine_died")
    assert set(outcomes(database, job_id)) == {"engine_died"}
    assert len(outcomes(database, job_id)) > DEATHS_A_FAULT
    assert children(database, home, job_id) == 1
    assert placed(home) == []


@pytest.mark.parametrize(
    ("wish", "status"), [(termination.end, JobStatus.CANCELLED), (termination.pause, JobStatus.PAUSED)]
)
def test_wishes_are_heard_while_the_engine_is_waited_for(
    database: Database,
    home: Path,
    wish: Callable[[Session, Scope, str], object],
    status: JobStatus,
) -> None:
    job_id = add_training(database)

    def verifying() -> Job | None:
        job = read(database, job_id)
        return job if job.phase == "verify" else None

    with (
        serving(silent()) as url,
        slot_acquired(settings_of(home, engine_url=url, **BRINGING), database) as context,
        at_work(context),
    ):
        heartbeats = wait_for("the proof is asked for", verifying, 60).heartbeats
        wait_for("heartbeats go on", lambda: read(database, job_id).heartbeats > heartbeats + 2, 30)
        tell(database, wish, job_id)
        wait_for("it is heard", lambda: read(database, job_id).status is status, 30)

    assert placed(home) == []
    assert children(database, home, job_id) == 1


def test_without_an_engine_adapters_are_published_unproved(database: Database, home: Path) -> None:
    job_id = add_training(database)

    work(database, home, **{**BRINGING, "verify": "off"})

    job = read(database, job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert job.result is not None
    assert job.result["verification"] is None
