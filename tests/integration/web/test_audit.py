"""Every change leaves one entry that says who, what, when and from where, and none of what it was about."""

import json
import logging
from typing import Any

import pytest
from sqlalchemy import select

from app.access import audit
from app.access.models import AuditEntry
from app.database.connection import Database
from tests.integration.web.test_keys_on_routes import NEEDS, Team, id_of, path_of, team
from tests.integration.web.test_scope import CHAT, OF_LIVING_JOBS, make_rows
from tests.support.jobs_api import hub_body

__all__ = ["team"]
# These change nothing that stays.
NO_CHANGE = {
    "POST /jobs/validate",
    "POST /jobs/estimate",
    "POST /generate",
    "POST /v1/chat/completions",
    "POST /v1/completions",
}
ROW = b'{"prompt": "a-private-prompt", "completion": "a-private-answer"}\n'


def entries(database: Database) -> list[AuditEntry]:
    with database.reader() as session:
        return [*session.scalars(select(AuditEntry).where(AuditEntry.caller != "local").order_by(AuditEntry.at))]


def body_of(route: str) -> dict[str, Any]:
    if route == "POST /files":
        return {"files": {"file": ("a.jsonl", ROW)}}
    bodies = {
        "POST /jobs": hub_body(),
        "POST /keys": {"name": "n", "project": "a"},
        "PUT /projects/{project}/limits": {"streams": 3},
        "PUT /secrets/{name}": {"value": "a-token-of-it"},
        "POST /feedback": {"messages": CHAT, "answer": "a", "model": "org/model", "rating": "up"},
        "POST /webhooks": {"url": "https://example.com", "project": "a"},
        "PATCH /webhooks/{webhook_id}": {"event_types": []},
    }
    return {"json": bodies[route]} if route in bodies else {}


def test_every_route_that_changes_something_leaves_one_entry(team: Team) -> None:
    key = team.key("admin", project=None)
    routes = {route for some in NEEDS.values() for route in some if not route.startswith("GET")} - NO_CHANGE

    for route in sorted(routes):
        rows = make_rows(team.database, team.settings, f"p{len(route)}{abs(hash(route)) % 10**6}")
        parameter = next((part[1:-1] for part in route.split("/") if part.startswith("{")), None)
        method, path = path_of(route)
        if parameter is not None and parameter != "project":
            path = route.partition(" ")[2].replace(f"{{{parameter}}}", _id_of(rows, parameter, path, route))
            path = path.replace("{delivery_id}", rows.delivery_id).replace("{feedback_id}", rows.feedback_id)
        if route.endswith("/resume"):
            team.ask("POST", f"/jobs/{rows.living_id}/pause", key)
        before = len(entries(team.database))

        query = f"?project={rows.project}" if path.startswith(("/secrets", "/feedback/")) else ""
        answer = team.ask(method, path + query, key, **body_of(route))

        assert answer.status_code < 300, (route, answer.text)
        (entry,) = entries(team.database)[before:]
        assert (entry.caller, entry.request_id) == (id_of(key), answer.headers["x-request-id"])
        assert entry.address == "testclient"
        assert entry.subject in f"{path} {answer.text}"


def _id_of(rows: Any, parameter: str, path: str, route: str) -> str:
    if route.rpartition("/")[2] in OF_LIVING_JOBS:
        return str(rows.living_id)
    return str(rows.adapter_id if parameter == "model_id" else getattr(rows, parameter))


def test_an_entry_holds_no_row_and_is_told_to_the_log(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=audit.log.name):
        team.ask("POST", "/files", team.key("files:write"), files={"file": ("a.jsonl", ROW)})

    (line,) = [json.loads(record.message) for record in caplog.records if "file.create" in record.message]
    (entry,) = [each for each in entries(team.database) if each.action == "file.create"]
    assert (line["subject"], line["project"], line["request_id"]) == (entry.subject, "a", entry.request_id)
    assert "private" not in json.dumps([line, entry.details])


def test_a_change_that_is_refused_leaves_none(team: Team) -> None:
    before = len(entries(team.database))
    keys = team.key("jobs:write")

    assert team.ask("POST", "/jobs", keys, json=hub_body(project="b")).status_code == 422
    assert team.ask("DELETE", "/jobs/job-x", keys).status_code == 404
    assert len([each for each in entries(team.database)[before:] if each.action.startswith("job")]) == 0


def test_a_request_that_changes_nothing_leaves_none(team: Team) -> None:
    keys, job_id = team.key("jobs:write"), make_rows(team.database, team.settings, "a").living_id

    statuses = [
        team.ask("POST", f"/jobs/{job_id}/{what}", keys).status_code
        for what in ("resume", "pause", "pause", "resume", "resume", "cancel", "cancel")
    ]

    changes = [each.action for each in entries(team.database) if each.subject == job_id]
    assert statuses == [200] * 7
    assert changes == ["job.pause", "job.resume", "job.cancel"]


def test_an_administrator_reads_the_entries_of_its_projects(team: Team) -> None:
    for project in ("a", "b"):
        team.ask("POST", "/jobs", team.key("jobs:write", project=project), json=hub_body())

    def read(project: str | None, **params: Any) -> list[Any]:
        answer = team.ask(
            "GET", "/audit", team.key("admin", project=project), params={"action": "job.create", **params}
        )
        found: list[Any] = answer.json()["data"]
        return found

    assert [entry["project"] for entry in read("a")] == ["a"]
    newest = read(None)
    assert [entry["project"] for entry in newest] == ["b", "a"]
    assert read(None, after=newest[0]["id"]) == newest[1:]
    assert read(None, subject=newest[1]["subject"]) == newest[1:]
