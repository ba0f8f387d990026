"""A training method and a kind of job that plugins add go through the whole service; no other file knows them."""

import pytest

from tests.e2e.stack import Stack

ROWS = [{"prompt": f"hello {n}{'?' * (n % 2)} ", "completion": "good day to you"} for n in range(16)]


def test_a_method_of_a_plugin_is_trained_as_any_other(stack: Stack) -> None:
    training = {"max_steps": 20, "learning_rate": 0.02, "warmup_steps": 1}
    dataset = {"source": {"file": stack.upload(ROWS)}}

    job_id = stack.submit(dataset=dataset, training={"method": "weighted", "weight_of_questions": 3.0, **training})
    job = stack.wait(job_id, "succeeded", "failed")

    assert job["status"] == "succeeded", job["error"]
    assert job["resolved_spec"]["training"]["weight_of_questions"] == 3.0
    steps = stack.api.get(f"/jobs/{job_id}/metrics").json()["steps"]
    assert {step["metrics"]["mean_weight"] for step in steps} <= {1.0, 2.0, 3.0}
    assert len({step["metrics"]["mean_weight"] for step in steps}) > 1
    row = stack.api.get(f"/jobs/{job_id}/data", params={"record": 2}).json()
    assert row["columns"] == {"weight": 1.0}
    answer = stack.generate(adapter=job_id, messages=None, prompt="hello 1? ").json()
    assert answer["text"].startswith("good day")


@pytest.mark.parametrize(
    ("training", "field", "expected"),
    [
        ({"weight_of_questions": 3.0}, "training.weight_of_questions", "an argument of training.method 'weighted'"),
        ({"method": "weighty"}, "training.method", "one of 'sft', 'cpt', 'weighted'"),
        ({"method": "weighted", "weight_of_questions": 11}, "training.weight_of_questions", "at most 10"),
    ],
)
def test_arguments_are_those_of_the_method(
    embedded: Stack, training: dict[str, object], field: str, expected: str
) -> None:
    body = {"model": {"model_name": "tiny"}, "dataset": {"source": {"hub": "a/b"}}, "training": training}

    (problem,) = embedded.api.post("/jobs", json=body).json()["error"]["details"]

    assert problem["field"] == field
    assert expected in problem["expected"]


def test_a_method_refuses_records_that_it_cannot_train_on(embedded: Stack) -> None:
    chats = [{"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "good day"}]}] * 4
    dataset = {"source": {"file": embedded.upload(chats)}}
    body = {"model": {"model_name": "tiny"}, "dataset": dataset, "training": {"method": "weighted"}}

    answer = embedded.api.post("/jobs", json=body)

    assert answer.status_code == 422
    assert "record 1, line 1: found a chat record, expected completion" in answer.json()["error"]["message"]


def test_a_kind_of_job_of_a_plugin_is_run_as_any_other(stack: Stack) -> None:
    refused = stack.api.post("/word-counts", json={"text": " "}).json()["error"]
    assert (refused["code"], refused["param"]) == ("invalid_request", "text")

    job_id = stack.api.post("/word-counts", json={"text": "to be or not to be", "name": "count"}).json()["id"]
    job = stack.wait(job_id, "succeeded", "failed")

    assert (job["kind"], job["status"], job["error"]) == ("word-count", "succeeded", None)
    assert [attempt["stage"] for attempt in job["attempts"]] == ["run"]
    assert "artifact" in [event["kind"] for event in stack.api.get(f"/jobs/{job_id}/events").json()["data"]]
    (artifact,) = stack.api.get(f"/jobs/{job_id}/artifacts").json()["data"]
    assert (artifact["kind"], artifact["bytes"]) == ("word-count", job["result"]["bytes"])
    content = stack.api.get(f"/artifacts/{artifact['id']}/content", params={"file": "counts.json"})
    assert content.json() == {"to": 2, "be": 2, "or": 1, "not": 1}
    assert job_id in [one["id"] for one in stack.api.get("/jobs", params={"text": "count"}).json()["data"]]
