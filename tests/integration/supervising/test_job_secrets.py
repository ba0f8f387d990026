"""A child gets the secrets that its job names, and what it writes of them is masked."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.database.connection import Database
from app.errors import InvalidRequest
from app.jobs.models import Job
from app.jobs.stored import read_plan
from app.jobs.views.logs import LOG_NAME
from app.redaction import REDACTOR
from app.scope import EVERY_PROJECT
from app.secrets import repository, service
from tests.support.hub import SHA, TOKEN, Hub, running
from tests.support.jobs import add_job, read
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from tests.support.workers import settings_of, slot_acquired
from worker.failures import SystemFault
from worker.supervising.attempt import EVENTS_NAME, ChildCommand, attempt_folder, run_child
from worker.supervising.context import WorkerContext
from worker.supervising.job_secrets import hub_secrets, training_secrets, with_secrets
from worker.supervising.lifecycle import take

KEY, OTHER_KEY = (base64.b64encode(letter * 32).decode() for letter in (b"k", b"o"))
CANARY = "hf_CANARY-of-this-test"
# Prints its secret in two halves, a moment apart in one write each, and tells it in an event and a trace.
LEAKING = """
import json, os, sys
secret = os.environ["HF_TOKEN"]
for part in (secret[:7], secret[7:], "\\n", json.dumps({"token": secret}), "\\n"):
    os.write(1, part.encode())
with open("events.jsonl", "a") as events:
    told = {"kind": "notice", "at": "2026-11-30T00:00:00Z", "code": "leak", "message": "it is " + secret}
    events.write(json.dumps(told) + "\\n")
raise ValueError(secret)
"""


@pytest.fixture
def context(database: Database, home: Path) -> Iterator[WorkerContext]:
    with slot_acquired(settings_of(home, secret_key=KEY), database) as found:
        yield found


def a_job_with(database: Database, settings: Settings, **groups: Any) -> tuple[Job, Any]:
    """A waiting job whose project has the secret `hf`, and its plan."""
    with database.writer() as session:
        service.store(session, EVERY_PROJECT, settings, "default", "hf", CANARY)
    body = a_body(**groups)
    job = read(database, add_job(database, body=body))
    return job, read_plan(job)


def test_a_child_that_prints_and_tells_its_secret_is_masked(context: WorkerContext, database: Database) -> None:
    job_id = add_job(database, body=a_body())
    taken = take(context)
    assert taken is not None
    folder = attempt_folder(context, read(database, job_id))
    command = ChildCommand([sys.executable, "-c", LEAKING], {"HF_TOKEN": CANARY}, folder, None, secrets=[CANARY])

    report = run_child(context, taken.held, command)

    assert report.exit_code == 1
    written = {name: (folder / name).read_text() for name in (LOG_NAME, EVENTS_NAME)}
    assert not any(CANARY in text for text in written.values())
    assert written[LOG_NAME].count("[redacted]") == 3
    assert read(database, job_id).notices[0]["message"] == "it is " + "[redacted]".ljust(len(CANARY), "*")
    assert [json.loads(line)["code"] for line in written[EVENTS_NAME].splitlines()] == ["leak"]


def test_the_token_of_a_job_takes_the_place_of_the_operators(context: WorkerContext, database: Database) -> None:
    job, plan = a_job_with(database, context.settings, model={"model_name": "org/m", "token": "secret://hf"})

    secrets = hub_secrets(context, job, plan)

    operators = {"HF_TOKEN": "theirs", "HUGGING_FACE_HUB_TOKEN": "theirs", "HF_TOKEN_PATH": "/x", "PATH": "/bin"}
    assert with_secrets(operators, secrets) == {"HF_TOKEN": CANARY, "PATH": "/bin"}
    assert with_secrets(operators, {}) == operators
    assert training_secrets(context, job, plan) == {}
    assert REDACTOR.text(f"a {CANARY}") == "a [redacted]"
    with database.reader() as session:
        row = repository.get(session, EVERY_PROJECT, "default", "hf")
        assert row is not None
        assert row.last_used_at is not None


def test_variables_of_trackers_are_for_the_training_alone(context: WorkerContext, database: Database) -> None:
    job, plan = a_job_with(database, context.settings, environment={"WANDB_API_KEY": "secret://hf"})

    assert training_secrets(context, job, plan) == {"WANDB_API_KEY": CANARY}
    assert hub_secrets(context, job, plan) == {}


def test_a_secret_that_was_deleted_meanwhile_is_named(context: WorkerContext, database: Database) -> None:
    job, plan = a_job_with(database, context.settings, model={"model_name": "org/m", "token": "secret://hf"})
    with database.writer() as session:
        service.delete(session, EVERY_PROJECT, "default", "hf")

    with pytest.raises(InvalidRequest, match="found 'secret://hf'") as refusal:
        hub_secrets(context, job, plan)

    assert (refusal.value.param, refusal.value.details[0].code) == ("model.token", "unknown_secret")


def test_a_worker_with_another_key_says_so(context: WorkerContext, database: Database) -> None:
    other = context.settings.model_copy(update={"secret_key": OTHER_KEY})
    job, plan = a_job_with(database, other, model={"model_name": "org/m", "token": "secret://hf"})

    with pytest.raises(SystemFault, match="another key than TUNESMITH_SECRET_KEY") as fault:
        hub_secrets(context, job, plan)

    assert (fault.value.failure.code, CANARY in str(fault.value)) == ("wrong_secret_key", False)


def fetched(folder: Path, hub: Hub, revision: str | None, **env: str) -> str:
    """What a process prints that fetches a private base, and the name of its error."""
    code = f"from worker.downloads import fetch_model\nprint(fetch_model('org/token-tiny', {revision!r}, 10**9))"
    places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env={**inherited, **places, **env}, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_base_in_the_cache_at_its_commit_needs_no_token(tmp_path: Path) -> None:
    """As the engine has it: what the job has downloaded with its token is there, and the engine has none."""
    files = {path.name: path.read_bytes() for path in build_tiny_model(tmp_path / "tiny").iterdir()}
    with running(Hub(tmp_path / "hub")) as hub:
        hub.add("models", "org/token-tiny", files)
        before = fetched(tmp_path, hub, SHA)
        of_job = fetched(tmp_path, hub, SHA, HF_TOKEN=TOKEN)
        of_engine = fetched(tmp_path, hub, SHA)
        of_stranger = fetched(tmp_path, hub, None)

    assert "RepositoryNotFoundError" in before
    assert f"snapshots/{SHA}" in of_job
    assert of_engine == of_job
    assert "RepositoryNotFoundError" in of_stranger, "a name without a commit is asked for at the hub"
