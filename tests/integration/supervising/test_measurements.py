"""What trainings measured is stored by device and shape, and corrects the orders of later trainings."""

import json
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.contracts.events import MemoryMeasured, SpecPinned
from app.contracts.layout_choice import LARGEST_CORRECTION
from app.contracts.order import TrainingOrder
from app.contracts.rows import BASE_CARD
from app.database.connection import Database, utc_now
from app.jobs.measurements import KEPT, Measured, measured, store
from app.jobs.models import TrainingMeasurement, Worker
from app.jobs.queue.claims import record
from app.jobs.states import JobStatus, Stage
from tests.integration.supervising.test_takeover import lose
from tests.support.jobs import add_job, read
from tests.support.shapes import TINY_CARD
from tests.support.specs import a_body
from tests.support.workers import add_training, claim_next, settings_of, slot_acquired, work
from worker.supervising.lifecycle import run_until_idle

GIB = 2**30
SHAPE = "64x128x2x600x4x2x16"


def an_event(measured_gib: float | None = None, rate: float | None = None) -> MemoryMeasured:
    peak = None if measured_gib is None else int(measured_gib * GIB)
    return MemoryMeasured(
        shape=SHAPE, held_bytes=2 * GIB, predicted_bytes=4 * GIB, measured_bytes=peak, operations_per_second=rate
    )


@pytest.fixture
def worker(database: Database) -> str:
    with database.writer() as session:
        now = utc_now()
        session.add(Worker(name="w", stage=Stage.TRAIN, host="h", device="card", started_at=now, last_seen=now))
        session.commit()
    return "w"


def after(database: Database, worker: str, *events: MemoryMeasured) -> Measured:
    with database.writer() as session:
        for event in events:
            store(session, worker, event)
        session.commit()
        return measured(session, "card", SHAPE)


def test_the_newest_measurements_correct_what_grows_with_the_tokens(database: Database, worker: str) -> None:
    assert after(database, worker) == Measured(1.0, None)
    assert after(database, worker, an_event(4.4), an_event(4.6), an_event(3.8)).correction == pytest.approx(1.2, 0.01)
    assert after(database, worker, *[an_event(3.9)] * 5).correction == pytest.approx(0.95, 0.01)


def test_a_correction_is_bounded_and_speeds_are_kept_apart(database: Database, worker: str) -> None:
    assert after(database, worker, an_event(40), an_event(None, 3e14)) == Measured(LARGEST_CORRECTION, 3e14)
    with database.reader() as session:
        assert measured(session, "another card", SHAPE) == Measured()
        assert measured(session, "card", "another shape") == Measured()


def test_few_measurements_are_kept(database: Database, worker: str) -> None:
    after(database, worker, *[an_event(4.0)] * (KEPT + 5))

    with database.reader() as session:
        assert session.scalar(select(func.count()).select_from(TrainingMeasurement)) == KEPT


def test_a_measurement_of_one_training_is_in_the_order_of_the_next(database: Database, home: Path) -> None:
    job_ids, settings = {add_training(database), add_training(database)}, settings_of(home)
    for job_id in job_ids:
        settings.data_dir(job_id).mkdir(parents=True)
        (settings.data_dir(job_id) / BASE_CARD).write_text(TINY_CARD.model_dump_json())
    with slot_acquired(settings, database) as context:
        taken = claim_next(context)
        with database.writer() as session:
            record(session, taken.held, [an_event(4.4), an_event(None, 5e13)], 10)
            session.commit()
        lose(database, taken.job.id)
        run_until_idle(context)

    (other,) = job_ids - {taken.job.id}
    order = json.loads((settings.job_dir(other) / "attempts" / "1" / "order.json").read_text())
    assert order["memory_correction"] == pytest.approx(1.2, 0.01)
    assert order["operations_per_second"] == 5e13
    assert TrainingOrder.model_validate(order).card == TINY_CARD


def test_a_precision_that_an_attempt_has_chosen_is_that_of_the_next_one(database: Database, home: Path) -> None:
    """Even if no worker has stored the choice before the next attempt was claimed."""
    job_id = add_job(database, body=a_body(model={"load_in": "auto"}))
    with slot_acquired(settings_of(home), database) as context:
        folder = context.settings.job_dir(job_id) / "attempts" / "1"
        taken = claim_next(context)
        assert taken.plan.model.load_in == "auto"
        folder.mkdir(parents=True)
        chosen = SpecPinned(values={"model.load_in": None, "model.load_in_4bit": True})
        (folder / "events.jsonl").write_text(chosen.model_dump_json() + "\n")
        lose(database, job_id)
        run_until_idle(context)

    order = json.loads((folder.with_name("3") / "order.json").read_text())
    assert (order["spec"]["model"]["load_in"], order["spec"]["model"]["load_in_4bit"]) == (None, True)
    assert read(database, job_id).plan["model"]["load_in_4bit"] is True


def test_a_job_of_an_older_version_has_no_card_and_is_trained(database: Database, home: Path) -> None:
    job_id = add_training(database)

    work(database, home)

    assert read(database, job_id).status is JobStatus.SUCCEEDED
