"""Feedback on answers: kept as rows of a dataset, and written as files that the next job takes."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.database.connection import Database
from app.feedback import repository, service
from app.feedback.models import Feedback, Rating
from app.feedback.schemas import MOST_CHARACTERS, MOST_MESSAGES
from app.ids import new_id
from app.scope import Scope
from tests.support.jobs import NOW
from tests.support.jobs_api import error_of, hub_body
from tests.support.many_jobs import jobs_read, statements

QUESTION = [{"role": "user", "content": "q"}]
TURNS = [*QUESTION, {"role": "assistant", "content": "first"}, {"role": "user", "content": "and then?"}]
HOSTILE = "<script>alert(1)</script> '; DROP TABLE feedback; -- \u2028 😀"


def give(api: TestClient, **fields: Any) -> Any:
    body = {"messages": QUESTION, "answer": "a", "model": "org/model", "rating": "up", **fields}
    return api.post("/feedback", json=body)


def rows_of(api: TestClient, file: Any) -> list[Any]:
    assert file.status_code == 201, file.text
    lines = api.get(f"/files/{file.json()['id']}/content").content.splitlines()
    return [json.loads(line)["messages"] for line in lines]


def test_answers_rated_up_and_corrections_are_learned_and_the_others_are_not(api: TestClient) -> None:
    give(api, answer="good")
    give(api, answer="wrong", rating="down", correction="right")
    give(api, answer="bad", rating="down")

    learned = rows_of(api, api.post("/feedback/feedback/files"))

    assert learned == [[*QUESTION, {"role": "assistant", "content": each}] for each in ("good", "right")]


def test_answers_of_earlier_turns_carry_no_loss(api: TestClient) -> None:
    give(api, messages=TURNS)

    (row,) = rows_of(api, api.post("/feedback/feedback/files"))

    assert [message.get("weight") for message in row] == [None, 0, None, None]


def test_a_file_does_not_change_when_rows_come_and_go(api: TestClient) -> None:
    give(api)
    first, same = (api.post("/feedback/feedback/files").json() for _ in range(2))
    give(api, answer="more")
    later = api.post("/feedback/feedback/files").json()
    api.delete("/feedback/feedback")

    assert (first["sha256"], first["filename"]) == (same["sha256"], same["filename"])
    assert (first["records"], later["records"]) == (1, 2)
    assert later["filename"] != first["filename"]
    assert len(api.get(f"/files/{first['id']}/content").content.splitlines()) == 1


def test_a_job_takes_the_file(api: TestClient) -> None:
    give(api, answer=HOSTILE)
    file = api.post("/feedback/feedback/files").json()

    job = api.post("/jobs", json={**hub_body(), "dataset": {"source": {"file": file["id"]}}})

    assert (job.status_code, file["layout"], file["usable_records"]) == (201, "messages", 1)


def test_hostile_text_is_kept_as_it_is(api: TestClient) -> None:
    question = [{"role": "user", "content": HOSTILE}]
    row = give(api, messages=question, answer=HOSTILE, note=HOSTILE).json()

    (shown,) = api.get("/feedback/feedback").json()["data"]
    assert shown == row
    assert (shown["messages"], shown["answer"], shown["note"]) == (question, HOSTILE, HOSTILE)
    assert rows_of(api, api.post("/feedback/feedback/files")) == [
        [*question, {"role": "assistant", "content": HOSTILE}]
    ]


def test_datasets_are_listed_with_the_number_of_their_rows(api: TestClient) -> None:
    give(api)
    give(api, rating="down")
    give(api, rating="down", correction="right", dataset="other")

    listed = api.get("/feedback").json()["data"]

    names = ("dataset", "rows", "up", "down", "corrected", "learned")
    assert [[one[name] for name in names] for one in listed] == [["feedback", 2, 1, 1, 0, 1], ["other", 1, 0, 1, 1, 1]]


def test_rows_are_listed_in_pages_newest_first(api: TestClient) -> None:
    ids = [give(api, answer=str(number)).json()["id"] for number in range(3)]

    first = api.get("/feedback/feedback", params={"limit": 2}).json()
    rest = api.get("/feedback/feedback", params={"limit": 2, "after": first["last_id"]}).json()

    assert [row["id"] for row in first["data"] + rest["data"]] == ids[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_a_row_is_deleted_and_with_the_last_one_the_dataset(api: TestClient) -> None:
    row, kept = give(api).json()["id"], give(api, answer="kept").json()["id"]

    assert api.delete(f"/feedback/feedback/{row}").json() == {"id": row, "object": "feedback", "deleted": True}
    assert error_of(api.delete(f"/feedback/feedback/{row}")) == (404, "unknown_feedback", "feedback_id")
    assert error_of(api.delete(f"/feedback/other/{kept}")) == (404, "unknown_feedback", "feedback_id")
    assert api.delete("/feedback/feedback").json()["rows"] == 1
    assert error_of(api.get("/feedback/feedback")) == (404, "unknown_dataset", "dataset")
    assert error_of(api.post("/feedback/feedback/files")) == (404, "unknown_dataset", "dataset")


def test_a_dataset_of_bad_answers_alone_makes_no_file(api: TestClient) -> None:
    give(api, rating="down")

    assert error_of(api.post("/feedback/feedback/files")) == (409, "nothing_to_learn", "dataset")
    assert api.get("/files").json()["data"] == []


@pytest.mark.parametrize("stored", ["7", "[[1]]", '[{"role": "judge", "content": "q"}]'])
def test_messages_that_cannot_be_read_are_named_and_the_row_can_be_deleted(
    api: TestClient, database: Database, stored: str
) -> None:
    row = give(api).json()["id"]
    with database.writer() as session:
        session.execute(text("UPDATE feedback SET messages = :stored"), {"stored": stored})
        session.commit()

    assert [one["unreadable"] for one in api.get("/feedback/feedback").json()["data"]] == [["messages"]]
    refused = api.post("/feedback/feedback/files")
    assert error_of(refused) == (409, "feedback_unreadable", "dataset")
    assert row in refused.text
    assert api.delete(f"/feedback/feedback/{row}").status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"rating": "great"}, "rating"),
        ({"messages": []}, "messages"),
        ({"messages": QUESTION * (MOST_MESSAGES + 1)}, "messages"),
        ({"messages": TURNS[:2]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x" * MOST_CHARACTERS}]}, "messages"),
        ({"answer": "x" * (MOST_CHARACTERS + 1)}, "answer"),
        ({"answer": " <think>\n</think>"}, "answer"),
        ({"correction": " "}, "correction"),
        ({"note": "x" * 2001}, "note"),
        ({"answer": "a\0"}, "answer"),
        ({"dataset": "../x"}, "dataset"),
        ({"model": "a b"}, "model"),
        ({"stars": 5}, "stars"),
    ],
)
def test_a_row_that_cannot_be_kept_or_learned_is_refused_by_its_field(
    api: TestClient, fields: dict[str, Any], param: str
) -> None:
    assert error_of(give(api, **fields))[::2] == (422, param)
    assert api.get("/feedback").json()["data"] == []


def test_an_empty_answer_can_be_rated_down(api: TestClient) -> None:
    assert give(api, answer="", rating="down").status_code == 201


def test_a_project_has_a_limit_of_rows(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_OF_A_PROJECT", 1)
    give(api)

    assert error_of(give(api)) == (409, "too_many_rows", "project")
    assert give(api, project="another").status_code == 201


def test_one_row_and_one_dataset_are_read_by_the_index(database: Database) -> None:
    with database.writer() as session:
        session.add_all(a_row(f"p{number % 50}", f"d{number % 2}") for number in range(5000))
        session.commit()
    scope = Scope(frozenset({"p1"}))

    asked = {
        "count": lambda session: repository.count(session, scope, "p1"),
        "datasets": lambda session: repository.datasets(session, scope, "p1"),
        "page": lambda session: repository.page(session, scope, "p1", "d1", after=None, limit=20),
        "learned": lambda session: list(repository.learned(session, scope, "p1", "d1")),
    }
    for name, ask in asked.items():
        for statement, parameters in statements(database, ask):
            read, plan = jobs_read(database, statement, parameters)
            assert read <= 1000, f"{name}: {read} rows\n{plan}"
            assert "ix_feedback_by_dataset" in plan, name


def a_row(project: str, dataset: str) -> Feedback:
    named = {"id": new_id("feedback"), "project": project, "dataset": dataset, "created_at": NOW}
    return Feedback(**named, rating=Rating.UP, model="org/model", messages=QUESTION, answer="a")
