"""Which key may use which route, for every route of the application: a new route is held by the same table."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.access.keys import new_key
from app.access.models import ApiKey
from app.access.peppers import peppers
from app.access.permissions import Permission
from app.accounts import service
from app.accounts.schemas import NewKey
from app.config import Settings
from app.database.connection import Database, utc_now
from tests.integration.web.test_scope import make_rows, requests
from tests.support.callers import ANYONE
from tests.support.jobs_api import an_api, error_of, hub_body
from tests.support.scripted_engine import ScriptedEngine

OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
# The scope that each route needs; a route that is not here fails the test.
NEEDS = {
    "read": {
        "GET /jobs", "GET /jobs/counts", "GET /jobs/{job_id}", "GET /jobs/{job_id}/artifacts",
        "GET /jobs/{job_id}/checkpoints", "GET /jobs/{job_id}/phases", "GET /jobs/{job_id}/data",
        "GET /jobs/{job_id}/events", "GET /jobs/{job_id}/logs", "GET /jobs/{job_id}/metrics",
        "GET /jobs/{job_id}/stream",
        "GET /files", "GET /files/{file_id}", "GET /files/{file_id}/content", "GET /files/{file_id}/report",
        "GET /adapters", "GET /adapters/{adapter_id}", "GET /artifacts/{artifact_id}",
        "GET /artifacts/{artifact_id}/content", "GET /v1/models", "GET /v1/models/{model_id}", "GET /models",
        "GET /workers", "GET /projects", "GET /usage", "GET /metrics", "GET /secrets",
        "GET /secrets/{name}", "GET /webhooks", "GET /webhooks/{webhook_id}",
        "GET /webhooks/{webhook_id}/deliveries", "GET /feedback", "GET /feedback/{dataset}",
    },
    "files:write": {
        "POST /files", "DELETE /files/{file_id}", "POST /feedback", "POST /feedback/{dataset}/files",
        "DELETE /feedback/{dataset}", "DELETE /feedback/{dataset}/{feedback_id}",
    },
    "jobs:write": {
        "POST /jobs", "POST /jobs/validate", "POST /jobs/estimate", "DELETE /jobs/{job_id}",
        "POST /jobs/{job_id}/cancel", "POST /jobs/{job_id}/pause", "POST /jobs/{job_id}/resume",
        "POST /jobs/{job_id}/checkpoint", "DELETE /adapters/{adapter_id}", "DELETE /artifacts/{artifact_id}",
        "DELETE /v1/models/{model_id}", "PUT /secrets/{name}", "DELETE /secrets/{name}", "POST /webhooks",
        "PATCH /webhooks/{webhook_id}",
        "DELETE /webhooks/{webhook_id}", "POST /webhooks/{webhook_id}/test",
        "POST /webhooks/{webhook_id}/rotate_secret",
        "POST /webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    },
    "generate": {"POST /generate", "POST /v1/chat/completions", "POST /v1/completions"},
    "admin": {
        "GET /keys", "POST /keys", "GET /keys/{key_id}", "DELETE /keys/{key_id}",
        "PUT /projects/{project}/limits", "GET /audit",
    },
}  # fmt: skip
# These need a key of every project.
OF_OPERATORS = {"GET /metrics"}


@dataclass(frozen=True)
class Team:
    """The API of a service that asks for keys, and the keys of a project by their scope."""

    api: TestClient
    database: Database
    settings: Settings

    def key(self, *scopes: str, project: str | None = "a", **fields: Any) -> str:
        with self.database.writer() as session:
            wanted = NewKey.model_validate({"name": "k", "project": project, "scopes": scopes, **fields})
            return service.create(session, ANYONE, peppers(self.settings)[0], wanted)[1]

    def expired(self) -> str:
        text = self.key("admin")
        with self.database.writer() as session:
            session.get_one(ApiKey, id_of(text)).expires_at = utc_now() - timedelta(seconds=1)
            session.commit()
        return text

    def revoked(self) -> str:
        text = self.key("admin")
        with self.database.writer() as session:
            service.revoke(session, ANYONE, id_of(text))
        return text

    def ask(self, method: str, path: str, key: str | None, **more: Any) -> Any:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return self.api.request(method, path, headers=headers, **more)


def id_of(key: str) -> str:
    return key.split("_")[1]


@pytest.fixture
def team(settings: Settings, database: Database, database_url: str) -> Iterator[Team]:
    required = settings.model_copy(update={"keys": "required"})
    with an_api(required, database_url) as api:
        api.app.state.engine = ScriptedEngine()  # type: ignore[attr-defined]
        yield Team(api, database, required)


def routes(api: TestClient) -> set[str]:
    app: Any = api.app
    paths: dict[str, Any] = app.openapi()["paths"]
    return {f"{method.upper()} {path}" for path, known in paths.items() if path not in OPEN for method in known}


def test_every_route_has_a_rule(team: Team) -> None:
    named = [route for some in NEEDS.values() for route in some]

    assert len(named) == len(set(named))
    assert set(named) == routes(team.api)


def path_of(route: str) -> tuple[str, str]:
    method, _, path = route.partition(" ")
    return method, re.sub(r"\{\w+\}", "job-x", path)


def test_no_route_answers_without_a_valid_key(team: Team) -> None:
    bad = {
        None: "missing_api_key",
        "sk-something": "invalid_api_key",
        new_key().text: "invalid_api_key",
        team.key("admin")[:-1] + "!": "invalid_api_key",
        team.expired(): "expired_api_key",
        team.revoked(): "revoked_api_key",
    }

    for route in sorted(routes(team.api)):
        for key, code in bad.items():
            answer = team.ask(*path_of(route), key)
            assert (route, *error_of(answer)) == (route, 401, code, "authorization")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_each_route_needs_its_own_scope(team: Team) -> None:
    keys = {scope: team.key(scope) for scope in (one.value for one in Permission)}

    for needed, some in NEEDS.items():
        for route in sorted(some):
            if route.endswith("/stream"):
                continue  # it is asked by its own tests: a stream of a job that goes on does not end
            statuses = {scope: team.ask(*path_of(route), key).status_code for scope, key in keys.items()}
            refused = {scope for scope, status in statuses.items() if status == 403}
            allowed = set() if route in OF_OPERATORS else {needed, "admin"}
            expected = keys.keys() - allowed
            assert (route, refused) == (route, expected)
            assert 401 not in statuses.values()


def test_with_a_key_of_another_project_its_rows_do_not_exist(team: Team) -> None:
    rows = make_rows(team.database, team.settings, "b")
    foreign, own = team.key("admin"), team.key("admin", project="b")

    for method, path, _ in requests(WithKey(team, own), rows, "GET"):
        if path.endswith("/stream"):
            continue
        assert (path, team.ask(method, path, foreign).status_code) == (path, 404)
        assert (path, team.ask(method, path, own).status_code) == (path, 200)


@dataclass(frozen=True)
class WithKey:
    """A client that sends a key."""

    team: Team
    key: str

    def get(self, path: str) -> Any:
        return self.team.ask("GET", path, self.key)


def test_an_open_path_needs_no_key(team: Team) -> None:
    assert {path: team.ask("GET", path, None, follow_redirects=False).status_code for path in OPEN - {"/readyz"}} == {
        "/": 307,
        "/healthz": 200,
        "/docs": 200,
        "/openapi.json": 200,
    }


def test_a_key_is_revoked_for_the_next_request(team: Team) -> None:
    key = team.key("read")
    assert team.ask("GET", "/jobs", key).status_code == 200

    with team.database.writer() as session:
        service.revoke(session, ANYONE, id_of(key))

    assert error_of(team.ask("GET", "/jobs", key)) == (401, "revoked_api_key", "authorization")


def test_what_a_key_makes_belongs_to_its_project(team: Team) -> None:
    key = team.key("jobs:write", "read", "files:write")

    job = team.ask("POST", "/jobs", key, json=hub_body()).json()
    file = team.ask("POST", "/files", key, files={"file": ("a.jsonl", b'{"prompt": "q", "completion": "a"}\n')}).json()
    refused = team.ask("POST", "/jobs", key, json=hub_body(project="b"))

    assert (job["project"], file["project"]) == ("a", "a")
    assert error_of(refused) == (422, "invalid_request", "project")


def test_two_projects_may_use_the_same_idempotency_key(team: Team) -> None:
    keys = [team.key("jobs:write", project=project) for project in ("a", "b")]

    def post(key: str) -> Any:
        headers = {"authorization": f"Bearer {key}", "idempotency-key": "same"}
        return team.api.post("/jobs", json=hub_body(), headers=headers)

    first, second, again = post(keys[0]), post(keys[1]), post(keys[0])

    assert [first.status_code, second.status_code, again.status_code] == [201, 201, 200]
    assert again.json()["id"] == first.json()["id"] != second.json()["id"]


def test_a_key_bounds_the_priority_of_its_jobs(team: Team) -> None:
    key = team.key("jobs:write", max_priority=5)

    assert team.ask("POST", "/jobs", key, json=hub_body(priority=5)).status_code == 201
    assert error_of(team.ask("POST", "/jobs", key, json=hub_body(priority=6))) == (422, "invalid_request", "priority")


def test_an_administrator_of_a_project_makes_keys_of_it_alone(team: Team) -> None:
    admin = team.key("admin", max_priority=3)

    def make(**fields: Any) -> Any:
        return team.ask("POST", "/keys", admin, json={"name": "n", "max_priority": 0, **fields})

    made = make(project="a", scopes=["read"])
    assert made.status_code == 201
    assert team.ask("GET", "/jobs", made.json()["key"]).status_code == 200
    assert [make(project=other).status_code for other in ("b", None)] == [422, 422]
    assert error_of(make(project="a", max_priority=None))[2] == "priority"
    assert made.json()["id"] in {key["id"] for key in team.ask("GET", "/keys", admin).json()["data"]}


def test_a_service_on_loopback_works_without_a_key_and_honours_one(
    settings: Settings, database: Database, database_url: str
) -> None:
    with an_api(settings, database_url) as api:
        team = Team(api, database, settings)
        key = team.key("read")

        statuses = [team.ask("GET", "/keys", sent).status_code for sent in (None, "unused", "ts_wrong", key)]

    assert statuses == [200, 200, 401, 403]


def test_only_an_administrator_of_every_project_sets_limits(team: Team) -> None:
    of_one, of_all = team.key("admin"), team.key("admin", project=None)

    def limit(key: str) -> Any:
        return team.ask("PUT", "/projects/a/limits", key, json={"running_jobs": 1})

    assert error_of(limit(of_one)) == (403, "insufficient_scope", "authorization")
    assert limit(of_all).json()["limits"]["running_jobs"] == 1
    assert [one["name"] for one in team.ask("GET", "/projects", of_one).json()["data"]] == ["a"]
