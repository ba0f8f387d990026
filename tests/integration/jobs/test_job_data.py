"""What a job learns is shown as its trainer reads it: rows in pages, and one row split by what is trained."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.connection import Database
from app.jobs.states import JobStatus
from tests.support.jobs import add_job
from tests.support.learned_text import (
    END,
    START,
    Parts,
    a_token_report,
    chat_parts,
    left_out,
    tokens_of,
    too_long,
    write_data,
)
from tests.support.specs import FILE, a_body

TRAIN: dict[int, Parts] = {number: chat_parts(f"q{number}", "a" * number) for number in (1, 2, 4, 7, 8)}
EVAL: dict[int, Parts] = {3: chat_parts("q3", "aaa")}
REFUSED = {"record": 5, "line": 5, "field": "messages.0.role", "code": "x", "found": "'x'", "expected": "user"}
SOURCE = {"records": 9, "kept": 8, "dropped": 1, "problem_count": 1, "problems": [REFUSED]}


@pytest.fixture
def job_id(database: Database, settings: Settings) -> str:
    """A job with some of nine records in its rows: 3 is set aside, 5 was refused, 6 and 9 were left out."""
    job_id = add_job(database, data_report={"source": SOURCE})
    data = settings.job_dir(job_id) / "data"
    write_data(data, train=TRAIN, eval=EVAL)
    report = a_token_report(
        left_out=[left_out("nothing_supervised", "no token of it carries loss", 6)], long_records=[too_long(9, 300)]
    )
    (data / "train.json").write_text(report.model_dump_json())
    return job_id


def get(api: TestClient, job_id: str, **asked: Any) -> dict[str, Any]:
    answer: dict[str, Any] = api.get(f"/jobs/{job_id}/data", params=asked).json()
    return answer


def refusal(api: TestClient, job_id: str, **asked: Any) -> tuple[int, str, str]:
    answer = api.get(f"/jobs/{job_id}/data", params=asked)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_rows_are_listed_with_their_counts(api: TestClient, job_id: str) -> None:
    page = get(api, job_id)

    assert (page["split"], page["rows"], page["has_more"]) == ("train", 5, False)
    assert page["data"][1] == {
        "record": 2,
        "tokens": len(tokens_of(TRAIN[2])[0]),
        "supervised_tokens": len("aa") + 1,
        "cut_tokens": 0,
    }


def test_rows_come_in_pages_behind_a_record(api: TestClient, job_id: str) -> None:
    first = get(api, job_id, limit=2)
    second = get(api, job_id, limit=2, after=first["last_record"])
    third = get(api, job_id, limit=2, after=second["last_record"])

    assert [row["record"] for page in (first, second, third) for row in page["data"]] == list(TRAIN)
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]


def test_a_page_behind_the_last_record_is_empty(api: TestClient, job_id: str) -> None:
    page = get(api, job_id, after=8)

    assert (page["data"], page["last_record"], page["has_more"]) == ([], None, False)


def test_a_record_is_shown_as_it_is_learned(api: TestClient, job_id: str) -> None:
    row = get(api, job_id, record=4)

    assert (row["record"], row["split"], row["tokens"]) == (4, "train", len(tokens_of(TRAIN[4])[0]))
    assert row["text"] == f"{START}user\nq4{END}\n{START}assistant\naaaa{END}\n"
    assert [(span["text"], span["trained"]) for span in row["spans"]] == list(TRAIN[4])
    assert [token for span in row["spans"] for token in span["token_ids"]] == tokens_of(TRAIN[4])[0]


def test_a_record_that_was_set_aside_is_found_by_its_number_alone(api: TestClient, job_id: str) -> None:
    assert get(api, job_id, record=3)["split"] == "eval"
    assert get(api, job_id, split="eval")["data"][0]["record"] == 3


@pytest.mark.parametrize(
    ("record", "asked", "reason"),
    [
        (3, {"split": "train"}, "it is one of the eval rows"),
        (4, {"split": "eval"}, "record 4 of the 9 records of dataset.source is not among the eval rows"),
        (5, {}, "messages.0.role was refused, found 'x', expected user"),
        (6, {}, "no token of it carries loss"),
        (9, {}, "it has 300 tokens, and max_seq_length is 64"),
        (10, {}, "there is no record 10: dataset.source has 9 records"),
    ],
)
def test_a_record_without_a_row_is_explained(
    api: TestClient, job_id: str, record: int, asked: dict[str, str], reason: str
) -> None:
    status, code, message = refusal(api, job_id, record=record, **asked)

    assert (status, code) == (404, "unknown_record")
    assert reason in message


def test_records_of_an_evaluation_set_of_its_own_are_asked_for_by_its_name(
    api: TestClient, database: Database, settings: Settings
) -> None:
    body = a_body(dataset={"eval_source": {"file": FILE}})
    job_id = add_job(database, body=body, data_report={"source": SOURCE, "eval_source": {**SOURCE, "records": 3}})
    write_data(settings.job_dir(job_id) / "data", train={1: chat_parts("q", "a")}, eval=EVAL)

    assert get(api, job_id, record=3, split="eval")["record"] == 3
    assert refusal(api, job_id, record=3)[:2] == (404, "unknown_record")
    assert "dataset.eval_source has 3 records" in refusal(api, job_id, record=4, split="eval")[2]


def test_a_job_that_sets_nothing_aside_has_no_eval_rows(
    api: TestClient, database: Database, settings: Settings
) -> None:
    job_id = add_job(database)
    write_data(settings.job_dir(job_id) / "data", train=TRAIN)

    assert refusal(api, job_id, split="eval")[:2] == (404, "unknown_split")
    assert refusal(api, job_id, split="eval", record=1)[:2] == (404, "unknown_split")


@pytest.mark.parametrize("asked", [{}, {"record": 1}])
@pytest.mark.parametrize("status", [JobStatus.VALIDATING, JobStatus.FAILED])
def test_a_job_without_data_says_where_it_is(
    api: TestClient, database: Database, status: JobStatus, asked: dict[str, int]
) -> None:
    found, code, message = refusal(api, add_job(database, status), **asked)

    assert (found, code) == (409, "data_not_ready")
    assert f"is {status.value}" in message


def test_rows_of_a_check_that_is_not_done_are_not_shown(
    api: TestClient, database: Database, settings: Settings
) -> None:
    job_id = add_job(database, JobStatus.VALIDATING)
    write_data(settings.job_dir(job_id) / "data", train=TRAIN)

    assert refusal(api, job_id)[:2] == (409, "data_not_ready")


@pytest.mark.parametrize(
    "asked",
    [{"record": 0}, {"record": 2**31}, {"limit": 0}, {"limit": 1001}, {"split": "test"}, {"record": 1, "after": 0}],
)
def test_what_cannot_be_asked_is_refused(api: TestClient, job_id: str, asked: dict[str, Any]) -> None:
    assert refusal(api, job_id, **asked)[0] == 422


def test_both_forms_are_described(api: TestClient) -> None:
    described = api.get("/openapi.json").json()
    answer = described["paths"]["/jobs/{job_id}/data"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]

    assert {form["$ref"].split("/")[-1] for form in answer["anyOf"]} == {"RowPage", "RowView"}
