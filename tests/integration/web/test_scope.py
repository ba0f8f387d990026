"""A caller of one project: rows of another one do not exist for it on any route, and its own are as they were."""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from app.access.caller import Caller
from app.accounts.schemas import NewKey
from app.accounts.service import create
from app.artifacts import repository as artifacts
from app.artifacts.models import Artifact
from app.artifacts.store import store_of
from app.config import Settings
from app.database.connection import Database
from app.errors import NotFound
from app.feedback import repository as feedback
from app.feedback.models import Feedback, Rating
from app.files import repository as files
from app.files.models import File
from app.hashing import hash_folder
from app.ids import new_id
from app.jobs.models import Attempt, Checkpoint, Job, JobEvent
from app.jobs.states import JobStatus, RequestedAction, Stage
from app.jobs.views import details
from app.jobs.views.logs import LOG_NAME, attempt_dir
from app.jobs.views.polls import Polls
from app.scope import EVERY_PROJECT, Scope
from app.secrets import repository as secrets
from app.secrets.models import ProjectSecret
from app.web.dependencies import get_caller
from app.webhooks import repository as webhooks
from app.webhooks.event_types import EventType
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.outbox import delivery_of
from tests.support.damaged_rows import REPORT
from tests.support.jobs import NOW, add_job, add_worker, read
from tests.support.jobs_api import an_api, error_of, hub_body
from tests.support.learned_text import chat_parts, write_data
from tests.support.scripted_engine import ScriptedEngine, add_adapter
from worker.checkpoints import drafting, publish

CHAT = [{"role": "user", "content": "q"}]
OWN = Scope(frozenset({"a"}))
# These answer what a check found.
CHECKED = ("/jobs/validate", "/jobs/estimate")
QUERIES = {
    "/secrets/{name}": "?project={project}",
    "/feedback/{dataset}": "?project={project}",
    "/feedback/{dataset}/files": "?project={project}",
    "/feedback/{dataset}/{feedback_id}": "?project={project}",
    "/jobs/{job_id}/data": "?record=1",
    "/artifacts/{artifact_id}/content": "?file=model.gguf",
}
KEY = base64.b64encode(b"k" * 32).decode()
# Methods whose routes all need a body, with one that each takes.
BODIES: dict[str, Any] = {"PATCH": {"event_types": []}}
# These need what has not ended.
OF_LIVING_JOBS = ("cancel", "pause", "resume", "checkpoint")


@dataclass(frozen=True)
class Rows:
    """One row of each table in a project, with its files."""

    project: str
    job_id: str
    living_id: str
    file_id: str
    adapter_id: str
    artifact_id: str
    key_id: str
    webhook_id: str
    delivery_id: str
    name: str
    dataset: str
    feedback_id: str

    def id_of(self, parameter: str, path: str) -> str:
        if path.rpartition("/")[2] in OF_LIVING_JOBS:
            return self.living_id
        return self.adapter_id if parameter == "model_id" else str(getattr(self, parameter))


def make_rows(database: Database, settings: Settings, project: str) -> Rows:
    job_id = add_job(database, JobStatus.SUCCEEDED, project=project, name=f"name-{project}", labels={"team": "x"})
    living_id = add_job(database, JobStatus.RUNNING, project=project, worker=f"w-{project}", labels={"team": "x"})
    add_job(database, JobStatus.VALIDATING, project=project, is_temporary=True)
    add_worker(database, name=f"w-{project}", job_id=living_id)
    adapter = add_adapter(database, settings.root / "adapters", project=project, job_id=job_id)
    file_id, artifact_id = new_id("file"), f"artifact-{new_id('a')[2:]}-1"
    at = {"created_at": NOW, "updated_at": NOW}
    saved = {"path": "p", "bytes": 1, "sha256": "0", "seconds": 1.0, "created_at": NOW}
    with database.writer() as session:
        session.get_one(Job, job_id).last_seq = 2
        session.add(JobEvent(job_id=job_id, seq=2, epoch=1, kind="step", at=NOW, payload={"step": 3, "loss": 1.0}))
        attempt = {"stage": Stage.TRAIN, "worker": "w", "started_at": NOW, "events_offset": 0}
        session.add(Attempt(job_id=job_id, epoch=1, **attempt))
        session.add(Checkpoint(job_id=job_id, step=3, epoch=1, **saved))
        named = {"filename": "f.jsonl", "purpose": "fine-tune", "sha256": "0" * 64, "format": "jsonl", "layout": None}
        file = File(id=file_id, project=project, bytes=1, records=1, report=REPORT, created_at=NOW, **named)
        files.add(session, EVERY_PROJECT, file)
        artifacts.add(session, EVERY_PROJECT, an_artifact(settings, artifact_id, job_id, project))
        delivery = add_delivery(session, project)
        secret = ProjectSecret(project=project, name=f"secret-{project}", ciphertext="", **at)
        secrets.add(session, EVERY_PROJECT, secret)
        rated = add_feedback(session, project)
        session.commit()
    write_files(settings, job_id, file_id)
    with database.writer() as session:
        wanted = NewKey(name="k", project=project)
        key, _ = create(session, Caller("x", EVERY_PROJECT), b"pepper", wanted)
    of_webhook = (delivery.endpoint_id, delivery.id)
    return Rows(project, job_id, living_id, file_id, adapter.id, artifact_id, key.id, *of_webhook, secret.name, *rated)


def add_feedback(session: Session, project: str) -> tuple[str, str]:
    named = {"id": new_id("feedback"), "project": project, "dataset": f"dataset-{project}"}
    row = Feedback(**named, created_at=NOW, rating=Rating.UP, model="org/model", messages=CHAT, answer="a")
    feedback.add(session, EVERY_PROJECT, row)
    return row.dataset, row.id


def add_delivery(session: Session, project: str) -> WebhookDelivery:
    url, at = "https://example.com", {"created_at": NOW}
    endpoint = WebhookEndpoint(id=new_id("webhook"), project=project, url=url, event_types=[], secret="", **at)
    webhooks.add(session, EVERY_PROJECT, endpoint)
    session.flush()
    delivery = delivery_of(endpoint.id, EventType.TEST, "{}", NOW)
    session.add(delivery)
    return delivery


def an_artifact(settings: Settings, artifact_id: str, job_id: str, project: str) -> Artifact:
    folder = settings.root / project
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_text("gguf")
    sha256 = hash_folder(folder)
    key = store_of(settings).put(artifact_id, folder, sha256)
    owner = {"project": project, "job_id": job_id, "kind": "export", "name": "model"}
    return Artifact(id=artifact_id, bytes=4, sha256=sha256, location=key, created_at=NOW, **owner)


def write_files(settings: Settings, job_id: str, file_id: str) -> None:
    folder = settings.job_dir(job_id)
    write_data(folder / "data", train={1: chat_parts("q", "a")})
    with drafting(folder / "checkpoints", step=3, attempt=1) as draft:
        (draft / "adapter_config.json").write_text("{}")
        publish(draft, folder / "checkpoints", step=3, attempt=1)
    log: Path = attempt_dir(folder, 1) / LOG_NAME
    log.parent.mkdir(parents=True)
    log.write_text("printed")
    settings.file_path(file_id).parent.mkdir(exist_ok=True)
    settings.file_path(file_id).write_bytes(b"x")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"secret_key": KEY})


@pytest.fixture
def own(database: Database, settings: Settings) -> Rows:
    return make_rows(database, settings, "a")


@pytest.fixture
def foreign(database: Database, settings: Settings, own: Rows) -> Rows:
    return make_rows(database, settings, "b")


@pytest.fixture
def everyone(settings: Settings, database: Database, database_url: str) -> Iterator[TestClient]:
    """The API for the caller of today, who may use every project."""
    with an_api(settings, database_url) as api:
        api.app.state.engine = ScriptedEngine()  # type: ignore[attr-defined]
        yield api


@pytest.fixture
def caller(everyone: TestClient) -> Iterator[TestClient]:
    """The API for a caller of the project a."""
    with called_by(everyone, OWN):
        yield everyone


class called_by:
    def __init__(self, api: TestClient, scope: Scope) -> None:
        self._overrides: dict[Any, Any] = api.app.dependency_overrides  # type: ignore[attr-defined]
        self._scope = scope

    def __enter__(self) -> None:
        self._overrides[get_caller] = lambda: Caller("one", self._scope)

    def __exit__(self, *_: object) -> None:
        del self._overrides[get_caller]


def requests(api: Any, rows: Rows, *methods: str) -> Iterator[tuple[str, str, str]]:
    """Every route of the app with an id in its path, as (method, path, id)."""
    for path, known in api.get("/openapi.json").json()["paths"].items():
        parameters = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        for method in {method.upper() for method in known}.intersection(methods):
            if parameters and "project" not in parameters:  # a project has no row of its own
                ids = {parameter: rows.id_of(parameter, path) for parameter in parameters}
                query = QUERIES.get(path, "").format(project=rows.project)
                yield method, path.format(**ids) + query, ids[parameters[0]]


def naming(rows: Rows) -> list[tuple[str, Any, int]]:
    """The bodies that name a row, and the status of the refusal."""
    of_project = {"project": "a"}
    return [
        *((path, hub_body(continue_from={"job": rows.job_id}, **of_project), 422) for path in ("/jobs", *CHECKED)),
        ("/jobs", hub_body(continue_from={"adapter": rows.adapter_id}, **of_project), 422),
        ("/jobs", hub_body(continue_from={"adapter": rows.job_id}, **of_project), 422),
        ("/jobs", {**hub_body(**of_project), "dataset": {"source": {"file": rows.file_id}}}, 422),
        ("/generate", {"adapter": rows.adapter_id, "messages": CHAT}, 404),
        ("/generate", {"model": rows.job_id, "messages": CHAT}, 404),
        ("/generate", {"model": f"{rows.job_id}@step-3", "messages": CHAT}, 404),
        ("/v1/chat/completions", {"model": rows.adapter_id, "messages": CHAT}, 404),
        ("/v1/completions", {"model": rows.job_id, "prompt": "q"}, 404),
    ]


def refusal(api: TestClient, method: str, path: str, row_id: str, body: Any = None) -> tuple[int, str]:
    """Status and body, without what differs between two ids."""
    answer = api.request(method, path, json=body)
    error = answer.json().get("error", {})
    return answer.status_code, str({**error, "request_id": None}).replace(row_id, "ID")


def test_a_row_of_another_project_is_answered_on_every_route_as_one_that_does_not_exist(
    caller: TestClient, own: Rows, foreign: Rows
) -> None:
    asked = list(requests(caller, foreign, "GET", "POST", "PATCH", "DELETE"))
    assert len(asked) > 20

    for method, path, row_id in asked:
        unknown = new_id(row_id.partition("-")[0]) if not row_id.startswith("artifact") else row_id[:-3] + "x-1"
        found = refusal(caller, method, path, row_id, BODIES.get(method))
        assert (found[0], method, path) == (404, method, path)
        assert found == refusal(caller, method, path.replace(row_id, unknown), unknown, BODIES.get(method))


def test_no_route_changes_a_row_of_another_project(
    everyone: TestClient, database: Database, own: Rows, foreign: Rows
) -> None:
    with called_by(everyone, OWN):
        for method, path, _ in requests(everyone, foreign, "POST", "PATCH", "DELETE"):
            assert everyone.request(method, path, json=BODIES.get(method)).status_code == 404

    answers = {path: everyone.get(path).status_code for _, path, _ in requests(everyone, foreign, "GET")}
    assert set(answers.values()) == {200}
    living = read(database, foreign.living_id)
    assert (living.requested_action, living.checkpoints_requested) == (RequestedAction.RUN, 0)


def test_a_body_that_names_a_row_of_another_project_is_refused(caller: TestClient, own: Rows, foreign: Rows) -> None:
    for path, body, status in naming(foreign):
        answer = caller.post(path, json=body)
        assert (answer.status_code, path, body) == (status, path, body)


def test_a_body_that_names_a_row_of_the_own_project_is_read(caller: TestClient, own: Rows) -> None:
    answers = [caller.post(path, json=body) for path, body, _ in naming(own) if path not in CHECKED]

    refused = {error_of(answer)[1] for answer in answers if answer.status_code >= 400}
    assert refused == {"invalid_dataset"}, "its file was found, and holds no rows"
    assert [answer.status_code for answer in answers if answer.status_code < 400] == [201] * 3 + [200] * 5


def test_every_read_of_the_own_project_is_that_of_every_project(everyone: TestClient, own: Rows, foreign: Rows) -> None:
    paths = [path for _, path, _ in requests(everyone, own, "GET")]
    whole = {path: everyone.get(path) for path in paths}

    with called_by(everyone, OWN):
        assert {path: everyone.get(path).content for path in paths} == {
            path: each.content for path, each in whole.items()
        }
    assert {answer.status_code for answer in whole.values()} == {200}


def test_a_secret_of_another_project_cannot_be_stored(caller: TestClient, foreign: Rows) -> None:
    answer = caller.put("/secrets/secret-b", params={"project": "b"}, json={"value": "a-secret-value"})

    assert error_of(answer) == (422, "invalid_request", "project")
    assert caller.get("/secrets", params={"project": "b"}).json()["data"] == []


def test_a_job_of_the_own_project_is_paused_resumed_cancelled_and_deleted(caller: TestClient, own: Rows) -> None:
    answers = [caller.post(f"/jobs/{own.living_id}/{wish}").status_code for wish in OF_LIVING_JOBS]
    deleted = [
        caller.delete(path).status_code
        for path in (f"/adapters/{own.adapter_id}", f"/jobs/{own.job_id}", f"/files/{own.file_id}")
    ]

    assert (answers, deleted) == ([200, 409, 409, 202], [200, 200, 200])
    assert caller.delete(f"/artifacts/{own.artifact_id}").status_code == 200


def test_lists_and_counts_have_the_rows_of_the_own_project_alone(caller: TestClient, own: Rows, foreign: Rows) -> None:
    jobs = {own.job_id, own.living_id}
    for params in ({}, {"label": "team=x"}, {"text": "job-"}, {"label": "team=x", "status": "running"}):
        shown = {job["id"] for job in caller.get("/jobs", params=params).json()["data"]}
        assert shown == (jobs if "status" not in params else {own.living_id})
    assert caller.get("/jobs", params={"project": "b"}).json()["data"] == []

    assert [file["id"] for file in caller.get("/files").json()["data"]] == [own.file_id]
    assert [adapter["id"] for adapter in caller.get("/adapters").json()["data"]] == [own.adapter_id]
    models = {model["id"] for model in caller.get("/v1/models").json()["data"]}
    assert models == {own.adapter_id, "org/model"}
    counts = caller.get("/jobs/counts").json()["counts"]
    assert {status: count for status, count in counts.items() if count} == {"succeeded": 1, "running": 1}
    assert set(caller.get("/jobs/counts", params={"project": "b"}).json()["counts"].values()) == {0}


@pytest.mark.parametrize(("path", "row"), [("jobs", "job_id"), ("files", "file_id"), ("adapters", "adapter_id")])
def test_a_list_does_not_begin_behind_a_row_of_another_project(
    caller: TestClient, own: Rows, foreign: Rows, path: str, row: str
) -> None:
    answer = caller.get(f"/{path}", params={"after": getattr(foreign, row)})

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "after")


def test_pages_by_label_name_no_job_of_another_project(caller: TestClient, database: Database) -> None:
    own = {add_job(database, project="a", age=age, labels={"team": "x"}) for age in range(0, 30, 3)}
    for age in range(30):
        add_job(database, project="b", age=age, labels={"team": "x"})

    seen, after = list[str](), None
    while True:
        page = caller.get("/jobs", params={"label": "team=x", "limit": 3, **({"after": after} if after else {})}).json()
        seen += [job["id"] for job in page["data"]]
        after = page["last_id"]
        assert after in own
        if not page["has_more"]:
            break

    assert (len(seen), set(seen)) == (10, own)


def test_the_job_of_a_worker_is_shown_to_its_own_project(caller: TestClient, own: Rows, foreign: Rows) -> None:
    shown = {worker["name"]: worker["job_id"] for worker in caller.get("/workers").json()["data"]}

    assert shown == {"w-a": own.living_id, "w-b": None}


def test_a_name_that_means_nothing_suggests_no_adapter_of_another_project(
    caller: TestClient, own: Rows, foreign: Rows
) -> None:
    message = caller.post("/generate", json={"model": "nothing", "messages": CHAT}).json()["error"]["message"]

    assert own.adapter_id in message
    assert foreign.adapter_id not in message
    assert "name-b" not in message


@pytest.mark.parametrize("path", ["/jobs", *CHECKED])
def test_a_job_for_another_project_is_refused_by_the_field(caller: TestClient, path: str) -> None:
    assert error_of(caller.post(path, json=hub_body(project="b"))) == (422, "invalid_request", "project")

    assert caller.get("/jobs").json()["data"] == []


def test_an_upload_is_stored_in_the_project_that_it_names(caller: TestClient, settings: Settings) -> None:
    file = {"file": ("rows.jsonl", b'{"messages": [{"role": "user", "content": "q"}]}\n')}

    refused = [caller.post("/files", files=file, data=data) for data in ({"project": "b"}, {"project": "../a"})]
    stored = caller.post("/files", files=file, data={"project": "a"})

    assert [error_of(answer)[::2] for answer in refused] == [(422, "project")] * 2
    assert (stored.status_code, stored.json()["project"]) == (201, "a")
    assert [file.name for file in (settings.root / "files").iterdir()] == [stored.json()["id"]]
    assert caller.get(f"/files/{stored.json()['id']}").status_code == 200


def test_an_idempotency_key_of_another_project_shows_nothing_of_its_job(everyone: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    body = hub_body(project="b")
    made = everyone.post("/jobs", json=body, headers=key).json()["id"]

    with called_by(everyone, OWN):
        answers = [everyone.post("/jobs", json=hub_body(project="a"), headers=key) for _ in range(2)]
        listed = [job["id"] for job in everyone.get("/jobs").json()["data"]]

    assert [answer.status_code for answer in answers] == [201, 200]
    assert made not in "".join(answer.text for answer in answers)
    assert listed == [answers[0].json()["id"]]


def test_what_a_job_of_another_project_continues_from_is_kept_and_the_job_is_not_named(
    everyone: TestClient, database: Database, own: Rows
) -> None:
    user = add_job(database, JobStatus.RUNNING, project="b", continues=own.adapter_id)

    with called_by(everyone, OWN):
        answer = everyone.delete(f"/adapters/{own.adapter_id}")

    assert error_of(answer)[:2] == (409, "adapter_is_in_use")
    assert "a job of another project" in answer.text
    assert user not in answer.text


def test_polls_of_several_scopes_are_read_at_once_and_each_is_answered_in_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = {project: add_job(database, project=project) for project in ("a", "b")}
    scopes = [OWN, Scope(frozenset({"b"})), EVERY_PROJECT, Scope(frozenset())]
    reads, polls = [], Polls(database)

    def count(*arguments: Any) -> Any:
        reads.append(arguments)
        return details.read_details(*arguments)

    monkeypatch.setattr("app.jobs.views.polls.read_details", count)

    async def ask() -> list[bytes | BaseException]:
        asked = (polls.answer(scope, job_id) for scope in scopes for job_id in jobs.values())
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask())

    assert [isinstance(answer, NotFound) for answer in answers] == [False, True, True, False, False, False, True, True]
    assert len(reads) == 1
