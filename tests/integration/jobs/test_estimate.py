"""An estimate has the check of a job, and says what its training would need on each worker; nothing of it stays."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.events import DataPrepared, MemoryMeasured
from app.contracts.rows import BASE_CARD
from app.contracts.tokens import Bucket, Spread, TokenReport
from app.database.connection import Database, utc_now
from app.jobs import measurements
from app.jobs.models import Job, Worker
from app.jobs.states import Stage
from tests.support.checks import Checker, Findings, a_checker, a_failure
from tests.support.jobs_api import hub_body
from tests.support.shapes import LLAMA_3B, LLAMA_3B_CARD

GIB = 2**30
SPREAD = Spread(
    total=550_000, mean=550.0, p50=500, p90=1200, p99=2000, largest=2048,
    histogram=[Bucket(up_to=512, rows=600), Bucket(up_to=1024, rows=300), Bucket(up_to=2048, rows=100)],
)  # fmt: skip
REPORT = TokenReport(
    rows=1000, tokens=550_000, supervised_tokens=300_000, max_seq_length=2048, longest_row_tokens=2048,
    longest_record=1, mean_row_tokens=550.0, row_tokens=SPREAD, supervised_row_tokens=SPREAD, truncated_rows=0,
    truncated_tokens=0, long_records=[], left_out=[], findings=[], duplicates=0,
)  # fmt: skip
H200, T4, CPU = "NVIDIA H200, 143771 MiB", "Tesla T4, 15360 MiB", "cpu (x86_64)"


@pytest.fixture
def checker(settings: Settings, database: Database) -> Iterator[Checker]:
    """One that finds the rows and the base of a 3B, and refuses a job by the name of `bad`."""

    def check(job: Job) -> Findings:
        if job.name == "bad":
            return a_failure("no_chat_template", "there is none")
        settings.data_dir(job.id).mkdir(parents=True, exist_ok=True)
        if job.name != "old":
            (settings.data_dir(job.id) / BASE_CARD).write_text(LLAMA_3B_CARD.model_dump_json())
        return Findings(events=[DataPrepared(report={"train": REPORT.model_dump(mode="json")})], rows={})

    with a_checker(settings, database, check) as found:
        yield found


def add_workers(database: Database, *devices: str) -> None:
    now = utc_now()
    with database.writer() as session:
        for device in devices:
            session.add(
                Worker(name=device[:9], stage=Stage.TRAIN, host="h", device=device, started_at=now, last_seen=now)
            )
        session.commit()


def estimated(api: TestClient, **groups: Any) -> dict[str, Any]:
    answer = api.post("/jobs/estimate", json=hub_body(**groups))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def on(found: dict[str, Any], device: str) -> dict[str, Any]:
    return next(worker for worker in found["workers"] if worker["device"] == device)


@pytest.mark.usefixtures("checker")
def test_tokens_and_sizes_are_those_of_the_checked_rows(api: TestClient) -> None:
    found = estimated(api, training={"num_train_epochs": 2})

    assert (found["object"], found["valid"], found["workers"]) == ("estimate", True, [])
    assert found["tokens"] == {
        "rows": 1000, "longest_row": 2048, "mean_step": 4400.0, "steps": 250, "total": 1_100_000,
    }  # fmt: skip
    assert found["trained_parameters"] == 24_313_856
    assert found["adapter_bytes"] == 4 * 24_313_856
    assert found["checkpoint_bytes"] == pytest.approx(24_313_856 * (4 + 2 + 8 / 256), abs=2)
    assert 2 * GIB < found["least_memory_bytes"] < found["most_memory_bytes"] < 60 * GIB


@pytest.mark.usefixtures("checker")
def test_each_worker_has_its_own_layout_and_reason(api: TestClient, database: Database) -> None:
    add_workers(database, H200, T4, CPU)

    found = estimated(api, model={"load_in": "auto"}, training={"max_steps": 100})

    large, small, host = on(found, H200), on(found, T4), on(found, CPU)
    assert (large["fits"], large["layout"]["recomputation"], large["layout"]["bits"]) == (True, False, 16)
    assert (small["fits"], small["layout"]["bits"]) == (True, 16)
    assert small["layout"]["micro_batch_tokens"] < large["layout"]["micro_batch_tokens"] or (
        small["layout"]["recomputation"] == "unsloth"
    )
    assert small["memory_with_margin_bytes"] < 15360 * 2**20
    assert 0 < large["seconds"] == pytest.approx(100 * large["step_seconds"])
    assert sum(large["memory"].values()) == pytest.approx(large["memory_bytes"], rel=0.01)
    assert (host["fits"], host["seconds"], host["device_bytes"]) == (None, None, None)


@pytest.mark.usefixtures("checker")
def test_two_gpus_halve_the_time_and_a_worker_of_one_cannot_do_it(api: TestClient, database: Database) -> None:
    add_workers(database, H200, T4)
    alone = on(estimated(api), H200)
    with database.writer() as session:
        session.get_one(Worker, H200[:9]).gpus = 2
        session.commit()

    found = estimated(api, resources={"gpus": 2})

    large, small = on(found, H200), on(found, T4)
    assert large["fits"]
    assert large["step_seconds"] / alone["step_seconds"] == pytest.approx(0.5, rel=0.1)
    assert (small["fits"], "needs 2 GPUs" in small["reason"]) == (False, True)


@pytest.mark.usefixtures("checker")
def test_what_does_not_fit_says_what_would(api: TestClient, database: Database) -> None:
    add_workers(database, T4)

    found = on(estimated(api, model={"full_finetuning": True}, training={"optim": "adamw_torch"}), T4)

    assert not found["fits"]
    assert "a larger card" in found["reason"]


@pytest.mark.usefixtures("checker")
def test_measurements_of_the_same_card_and_shape_correct_the_prediction(api: TestClient, database: Database) -> None:
    add_workers(database, H200, CPU)
    before = estimated(api)
    event = MemoryMeasured(
        shape=LLAMA_3B.key, held_bytes=2 * GIB, predicted_bytes=4 * GIB, measured_bytes=int(4.4 * GIB)
    )
    speed = event.model_copy(update={"measured_bytes": None, "operations_per_second": 1e12})
    with database.writer() as session:
        measurements.store(session, H200[:9], event)
        measurements.store(session, CPU[:9], speed)
        session.commit()

    after = estimated(api)

    assert (on(before, H200)["correction"], on(after, H200)["correction"]) == (1.0, pytest.approx(1.2))
    assert on(after, H200)["memory_bytes"] > on(before, H200)["memory_bytes"]
    assert on(after, CPU)["seconds"] > 0


@pytest.mark.usefixtures("checker")
def test_a_job_whose_check_fails_is_answered_with_the_reason(api: TestClient) -> None:
    found = estimated(api, name="bad")

    assert (found["valid"], found["tokens"], found["error"]["code"]) == (False, None, "no_chat_template")


@pytest.mark.usefixtures("checker")
def test_of_a_base_of_an_unknown_form_the_tokens_are_known(api: TestClient) -> None:
    found = estimated(api, name="old")

    assert found["tokens"]["rows"] == 1000
    assert (found["trained_parameters"], found["adapter_bytes"], found["least_memory_bytes"]) == (None, None, None)


def test_nothing_stays(api: TestClient, checker: Checker, settings: Settings) -> None:
    estimated(api)

    assert len(checker.checked) == 1
    assert not list((settings.root / "jobs").glob("*"))
    assert api.get("/jobs").json()["data"] == []


def test_without_a_checker_it_is_refused(api: TestClient) -> None:
    answer = api.post("/jobs/estimate", json=hub_body())

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_checker")
