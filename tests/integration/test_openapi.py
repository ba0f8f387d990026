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
from app.main import create_app
from app.migrate import upgrade
from tests.serving import serving

BOUNDS = hypothesis.settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
CONFORMANCE = [response_schema_conformance, status_code_conformance, content_type_conformance]
# No engine and no checker runs here: a 503.
AWAY = ("/generate", "/v1/chat/completions", "/v1/completions", "/readyz", "/jobs/validate")
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
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(("method", "path"), operations())
def test_an_operation_answers_as_it_is_described(described: Any, method: str, path: str) -> None:
    @BOUNDS
    @hypothesis.given(case=described[path][method.upper()].as_strategy())
    def check(case: Any) -> None:
        is_away = path in AWAY
        checks = CONFORMANCE if is_away else [*CONFORMANCE, not_a_server_error]
        response = case.call_and_validate(checks=checks)
        assert response.status_code < 500 or is_away

    check()
