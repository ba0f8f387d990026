"""A validation checks all that a job's check does, answers what it found, and leaves nothing behind."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.events import DataPrepared, Noticed, SpecPinned
from app.database.connection import Database
from app.jobs.models import Job
from app.jobs.states import JobStatus, Stage
from tests.support.checks import Checker, Findings, a_checker, a_failure
from tests.support.jobs import add_job
from tests.support.learned_text import chat_parts

FOUND = Findings(
    events=[
        SpecPinned(values={"model.max_seq_length": 64}),
        Noticed(code="context_extended", message="longer than the model knows", field="model.max_seq_length"),
        DataPrepared(report={"source": {"records": 3}}),
    ],
    rows={number: chat_parts(f"q{number}", f"a{number}") for number in range(1, 6)},
)


@pytest.fixture
def checker(settings: Settings, database: Database) -> Iterator[Checker]:
    """One that finds every job valid, but one by the name of `bad`."""

    def check(job: Job) -> Findings:
        return a_failure("no_chat_template", "there is none") if job.name == "bad" else FOUND

    with a_checker(settings, database, check) as found:
        yield found


def a_body(**groups: Any) -> dict[str, Any]:
    """A job on a hub dataset, whose form only the checker sees."""
    source = {"hub": "org/chats"}
    return {"model": {"model_name": "org/model"}, "dataset": {"source": source}, **groups}


def validate(api: TestClient, body: dict[str, Any], **asked: Any) -> dict[str, Any]:
    answer = api.post("/jobs/validate", json=body, params=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.usefixtures("checker")
def test_a_valid_job_is_answered_with_all_that_its_check_found(api: TestClient) -> None:
    found = validate(api, a_body(name="fine"))

    assert (found["object"], found["valid"], found["error"]) == ("validation", True, None)
    assert found["resolved_spec"]["model"]["max_seq_length"] == 64
    assert found["data_report"] == {"source": {"records": 3}}
    assert [notice["code"] for notice in found["notices"]] == ["context_extended"]


@pytest.mark.usefixtures("checker")
@pytest.mark.parametrize(
    ("asked", "records"), [({}, [1, 2, 3]), ({"preview": 0}, []), ({"preview": 20}, [1, 2, 3, 4, 5])]
)
def test_the_first_rows_are_previewed(api: TestClient, asked: dict[str, int], records: list[int]) -> None:
    rows = validate(api, a_body(), **asked)["preview"]

    assert [row["record"] for row in rows] == records
    assert all(row["spans"][1] == {**row["spans"][1], "text": f"a{row['record']}<|im_end|>"} for row in rows)


@pytest.mark.usefixtures("checker")
def test_what_a_check_refuses_is_no_error_of_the_request(api: TestClient) -> None:
    found = validate(api, a_body(name="bad"))

    assert (found["valid"], found["preview"]) == (False, [])
    assert (found["error"]["category"], found["error"]["code"]) == ("user_error", "no_chat_template")


@pytest.mark.parametrize("name", ["fine", "bad"])
def test_nothing_stays_and_nothing_is_trained(
    api: TestClient, checker: Checker, settings: Settings, database: Database, name: str
) -> None:
    validate(api, a_body(name=name))

    (job_id,) = checker.checked
    assert not list((settings.root / "jobs").glob("*"))
    assert api.app.state.notifier.notified == [Stage.CHECK]  # type: ignore[attr-defined]
    assert checker.notifier.notified == []
    with database.reader() as session:
        assert session.get(Job, job_id) is None


def test_validations_at_the_same_time_keep_to_themselves(api: TestClient, checker: Checker) -> None:
    names = ["fine", "bad", "good", "bad"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: validate(api, a_body(name=name)), names))

    assert [each["valid"] for each in found] == [True, False, True, False]
    assert [each["resolved_spec"]["name"] for each in found] == names
    assert len(checker.checked) == 4


@pytest.mark.parametrize(
    "body",
    [
        a_body(lora={"lora_r": 4}),
        a_body(dataset={"source": {"file": "file-" + "a" * 24}}),
        a_body(model={"model_name": "nothing"}),
        [],
    ],
)
def test_what_a_submit_refuses_is_refused_in_the_same_words(api: TestClient, body: Any) -> None:
    answers = [api.post(path, json=body, headers={"x-request-id": "same"}) for path in ("/jobs", "/jobs/validate")]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert answers[0].json() == answers[1].json()


def test_rows_of_a_wrong_form_are_refused_before_a_checker_is_asked(api: TestClient) -> None:
    rows = b"\n".join(json.dumps(row).encode() for row in ({"text": "fine"}, {"text": 12}))
    file_id = api.post("/files", files={"file": ("rows.jsonl", rows)}).json()["id"]
    answer = api.post("/jobs/validate", json=a_body(dataset={"source": {"file": file_id}}))

    assert (answer.status_code, answer.json()["error"]["details"][0]["record"]) == (422, 2)


def test_more_rows_than_twenty_are_refused(api: TestClient) -> None:
    assert api.post("/jobs/validate", json=a_body(), params={"preview": 21}).status_code == 422


def test_without_a_checker_it_is_said_when_to_ask_again(api: TestClient, database: Database) -> None:
    answer = api.post("/jobs/validate", json=a_body())

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_checker")
    assert int(answer.headers["retry-after"]) > 0
    with database.reader() as session:
        assert session.query(Job).count() == 0


@pytest.mark.parametrize("path", ["", "/events", "/stream", "/metrics", "/logs", "/data"])
def test_a_temporary_job_is_no_job_to_anybody(api: TestClient, database: Database, path: str) -> None:
    hidden = add_job(database, JobStatus.VALIDATING, is_temporary=True)

    assert api.get(f"/jobs/{hidden}{path}").status_code == 404
    assert api.get("/jobs").json()["data"] == []
    assert api.post(f"/jobs/{hidden}/cancel").status_code == 404
    assert api.delete(f"/jobs/{hidden}").status_code == 404
    assert api.get("/jobs", params={"after": hidden}).status_code == 422


def test_a_job_waits_behind_no_temporary_job(api: TestClient, database: Database) -> None:
    add_job(database, JobStatus.VALIDATING, age=60, is_temporary=True)
    job_id = add_job(database, JobStatus.VALIDATING)

    assert api.get(f"/jobs/{job_id}").json()["queue"]["position"] == 1
