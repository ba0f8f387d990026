"""A training on several GPUs gets all that it needs, or waits: its worker locks the slots of further GPUs."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.contracts.order import TrainingOrder
from app.database.connection import Database, utc_now
from app.jobs.models import Worker
from app.jobs.queue.claims import record_worker
from app.jobs.states import JobStatus, Stage
from app.jobs.views.logs import attempt_dir
from tests.support.gpus import pretend_gpu
from tests.support.jobs import add_job, read
from tests.support.specs import a_body
from tests.support.workers import a_context, reached_step, settings_of
from worker.hardware import find_slots
from worker.supervising.context import WorkerContext
from worker.supervising.further_gpus import FurtherGpus
from worker.supervising.lifecycle import run_until_idle, take
from worker.supervising.orders import ORDER_NAME
from worker.supervising.reconciler import Reconciler
from worker.supervising.slots import Slot


def add_training_on(database: Database, gpus: int, **values: Any) -> str:
    return add_job(database, body={**a_body(), "resources": {"gpus": gpus}}, **values)


@pytest.fixture
def context(home: Path, database: Database) -> WorkerContext:
    """A worker of the first of three GPUs."""
    context = a_context(settings_of(home), database)
    further = context.further_gpus
    further.own, further.names = "0", ["1", "2"]
    further.slots = [Slot.open(context.settings.slots, name) for name in ("gpu1", "gpu2")]
    Reconciler(context).round()
    assert context.slot_acquired.is_set()
    return context


def locks_of(context: WorkerContext) -> list[bool]:
    return [slot.is_held for slot in context.further_gpus.slots]


def test_a_claim_takes_as_many_gpus_as_its_job_needs(database: Database, context: WorkerContext) -> None:
    add_training_on(database, 2)

    with context.further_gpus.locked():
        taken = take(context)

        assert taken is not None
        assert (locks_of(context), context.further_gpus.devices) == ([True, False], ("0", "1"))
    assert locks_of(context) == [False, False]


def test_gpus_in_use_are_left_out_and_a_job_that_needs_more_than_are_free_waits(
    database: Database, context: WorkerContext
) -> None:
    large, small = add_training_on(database, 3, priority=9), add_training_on(database, 2)
    with Slot.open(context.settings.slots, "gpu1") as other:
        assert other.try_lock()

        with context.further_gpus.locked():
            taken = take(context)

            assert (taken and taken.held.job_id, context.further_gpus.devices) == (small, ("0", "2"))
    assert read(database, large).status is JobStatus.QUEUED


def test_a_worker_of_one_gpu_leaves_larger_jobs_to_others(home: Path, database: Database) -> None:
    context = a_context(settings_of(home), database)
    add_training_on(database, 2)

    with context.further_gpus.locked():
        assert take(context) is None


def test_the_processes_of_a_training_hold_all_its_gpus_until_it_has_ended(
    database: Database, context: WorkerContext
) -> None:
    body = {**a_body(), "labels": {"steps": "3"}, "resources": {"gpus": 2}}
    job_id = add_job(database, body=body)

    run_until_idle(context)

    reached_step(database, job_id, 3)
    order = attempt_dir(context.settings.job_dir(job_id), 1) / ORDER_NAME
    written = TrainingOrder.model_validate_json(order.read_text())
    assert (written.ranks, written.devices) == (2, ("0", "1"))
    with Slot.open(context.settings.slots, "gpu1") as other:
        assert other.try_lock()


def test_a_job_that_no_worker_has_gpus_for_is_refused_and_one_that_waits_says_why(
    api: TestClient, database: Database
) -> None:
    job_id = add_training_on(database, 4)
    with database.writer() as session:
        now = utc_now()
        worker = Worker(name="w", stage=Stage.TRAIN, host="h", device="d", gpus=2, started_at=now, last_seen=now)
        record_worker(session, worker)
        session.commit()

    shown, refused = api.get(f"/jobs/{job_id}").json(), api.post("/jobs", json={**a_body(), "resources": {"gpus": 3}})

    assert shown["queue"]["reason"] == "it needs 4 GPUs of one host, and no present worker has more than 2"
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "resources.gpus")
    assert "at most 2" in refused.json()["error"]["message"]


def test_slots_are_all_visible_gpus_the_own_one_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pretend_gpu(tmp_path, monkeypatch, "GPU-a\nGPU-b")
    assert find_slots() == {"GPU-a": "GPU-a", "GPU-b": "GPU-b"}

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    pretend_gpu(tmp_path, monkeypatch, "GPU-d")
    assert find_slots() == {"3": "GPU-d"}

    pretend_gpu(tmp_path, monkeypatch, "")
    assert find_slots() == {"cpu": "cpu"}


def test_nothing_is_locked_without_further_gpus() -> None:
    alone = FurtherGpus("0")

    with alone.locked():
        assert (alone.held, alone.descriptors, alone.devices) == (0, [], ())
