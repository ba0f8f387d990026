"""Secrets of projects: stored, named by jobs, and never shown."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.connection import Base, Database
from app.database.migrate import upgrade
from app.encryption import open_encryption
from app.errors import ServiceError
from app.jobs.models import Job
from app.reencryption import reencrypt
from app.scope import EVERY_PROJECT, Scope
from app.secrets import repository
from app.secrets.models import ProjectSecret
from app.webhooks.models import WebhookEndpoint
from tests.support.jobs_api import an_api, error_of, hub_body

KEY, NEW_KEY = (base64.b64encode(letter * 32).decode() for letter in (b"k", b"n"))
CANARY = "hf_CANARY-of-this-test"


@pytest.fixture
def served(settings: Settings) -> Iterator[Any]:
    chosen = settings.model_copy(update={"secret_key": KEY})
    settings.root.mkdir(parents=True)
    upgrade(chosen.database)
    with an_api(chosen, chosen.database) as api:
        yield api, Database.open(chosen.database), chosen


@pytest.fixture
def secrets_api(served: Any) -> TestClient:
    return served[0]  # type: ignore[no-any-return]


def put(api: TestClient, name: str = "hf", value: Any = CANARY, **params: str) -> Any:
    return api.put(f"/secrets/{name}", json={"value": value}, params=params)


def test_a_secret_is_stored_encrypted_and_listed_without_its_value(served: Any) -> None:
    api, database, settings = served
    stored = put(api)
    answers = [stored, api.get("/secrets"), api.get("/secrets/hf")]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert [each["name"] for each in answers[1].json()["data"]] == ["hf"]
    assert not any(CANARY in answer.text for answer in answers)
    with database.reader() as session:
        row = repository.get(session, EVERY_PROJECT, "default", "hf")
        assert row is not None
        assert CANARY not in row.ciphertext
        assert open_encryption(settings).decrypt(row.ciphertext) == CANARY


def test_a_secret_is_replaced_and_deleted(secrets_api: TestClient) -> None:
    first = put(secrets_api).json()
    second = put(secrets_api, value="hf_another-value").json()

    assert first["created_at"] == second["created_at"]
    assert secrets_api.delete("/secrets/hf").json() == {"name": "hf", "object": "secret", "deleted": True}
    for answer in (secrets_api.delete("/secrets/hf"), secrets_api.get("/secrets/hf")):
        assert error_of(answer) == (404, "unknown_secret", "name")


@pytest.mark.parametrize(
    "value", ["", "CANARY", "CANARY with spaces", "CANARY\nline", "CANARYü-umlaut", 5, None, ["CANARY"]]
)
def test_a_value_that_cannot_be_kept_is_refused_without_repeating_it(secrets_api: TestClient, value: Any) -> None:
    answer = put(secrets_api, value=value)

    assert error_of(answer) == (422, "invalid_request", "value")
    assert "CANARY" not in answer.text


@pytest.mark.parametrize(
    "sent",
    [
        {"content": b'{"value": "hf_CANARY-of-this-test"}'},  # as curl sends it without a header
        {"content": b"hf_CANARY-of-this-test"},
        {"content": b'{"value": "hf_CANARY-of', "headers": {"content-type": "application/json"}},
        {"json": CANARY},
        {"json": [CANARY]},
        {"json": {"values": CANARY}},
        {"json": {"value": {"value": CANARY}}},
        {"data": {"value": CANARY}},
    ],
)
def test_a_body_that_cannot_be_read_is_not_repeated(secrets_api: TestClient, sent: dict[str, Any]) -> None:
    answer = secrets_api.put("/secrets/hf", **sent)

    assert answer.status_code == 422
    assert "CANARY" not in answer.text


def test_secrets_of_two_projects_have_nothing_to_do_with_each_other(secrets_api: TestClient) -> None:
    put(secrets_api, project="a")

    assert secrets_api.get("/secrets/hf", params={"project": "b"}).status_code == 404
    assert secrets_api.get("/secrets").json()["data"] == []
    body = hub_body(model={"token": "secret://hf"})
    assert secrets_api.post("/jobs", json={**body, "project": "a"}).status_code == 201
    assert error_of(secrets_api.post("/jobs", json={**body, "project": "b"})) == (422, "invalid_request", "model.token")


SPECS = {
    "model.token": lambda value: hub_body(model={"token": value}),
    "dataset.source.token": lambda value: {
        **hub_body(),
        "dataset": {"source": {"hub": "org/chats", "token": value}},
    },
    "dataset.eval_source.token": lambda value: {
        **hub_body(),
        "dataset": {"source": {"hub": "org/chats"}, "eval_source": {"hub": "org/more", "token": value}},
    },
    "environment.WANDB_API_KEY": lambda value: hub_body(environment={"WANDB_API_KEY": value}),
}


@pytest.mark.parametrize("field", SPECS)
def test_a_name_that_the_project_does_not_have_is_refused_by_the_field(secrets_api: TestClient, field: str) -> None:
    answer = secrets_api.post("/jobs", json=SPECS[field]("secret://nobody"))

    assert error_of(answer) == (422, "invalid_request", field)
    assert answer.json()["error"]["details"][0]["code"] == "unknown_secret"


@pytest.mark.parametrize(
    "value", ["hf_CANARY", "secret://", "secret://CANARY/x", "secret://-CANARY", 5.5, ["CANARY"], True]
)
@pytest.mark.parametrize("field", SPECS)
@pytest.mark.parametrize("path", ["/jobs", "/jobs/validate", "/jobs/estimate"])
def test_a_value_that_is_no_reference_is_refused_without_repeating_it(
    secrets_api: TestClient, field: str, value: Any, path: str
) -> None:
    answer = secrets_api.post(path, json=SPECS[field](value))

    assert error_of(answer) == (422, "invalid_request", field)
    assert "CANARY" not in answer.text
    assert "5.5" not in answer.text


def test_a_job_has_one_hub_token(secrets_api: TestClient) -> None:
    body = hub_body(model={"token": "secret://one"})
    body["dataset"]["source"]["token"] = "secret://two"

    answer = secrets_api.post("/jobs", json=body)

    assert error_of(answer) == (422, "invalid_request", "dataset.source.token")


def test_only_named_variables_can_be_set(secrets_api: TestClient) -> None:
    answer = secrets_api.post("/jobs", json=hub_body(environment={"LD_PRELOAD": "secret://hf"}))

    assert answer.status_code == 422
    assert "WANDB_API_KEY" in answer.text


def test_rows_of_a_job_hold_the_reference_alone(served: Any) -> None:
    api, database, _ = served
    put(api)
    job_id = api.post("/jobs", json=hub_body(model={"token": "secret://hf"})).json()["id"]

    with database.reader() as session:
        job = session.get_one(Job, job_id)
    assert (job.sent["model"]["token"], job.plan["model"]["token"]) == ("secret://hf", "secret://hf")
    with database.engine.connect() as connection:
        rows = [str(row) for table in Base.metadata.sorted_tables for row in connection.execute(table.select())]
    assert len(rows) > 3
    assert not any(CANARY in row for row in rows)


def test_a_scope_finds_its_own_secrets_alone(served: Any) -> None:
    api, database, _ = served
    put(api, project="a")

    with database.reader() as session:
        found = {name: repository.get(session, Scope(frozenset({name})), "a", "hf") for name in ("a", "b")}
        assert repository.of_project(session, Scope(frozenset({"b"})), "a", 9) == []
    assert (found["a"] is not None, found["b"]) == (True, None)


def test_all_secrets_are_encrypted_again_so_that_the_old_key_can_go(served: Any) -> None:
    api, database, settings = served
    put(api)
    made = api.post("/webhooks", json={"url": "https://example.com"}).json()
    api.post(f"/webhooks/{made['id']}/rotate_secret", json={"keep_old_secret_active_for_24_hours": True})
    both = settings.model_copy(update={"secret_key": f"{NEW_KEY},{KEY}"})

    counts = [reencrypt(both), reencrypt(settings.model_copy(update={"secret_key": f"{KEY},{NEW_KEY}"}))]
    last = reencrypt(both)

    assert ([*counts, last], len(stored_secrets(database))) == ([3, 3, 3], 3)
    alone = open_encryption(settings.model_copy(update={"secret_key": NEW_KEY}))
    values = [alone.decrypt(each) for each in stored_secrets(database)]
    assert values[0] == CANARY
    assert made["signing_secret"] in values[1:]


def test_with_a_wrong_key_nothing_is_encrypted_again(served: Any) -> None:
    api, database, settings = served
    put(api, "a")
    before = stored_secrets(database)

    with pytest.raises(ServiceError, match="another key than TUNESMITH_SECRET_KEY"):
        reencrypt(settings.model_copy(update={"secret_key": NEW_KEY}))

    assert stored_secrets(database) == before


def stored_secrets(database: Database) -> list[str]:
    with database.reader() as session:
        endpoints = session.query(WebhookEndpoint).all()
        tokens = [each.ciphertext for each in session.query(ProjectSecret)]
    return [*tokens, *(each for row in endpoints for each in (row.secret, row.previous_secret) if each is not None)]
