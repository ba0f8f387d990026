"""Jobs over HTTP, with a real database and without workers behind."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.contracts.events import RowsChecked
from app.database.connection import Database, utc_now
from app.jobs.models import Worker
from app.jobs.queue.claims import finish, record
from app.jobs.states import JobStatus, Stage
from tests.support.events import a_step
from tests.support.jobs import NOW, add_job, taken

CHATS = [{"conversations": [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": f"a{n}"}]} for n in range(3)]


def upload(api: TestClient, rows: list[Any] = CHATS) -> str:
    body = "\n".join(json.dumps(row) for row in rows).encode()
    answer = api.post("/files", files={"file": ("chats.jsonl", body)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def a_job(api: TestClient, **groups: Any) -> dict[str, Any]:
    return {"model": {"model_name": "org/model"}, "dataset": {"source": {"file": upload(api)}}, **groups}


def test_a_job_is_stored_and_the_checkers_are_rung(api: TestClient) -> None:
    answer = api.post("/jobs", json=a_job(api, name="fib", labels={"team": "a"}))
    job = answer.json()

    assert answer.status_code == 201
    assert (job["status"], job["name"], job["labels"]) == ("validating", "fib", {"team": "a"})
    assert api.app.state.notifier.notified == [Stage.CHECK]  # type: ignore[attr-defined]


def test_a_setting_without_an_effect_is_said_in_the_answer_to_the_post(api: TestClient) -> None:
    training = {"lr_scheduler_type": "constant", "warmup_steps": 3}
    job = api.post("/jobs", json=a_job(api, training=training)).json()

    assert [(notice["code"], notice["field"]) for notice in job["notices"]] == [
        ("warmup_unused", "training.warmup_steps")
    ]


def test_the_spec_is_kept_as_sent_beside_the_one_with_defaults(api: TestClient) -> None:
    job = api.post("/jobs", json=a_job(api, lora={"r": 4})).json()

    assert job["spec"]["lora"] == {"r": 4}
    assert job["resolved_spec"]["lora"]["lora_alpha"] == 16


def test_a_job_that_waits_without_a_worker_says_so(api: TestClient) -> None:
    job = api.post("/jobs", json=a_job(api)).json()

    assert job["queue"]["position"] == 1
    assert "no check worker" in job["queue"]["reason"]


def test_bad_rows_are_named_and_nothing_is_stored(api: TestClient) -> None:
    rows = [CHATS[0], {"conversations": [{"from": "narrator", "value": "x"}, {"from": "gpt", "value": "y"}]}]
    answer = api.post("/jobs", json={**a_job(api), "dataset": {"source": {"file": upload(api, rows)}}})
    problem = answer.json()["error"]["details"][0]

    assert answer.status_code == 422
    assert (problem["record"], problem["line"]) == (2, 2)
    assert "narrator" in problem["found"]
    assert api.get("/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ({"file": "file-" + "a" * 24}, "dataset.source.file"),
        ({"path": "../../../../etc/passwd"}, "dataset.source.path"),
        ({"path": "/etc/passwd"}, "dataset.source.path"),
        ({"path": "/proc/self/environ"}, "dataset.source.path"),
        ({"path": "~/.ssh/id_rsa"}, "dataset.source.path"),
        ({"path": "file:///etc/passwd"}, "dataset.source.path"),
        ({"path": "a\0b"}, "dataset.source.path"),
    ],
)
def test_a_source_that_is_not_there_or_not_allowed_is_refused(
    api: TestClient, source: dict[str, str], field: str
) -> None:
    answer = api.post("/jobs", json={**a_job(api), "dataset": {"source": source}})

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


def test_a_model_that_is_neither_local_nor_of_the_hub_is_refused(api: TestClient) -> None:
    answer = api.post("/jobs", json=a_job(api, model={"model_name": "nothing"}))

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "model.model_name")


def test_what_no_worker_here_can_do_is_refused(api: TestClient, database: Database) -> None:
    cpu = Worker(name="w", stage=Stage.TRAIN, host="h", device="cpu (x)", started_at=NOW, last_seen=utc_now())
    with database.writer() as session:
        session.add(cpu)
        session.commit()
    answer = api.post(
        "/jobs", json=a_job(api, model={"model_name": "org/model", "load_in_4bit": False}, lora={"loftq_config": {}})
    )

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "lora.loftq_config")


def test_a_job_that_is_checked_says_how_far(api: TestClient, database: Database) -> None:
    job_id = add_job(database, JobStatus.VALIDATING)
    claim = taken(database, stage=Stage.CHECK)
    with database.writer() as session:
        record(session, claim, [RowsChecked(source="source", records=9, bytes_read=1, total_bytes=4, seconds=2.0)], 1)
        session.commit()

    shown = [api.get(f"/jobs/{job_id}").json(), api.get("/jobs").json()["data"][0]]
    assert [(job["checking"]["records"], job["checking"]["percent"]) for job in shown] == [(9, 25.0), (9, 25.0)]


def test_jobs_are_listed_newest_first_in_pages(api: TestClient, database: Database) -> None:
    ids = [add_job(database, age=age) for age in range(5)]
    first = api.get("/jobs", params={"limit": 3}).json()
    second = api.get("/jobs", params={"limit": 3, "after": first["last_id"]}).json()

    assert [job["id"] for job in first["data"] + second["data"]] == ids
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_job_that_has_ended_otherwise_cannot_be_cancelled(api: TestClient, database: Database) -> None:
    answer = api.post(f"/jobs/{add_job(database, JobStatus.SUCCEEDED)}/cancel")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_has_ended")


def test_only_an_ended_job_is_deleted(api: TestClient, database: Database) -> None:
    alive, ended = add_job(database), add_job(database, JobStatus.CANCELLED)

    assert api.delete(f"/jobs/{alive}").status_code == 409
    assert api.delete(f"/jobs/{ended}").json()["deleted"] is True
    assert api.get(f"/jobs/{ended}").status_code == 404
    assert api.get(f"/jobs/{alive}").status_code == 200


def a_run(database: Database, steps: int = 3) -> str:
    """A job that logged some steps and succeeded."""
    job_id = add_job(database)
    claim = taken(database)
    logged = [a_step(step, total_steps=steps, epoch=0.5, loss=2.0 / step) for step in range(1, steps + 1)]
    with database.writer() as session:
        record(session, claim, logged, 10)
        finish(session, claim, JobStatus.SUCCEEDED, NOW, outcome="finished", reason=None)
        session.commit()
    return job_id


def test_events_are_read_in_pages_behind_a_number(api: TestClient, database: Database) -> None:
    job_id = a_run(database)
    first = api.get(f"/jobs/{job_id}/events", params={"limit": 4}).json()
    rest = api.get(f"/jobs/{job_id}/events", params={"after": first["data"][-1]["seq"]}).json()

    assert [event["seq"] for event in first["data"] + rest["data"]] == [1, 2, 3, 4, 5, 6]
    assert (first["data"][-1]["epoch"], first["data"][-1]["attempt"]) == (0.5, 1)
    assert rest["data"][-1]["status"] == "succeeded"


def test_metrics_are_one_point_a_logged_step(api: TestClient, database: Database) -> None:
    metrics = api.get(f"/jobs/{a_run(database)}/metrics").json()

    assert [point["step"] for point in metrics["steps"]] == [1, 2, 3]


def test_a_stream_replays_from_the_last_event_seen_and_ends_with_the_job(api: TestClient, database: Database) -> None:
    job_id = a_run(database)
    with api.stream("GET", f"/jobs/{job_id}/stream", headers={"last-event-id": "4"}) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith(("id:", "event:"))]

    assert lines == ["id: 5", "event: step", "id: 6", "event: status"]


@pytest.mark.parametrize("path", ["", "/events", "/stream", "/metrics", "/logs"])
def test_an_unknown_job_is_a_404_everywhere(api: TestClient, path: str) -> None:
    answer = api.get(f"/jobs/job-nothing{path}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_job")


def test_a_file_is_not_deleted_while_a_job_needs_it(api: TestClient) -> None:
    body = a_job(api)
    api.post("/jobs", json=body)

    assert api.delete(f"/files/{body['dataset']['source']['file']}").status_code == 409
