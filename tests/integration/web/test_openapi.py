"""The API does what its own description says, whatever is sent: schemathesis, bounded."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.config import Settings
from app.database.migrate import upgrade
from app.main import create_app
from tests.support.sentences import reads_well
from tests.support.serving import serving
from tests.tiers import examples

BOUNDS = hypothesis.settings(
    max_examples=examples(25),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
CONFORMANCE = [response_schema_conformance, status_code_conformance, content_type_conformance]
# No engine and no checker runs here: a 503.
AWAY = ("/generate", "/v1/chat/completions", "/v1/completions", "/readyz", "/jobs/validate", "/jobs/estimate")
METHODS = ("get", "post", "put", "patch", "delete")


def operations() -> list[tuple[str, str]]:
    """Every (method, path) that the service describes."""
    app = create_app(Settings())
    app.state.database.close()
    return [
        (method, path) for path, methods in app.openapi()["paths"].items() for method in METHODS if method in methods
    ]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), engine_url="http://127.0.0.1:9")
    upgrade(settings.database)
    with serving(create_app(settings)) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json", timeout=60)


@pytest.mark.parametrize(("method", "path"), operations())
def test_an_operation_answers_as_it_is_described(described: Any, method: str, path: str) -> None:
    @BOUNDS
    @hypothesis.given(case=described[path][method.upper()].as_strategy())
    def check(case: Any) -> None:
        is_away = path in AWAY
        checks = CONFORMANCE if is_away else [*CONFORMANCE, not_a_server_error]
        response = case.call_and_validate(checks=checks)
        assert response.status_code < 500 or is_away
        assert all(reads_well(problem["expected"]) for problem in problems_of(response))

    check()


def problems_of(response: Any) -> list[dict[str, Any]]:
    """What a refusal names with what would be right."""
    is_refusal = 400 <= response.status_code < 500 and response.request.method != "HEAD"
    details = response.json()["error"]["details"] if is_refusal else []
    return [problem for problem in details if "expected" in problem]


def test_generators_of_clients_meet_each_title_once_and_bytes_as_bytes(described: Any) -> None:
    schemas = described.raw_schema["components"]["schemas"]

    upload = described.raw_schema["paths"]["/files"]["post"]["requestBody"]
    assert len({schema["title"] for schema in schemas.values()}) == len(schemas)
    assert upload["content"]["multipart/form-data"]["schema"]["properties"]["file"]["format"] == "binary"


def test_what_is_taken_in_several_forms_is_described_in_all_of_them(described: Any) -> None:
    schemas = described.raw_schema["components"]["schemas"]

    for name in ("ChatRequest", "CompletionRequest", "GenerateRequest"):
        assert {form["type"] for form in schemas[name]["properties"]["stop"]["anyOf"]} == {"string", "array", "null"}
    for name in ("OpenAiTurn", "ChatTurn"):
        assert {form["type"] for form in schemas[name]["properties"]["content"]["anyOf"]} == {"string", "array", "null"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/jobs/{job_id}/stream", "text/event-stream"), ("/files/{file_id}/content", "application/octet-stream")],
)
def test_what_is_no_json_is_described_by_its_content_type(described: Any, path: str, kind: str) -> None:
    assert list(described.raw_schema["paths"][path]["get"]["responses"]["200"]["content"]) == [kind]


def test_openais_paths_describe_the_status_that_they_send(described: Any) -> None:
    paths = described.raw_schema["paths"]

    assert "422" not in paths["/v1/chat/completions"]["post"]["responses"]
    assert {"400", "4XX"} <= paths["/v1/chat/completions"]["post"]["responses"].keys()
    assert {"422", "4XX"} <= paths["/generate"]["post"]["responses"].keys()
