"""No route drops a part of a request without a word: query parameters and form fields are refused by name."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.integration.web.test_openapi import operations

FILE = ("file", ("a.jsonl", b'{"text": "a"}'))


def message_of(answer: Any) -> str:
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize(("method", "path"), operations())
def test_every_route_refuses_a_query_parameter_that_it_does_not_have(api: TestClient, method: str, path: str) -> None:
    answer = api.request(method, path, params={"nosuch": "1"})

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400 if path.startswith("/v1/") else 422, "nosuch")
    assert error["message"].startswith("nosuch: found the query parameter 'nosuch', expected ")


@pytest.mark.parametrize(
    ("query", "right"),
    [
        ("staus=failed", "one of status, project, label, text, after, limit; did you mean status?"),
        ("offset=1", "one of status, project, label, text, after, limit"),
        ("limit=1&limit=2", "it once"),
    ],
)
def test_a_wrong_parameter_is_answered_with_what_would_be_right(api: TestClient, query: str, right: str) -> None:
    assert message_of(api.get(f"/jobs?{query}")).endswith(f", expected {right}")


@pytest.mark.parametrize(
    ("files", "fields", "message"),
    [
        ([FILE, FILE], {}, "file: found the form field 2 times, expected it once"),
        ([FILE, ("data", FILE[1])], {}, "data: found the form field 'data', expected one of file, purpose, project"),
        ([FILE], {"purpos": "x"}, "expected one of file, purpose, project; did you mean purpose?"),
    ],
)
def test_nothing_of_an_upload_is_dropped(
    api: TestClient, files: list[Any], fields: dict[str, str], message: str
) -> None:
    answer = api.post("/files", files=files, data=fields)

    assert answer.status_code == 422
    assert message in message_of(answer)


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/docs"])
def test_head_has_the_status_and_the_headers_of_get(api: TestClient, path: str) -> None:
    answer = api.head(path)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == api.get(path).headers["content-type"]


def test_the_list_of_models_may_end_in_a_slash(api: TestClient) -> None:
    assert api.get("/v1/models/").json() == api.get("/v1/models").json()
