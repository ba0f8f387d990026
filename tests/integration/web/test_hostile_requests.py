"""Whatever a client sends is answered with a 4xx that names the place, and the service goes on."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.sentences import reads_well
from tests.support.specs import a_body

DEEP = "[" * 100_000 + "]" * 100_000
TOLD: dict[str, Any] = {"chat_template_kwargs": {"a": 1}}
NO_JSON = {"name": "f", "arguments": "{"}
HALF = b'{"model": "org/model", "messages": [{"role": "user", "content": "\\ud800"}]}'


def get(url: str, **headers: str) -> dict[str, Any]:
    return {"method": "GET", "url": url, "headers": headers}


def post_job(body: Any) -> dict[str, Any]:
    return {"method": "POST", "url": "/jobs", "json": body}


def post_raw(content: str | bytes | list[bytes], url: str = "/jobs") -> dict[str, Any]:
    return {"method": "POST", "url": url, "content": content, "headers": {"content-type": "application/json"}}


def ask(**body: Any) -> dict[str, Any]:
    question = {"model": "org/model", "messages": [{"role": "user", "content": "x"}], **body}
    return {"method": "POST", "url": "/generate", "json": question}


def chat(url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    question = {"model": "org/model", "messages": [{"role": "user", "content": "x"}], **body}
    return {"method": "POST", "url": url, "json": question}


def complete(**body: Any) -> dict[str, Any]:
    return {"method": "POST", "url": "/v1/completions", "json": {"model": "org/model", "prompt": "x", **body}}


def schema(**body: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": body}}


def called(call: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        value = {"type": "object", "properties": {"a": value}}
    return value


def upload(content: bytes, name: str) -> dict[str, Any]:
    return {"method": "POST", "url": "/files", "files": {"file": (name, content)}}


HOSTILE: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "not JSON": (post_raw("{model:"), 422, "body"),
    "no body": (post_raw(""), 422, "body"),
    "a list": (post_job([]), 422, "body"),
    "a number": (post_job(7), 422, "body"),
    "null": (post_job(None), 422, "body"),
    "a body of 100 MB": (post_raw(b" " * 100_000_000), 413, "body"),
    "a body of 3 MB without a length": (post_raw([b" " * 2**20] * 3), 413, "body"),
    "a body that lies about its length": (
        {"method": "POST", "url": "/jobs", "content": b"{}", "headers": {"content-length": "99999999999"}},
        413,
        "body",
    ),
    "nested a hundred thousand deep": (post_raw(DEEP), 422, "body"),
    "broken UTF-8": (post_raw(b'{"name": "\xff\xfe"}'), 422, "body"),
    "a lone surrogate": (post_raw(b'{"name": "\\ud800"}'), 422, None),
    "a label with a lone surrogate": (post_raw(b'{"labels": {"a": "\\ud800"}}'), 422, None),
    "NaN": (post_raw('{"training": {"learning_rate": NaN}}'), 422, None),
    "infinity": (post_raw('{"training": {"learning_rate": 1e999}}'), 422, None),
    "a number of a thousand digits": (post_raw('{"lora": {"r": ' + "9" * 1000 + "}}"), 422, None),
    "a number of ten thousand digits": (post_raw('{"lora": {"r": ' + "9" * 10_000 + "}}"), 422, None),
    "a string for a group": (post_job({**a_body(), "lora": "r=16"}), 422, "lora"),
    "an unknown key": (post_job({**a_body(), "lora_r": 64}), 422, "lora_r"),
    "a path for a model": (post_job(a_body(model={"model_name": "../../etc"})), 422, "model.model_name"),
    "code from the hub": (post_job(a_body(model={"trust_remote_code": True})), 422, "model.trust_remote_code"),
    "a token": (post_job({**a_body(), "hf_token": "hf_CANARY"}), 422, "hf_token"),
    "an id with a path": (get("/jobs/..%2f..%2fetc%2fpasswd"), 404, None),
    "an id with a NUL": (get("/jobs/%00"), 404, None),
    "an id of a megabyte": (get("/jobs/" + "a" * 60_000), 404, None),
    "a file id with a NUL": (get("/files/%00/content"), 404, None),
    "an adapter id with a NUL": (get("/adapters/%00"), 404, None),
    "a negative page": (get("/jobs?limit=-1"), 422, "limit"),
    "a huge offset": (get("/jobs/x/logs?offset=" + "9" * 40), 422, "offset"),
    "an unknown status": (get("/jobs?status=lost"), 422, "status"),
    "an event number that is none": (get("/jobs/x/stream", **{"last-event-id": "-1"}), 422, "Last-Event-ID"),
    "an audit of a NUL": (get("/audit?action=%00"), 422, "action"),
    "an audit of a subject with a NUL": (get("/audit?subject=a%00"), 422, "subject"),
    "an audit after a NUL": (get("/audit?after=%00"), 422, "after"),
    "a limit of forty digits": (
        {"method": "PUT", "url": "/projects/a/limits", "json": {"waiting_jobs": 10**40}},
        422,
        "waiting_jobs",
    ),
    "a limit of true": (
        {"method": "POST", "url": "/keys", "json": {"name": "k", "limits": {"streams": True}}},
        422,
        "limits.streams",
    ),
    "an unknown path": (get("/etc/passwd"), 404, None),
    "a wrong method": ({"method": "PUT", "url": "/jobs"}, 405, None),
    "an upload without a file": ({"method": "POST", "url": "/files", "json": {}}, 422, "file"),
    "an upload with a path for a name": (upload(b'{"text": "a"}', "../../x.jsonl"), 422, "file.filename"),
    "an empty upload": (upload(b"", "a.jsonl"), 422, "file"),
    "an upload of noise": (upload(bytes(range(256)) * 40, "a.jsonl"), 422, "file"),
    "an unknown adapter": (ask(model=None, adapter="adapter-" + "a" * 24), 404, "adapter"),
    "half a character to a model": (post_raw(HALF, "/generate"), 422, "messages.0.content"),
    "a NUL to a model": (ask(messages=[{"role": "user", "content": "a\0b"}]), 422, "messages.0.content"),
    "a bias of a token below zero": (ask(logit_bias={"-1": 1}), 422, None),
    "a bias that is too strong": (ask(logit_bias={"1": 101}), 422, "logit_bias.1"),
    "a bias of true": (ask(logit_bias={"1": True}), 422, "logit_bias.1"),
    "two thousand biases": (ask(logit_bias={str(token): 1 for token in range(2000)}), 422, "logit_bias"),
    "a penalty that is too strong": (ask(presence_penalty=2.1), 422, "presence_penalty"),
    "more of the best than are told": (ask(logprobs=21), 422, "logprobs"),
    "a least length over the largest": (ask(min_tokens=9, max_new_tokens=8), 422, "min_tokens"),
    "seventeen answers": (ask(n=17), 422, "n"),
    "no answer": (ask(n=0), 422, "n"),
    "two streamed answers": (ask(n=2, stream=True), 422, "n"),
    "a token that is no number": (ask(messages=None, prompt_token_ids=["x"]), 422, "prompt_token_ids.0"),
    "a prompt of no tokens": (ask(messages=None, prompt_token_ids=[]), 422, "prompt_token_ids"),
    "a tool without a name": (ask(tools=[{"type": "function", "function": {}}]), 422, "tools.0.function.name"),
    "a tool that is none": (ask(tools=["x"]), 422, "tools.0"),
    "a template told of a prompt": (ask(messages=None, prompt="x", **TOLD), 422, "chat_template_kwargs"),
    "a template told in too deep words": (ask(chat_template_kwargs={"a": nested(40)}), 422, "chat_template_kwargs"),
    "a call without a function": (ask(messages=called({})), 422, None),
    "a call whose arguments are no JSON": (ask(messages=called({"function": NO_JSON})), 422, None),
    "a schema of an unknown word": (ask(response_format=schema(uniqueItems=True)), 422, None),
    "a schema that is nested too deep": (ask(response_format=schema(**nested(40))), 422, None),
    "a format of an unknown kind": (ask(response_format={"type": "grammar"}), 422, "response_format.type"),
    "a path for a model at OpenAI's door": (chat(model="../../etc"), 404, "model"),
    "half a character at OpenAI's door": (post_raw(HALF, "/v1/chat/completions"), 400, "messages.0.content"),
    "no JSON at OpenAI's door": (post_raw("{", "/v1/completions"), 400, "body"),
    "nested deep at OpenAI's door": (post_raw(DEEP, "/v1/completions"), 400, "body"),
    "too many answers to prompts": (complete(prompt=["x"] * 8, n=3), 400, "n"),
    "a model with a NUL": (get("/v1/models/%00"), 404, "model"),
    "a model of a megabyte": (get("/v1/models/" + "a" * 60_000), 404, "model"),
    "JSON without its header": ({"method": "POST", "url": "/jobs", "content": b"{}"}, 422, "body"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_refused_by_its_place(api: TestClient, name: str) -> None:
    request, status, param = HOSTILE[name]
    answer = api.request(**request)
    error = answer.json()["error"]

    assert answer.status_code == status, error
    assert param is None or error["param"] == param
    assert error["message"]
    assert all(reads_well(problem["expected"]) for problem in error["details"] if "expected" in problem)
    assert "CANARY" not in answer.text
    assert api.get("/healthz").status_code == 200


def test_every_answer_bears_an_id_and_a_given_one_is_kept(api: TestClient) -> None:
    assert api.get("/healthz").headers["x-request-id"].startswith("req-")
    answer = api.get("/jobs/x", headers={"x-request-id": "mine"})

    assert (answer.headers["x-request-id"], answer.json()["error"]["request_id"]) == ("mine", "mine")
