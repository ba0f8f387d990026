"""Secrets of every kind are in no output of the whole service, also where downloads and jobs fail.

What is searched: answers, logs, every other file, rows, messages of webhooks, and what the kernel shows of processes.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from openai import OpenAI
from sqlalchemy import MetaData
from sqlalchemy.engine import make_url

from app.database.migrate import closing_engine
from tests.e2e.stack import Stack, running
from tests.e2e.test_environments import REPO
from tests.integration.conftest import a_postgres_database
from tests.support import hub
from tests.support.process_watch import WORDS, ProcessWatch
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import Received, Receiver, receiving

CANARIES = {
    "hub": hub.TOKEN,
    "wrong": "hf_CANARYofAWrongTokenOfTheHub0123",
    "tracker": "CANARY-of-a-tracker-0123",
    "database": "CANARY-of-the-database-0123",
    "engine": "CANARY-of-the-engine-0123",
    "key": base64.b64encode(b"CANARY of the key of secrets 012").decode(),
}
# The processes that may have a secret in their environment, each with its guardian.
MAY_HAVE = {
    "hub": {"check", "fetch"},
    "wrong": {"check"},
    "tracker": {"train"},
    "database": {"up", "api", "checker", "trainer"},
    "engine": {"up", "api", "trainer", "engine"},
    "key": {"up", "api", "checker", "trainer"},
}
OPEN, PRIVATE_ROWS = "acme/tiny", "acme/token-rows"


@dataclass
class Seen:
    """Which kinds of processes there were, which canaries were in their environments, and in any command line."""

    had: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    in_words: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)

    def note(self, kind: str, line: str, environment: str) -> None:
        self.kinds.add(kind)
        for name, value in CANARIES.items():
            if value in line:
                self.in_words.add(name)
            if value in environment:
                self.had[name].add(kind)


@dataclass
class Found:
    """All outputs of a service that had every canary, by the names of the places."""

    canaries: dict[str, str]
    outputs: dict[str, bytes]
    seen: Seen
    jobs: dict[str, dict[str, Any]]
    receiver: Receiver


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    """This host's PostgreSQL trusts loopback: it takes any password."""
    for url in a_postgres_database():
        yield make_url(url).set(password=CANARIES["database"]).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def found(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("c")
    model = build_tiny_model(folder / "model")
    with hub.running(hub.Hub(folder / "hub")) as served, receiving() as receiver:
        for repository in (REPO, OPEN):
            served.add("models", repository, {path.name: path.read_bytes() for path in model.iterdir()})
        served.add("datasets", PRIVATE_ROWS, {"train.jsonl": b'{"prompt": "hello", "completion": "good day"}\n' * 8})
        environment = {
            "HF_ENDPOINT": served.url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_VERBOSITY": "debug",
            "TUNESMITH_LOG_LEVEL": "DEBUG",
            "TUNESMITH_DATABASE_URL": database_url,
            "TUNESMITH_ENGINE_KEY": CANARIES["engine"],
            "TUNESMITH_SECRET_KEY": CANARIES["key"],
            "TUNESMITH_WEBHOOK_PRIVATE_NETWORKS": "127.0.0.1",
        }
        with running(folder / "home", environment) as stack:
            seen, (canaries, jobs, answers) = use(stack, receiver)
        rows = {f"table {name}": content for name, content in rows_of(database_url)}
    files = {str(path): path.read_bytes() for path in files_of(folder)}
    told = {f"message {number}": got.body for number, got in enumerate(receiver.received)}
    return Found(canaries, {**answers, **files, **rows, **told}, seen, jobs, receiver)


def use(stack: Stack, receiver: Receiver) -> tuple[Seen, tuple[dict[str, str], dict[str, Any], dict[str, bytes]]]:
    seen = Seen()
    with ProcessWatch(stack.process.pid, seen.note).watching():
        for name in ("hub", "wrong", "tracker"):
            stored = stack.api.put(f"/secrets/{name}", json={"value": CANARIES[name]})
            assert stored.status_code == 200, stored.text
        made = stack.api.post("/webhooks", json={"url": receiver.url}).json()
        jobs = train(stack)
        wait_for("the ends are told", lambda: sum(is_end(got) for got in receiver.received) == 3)
    canaries = {**CANARIES, "webhook": made["signing_secret"].removeprefix("whsec_")}
    return seen, (canaries, jobs, answers_of(stack, made["id"], [job["id"] for job in jobs.values()]))


def is_end(got: Received) -> bool:
    return str(json.loads(got.body)["type"]).endswith((".succeeded", ".failed"))


def train(stack: Stack) -> dict[str, dict[str, Any]]:
    """A job that needs its token, and two whose downloads are refused."""
    model = {"model_name": REPO, "max_seq_length": 256, "load_in_4bit": False}
    right = {**model, "token": "secret://hub"}
    training = {"max_steps": 3, "learning_rate": 0.02}
    private = {"source": {"hub": PRIVATE_ROWS, "token": "secret://wrong"}}
    ids = {
        "right": stack.submit(model=right, training=training, environment={"WANDB_API_KEY": "secret://tracker"}),
        "wrong model": stack.submit(model={**model, "token": "secret://wrong"}),
        "wrong rows": stack.submit(model={**model, "model_name": OPEN}, dataset=private),
    }
    jobs = {name: stack.wait(job_id, "succeeded", "failed") for name, job_id in ids.items()}
    answer = stack.generate(adapter=ids["right"])
    jobs["right"]["answer"] = answer.status_code
    refused = stack.api.post("/jobs", json={"model": {**model, "token": CANARIES["wrong"]}, "dataset": private})
    jobs["refused"] = {"id": ids["right"], "status": refused.status_code, "text": refused.text}
    return jobs


def answers_of(stack: Stack, webhook_id: str, job_ids: list[str]) -> dict[str, bytes]:
    of_job = ("", "/events", "/logs", "/logs?attempt=1", "/metrics", "/checkpoints", "/artifacts", "/data?record=1")
    paths = [f"/jobs/{job_id}{part}" for job_id in job_ids for part in of_job]
    paths += ["/jobs", "/files", "/adapters", "/workers", "/models", "/v1/models", "/readyz", "/openapi.json"]
    paths += ["/webhooks", f"/webhooks/{webhook_id}", f"/webhooks/{webhook_id}/deliveries", "/secrets", "/secrets/hub"]
    return {f"GET {path}": stack.api.get(path).content for path in paths}


def rows_of(database_url: str) -> Iterator[tuple[str, bytes]]:
    with closing_engine(database_url) as engine, engine.connect() as connection:
        schema = MetaData()
        schema.reflect(connection)
        for table in schema.sorted_tables:
            yield table.name, str(connection.execute(table.select()).all()).encode()


def files_of(folder: Path) -> list[Path]:
    """Every file that the service has left, its output included; not those of the hub that the test serves."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(folder / "hub")]


def test_what_the_secrets_are_for_has_happened(found: Found) -> None:
    statuses = {name: job["status"] for name, job in found.jobs.items()}
    codes = [found.jobs[name]["error"]["code"] for name in ("wrong model", "wrong rows")]

    assert statuses == {"right": "succeeded", "wrong model": "failed", "wrong rows": "failed", "refused": 422}
    assert codes == ["private_or_unknown"] * 2
    assert found.jobs["right"]["answer"] == 200, "the engine has no token, and the base in the cache"
    assert set(WORDS.values()) - {"template", "grammar", "broker"} <= found.seen.kinds


def test_messages_are_signed_by_the_secret_that_was_shown_once(found: Found) -> None:
    secret = f"whsec_{found.canaries['webhook']}"

    client = OpenAI(api_key="x")
    events = [client.webhooks.unwrap(got.body, got.headers, secret=secret) for got in found.receiver.received]

    of_jobs = {f"fine_tuning.job.{each}" for each in ("started", "succeeded", "failed")}
    assert {str(event.type) for event in events} == {*of_jobs, "adapter.published"}


def test_no_output_has_a_secret(found: Found) -> None:
    assert any("order.json" in place for place in found.outputs)
    assert any("output.log" in place for place in found.outputs)
    assert any("adapter_model" in place for place in found.outputs)
    assert len(found.outputs) > 100
    forms = {name: {value.encode(), quote(value, safe="").encode()} for name, value in found.canaries.items()}

    leaks = [
        (name, place)
        for place, content in found.outputs.items()
        for name, written in forms.items()
        if any(form in content for form in written)
    ]

    assert leaks == []


def test_a_secret_that_is_there_would_be_found(found: Found) -> None:
    content = b"".join(found.outputs.values())

    assert b"secret://hub" in content
    assert b"private_or_unknown" in content


@pytest.mark.parametrize("name", MAY_HAVE)
def test_a_secret_is_in_the_environment_of_the_processes_that_need_it_alone(found: Found, name: str) -> None:
    assert found.seen.had[name] == MAY_HAVE[name]


def test_no_command_line_has_a_secret(found: Found) -> None:
    assert found.seen.in_words == set()
