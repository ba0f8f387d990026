"""A job that has no adapter answers with its checkpoint: which one is meant, and what is told of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.checkpoints import Manifest
from app.contracts.generation import EngineError
from app.database.connection import Database
from app.jobs.states import JobStatus
from tests.support.jobs import add_job
from tests.support.jobs_api import error_of
from tests.support.scripted_engine import FINISH, ScriptedEngine, add_adapter
from tests.support.specs import a_body
from worker.checkpoints import drafting, prune, publish

NO_FILES: Mapping[str, str] = {}
GONE = EngineError(status=404, code="checkpoint_gone", message="it is not kept any more", param="adapter")
LOFTQ = {"model": {"load_in_4bit": False}, "lora": {"loftq_config": {}}}
FULL = {"model": {"load_in_4bit": False, "full_finetuning": True}}


class PruningEngine(ScriptedEngine):
    """The first checkpoint that it is asked for is gone, and a newer one is there, when it wants to read it."""

    def __init__(self, folder: Path) -> None:
        super().__init__([GONE])
        self._folder = folder

    async def generate(self, order: Any) -> Any:
        if len(self.orders) == 1:
            self._script = [FINISH]
        async for event in super().generate(order):
            if event is GONE:
                save(self._folder, 60)
                prune(self._folder, 1)
            yield event


@pytest.fixture
def api(api: TestClient) -> TestClient:
    api.app.state.engine = ScriptedEngine()  # type: ignore[attr-defined]
    return api


def save(
    folder: Path, step: int, attempt: int = 1, base: str = "org/model", files: Mapping[str, str] = NO_FILES
) -> Manifest:
    """A checkpoint as a trainer leaves it, with other weights in each."""
    contents = {"adapter_config.json": json.dumps({"base_model_name_or_path": base}), **files}
    with drafting(folder, step=step, attempt=attempt) as draft:
        for name, text in {**contents, "optimizer.pt": f"{step} {attempt}"}.items():
            (draft / name).write_text(text)
        return publish(draft, folder, step=step, attempt=attempt)


def ask(api: TestClient, name: str, field: str = "model", **body: Any) -> Any:
    return api.post("/generate", json={"prompt": "x", field: name, **body})


def orders(api: TestClient) -> list[Any]:
    return list(api.app.state.engine.orders)  # type: ignore[attr-defined]


UNFINISHED = [status for status in JobStatus if status is not JobStatus.SUCCEEDED]


@pytest.mark.parametrize("status", UNFINISHED)
def test_the_newest_checkpoint_answers_for_a_job_without_an_adapter(
    api: TestClient, database: Database, settings: Settings, status: JobStatus
) -> None:
    job_id = add_job(database, status)
    save(settings.checkpoints_dir(job_id), 20)
    newest = save(settings.checkpoints_dir(job_id), 40, attempt=2)

    answer = ask(api, job_id).json()

    assert (answer["model"], answer["adapter"]) == (f"{job_id}@step-40", None)
    told = {"job": job_id, "step": 40, "attempt": 2, "version": newest.version, "proved": False}
    assert answer["checkpoint"] == told
    ref = orders(api)[0].adapter
    assert (ref.path, ref.kind, ref.version) == (str(newest.path), "lora", newest.version)
    assert ref.language == str(settings.data_dir(job_id) / "tokenizer")


@pytest.mark.parametrize("field", ["model", "adapter"])
def test_a_step_that_is_kept_can_be_asked(api: TestClient, database: Database, settings: Settings, field: str) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    found = [save(settings.checkpoints_dir(job_id), step) for step in (20, 40)]

    answer = ask(api, f"{job_id}@step-20", field).json()

    assert answer["model"] == f"{job_id}@step-20"
    assert orders(api)[0].adapter.path == str(found[0].path)


@pytest.mark.parametrize("wanted", ["step-30", "step-", "20", "v1", "step-99999999999", ""])
def test_what_is_not_kept_is_refused_with_what_is(
    api: TestClient, database: Database, settings: Settings, wanted: str
) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    for step in (20, 40):
        save(settings.checkpoints_dir(job_id), step)

    answer = ask(api, f"{job_id}@{wanted}", "adapter")

    assert error_of(answer) == (404, "unknown_checkpoint", "adapter")
    assert "step-40, step-20" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("status", "is_offered"), [(JobStatus.RUNNING, True), (JobStatus.FAILED, False)])
def test_a_job_without_a_checkpoint_says_how_to_get_one_unless_it_has_ended(
    api: TestClient, database: Database, status: JobStatus, is_offered: bool
) -> None:
    job_id = add_job(database, status)

    answer = ask(api, job_id)

    assert error_of(answer) == (409, "job_has_no_adapter", "model")
    assert (f"POST /jobs/{job_id}/checkpoint" in answer.json()["error"]["message"]) is is_offered


def test_a_checkpoint_that_is_not_whole_is_passed_over(api: TestClient, database: Database, settings: Settings) -> None:
    job_id = add_job(database, JobStatus.FAILED)
    save(settings.checkpoints_dir(job_id), 20)
    torn = save(settings.checkpoints_dir(job_id), 40)
    (torn.path / "optimizer.pt").unlink()

    assert ask(api, job_id).json()["model"] == f"{job_id}@step-20"


def test_a_job_that_has_succeeded_answers_with_its_adapter_and_with_a_checkpoint_by_its_step(
    api: TestClient, database: Database, settings: Settings, tmp_path: Path
) -> None:
    job_id = add_job(database, JobStatus.SUCCEEDED)
    adapter = add_adapter(database, tmp_path, job_id=job_id)
    save(settings.checkpoints_dir(job_id), 20)

    assert ask(api, job_id).json()["model"] == adapter.name
    assert ask(api, f"{job_id}@step-20").json()["checkpoint"]["step"] == 20


def test_a_temporary_job_and_an_unknown_job_have_no_checkpoints(api: TestClient, database: Database) -> None:
    for job_id in (add_job(database, JobStatus.VALIDATING, is_temporary=True), "job-" + "a" * 24):
        assert error_of(ask(api, f"{job_id}@step-1")) == (404, "unknown_job", "model")


def test_the_base_is_the_one_that_was_really_loaded(api: TestClient, database: Database, settings: Settings) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    folder = settings.checkpoints_dir(job_id)
    for step, base in enumerate(("org/model", "org/model-bnb-4bit"), 1):
        save(folder, step, base=base)

        ask(api, job_id)

        assert orders(api)[-1].base.source == base


def test_a_whole_model_answers_as_one(api: TestClient, database: Database, settings: Settings) -> None:
    job_id = add_job(database, JobStatus.RUNNING, body=a_body(**FULL))
    save(settings.checkpoints_dir(job_id), 20, files={"config.json": "{}"})

    assert ask(api, job_id).status_code == 200
    assert orders(api)[0].adapter.kind == "full"


@pytest.mark.parametrize("groups", [LOFTQ, FULL], ids=["loftq", "no-config"])
def test_a_checkpoint_that_cannot_stand_by_itself_is_refused(
    api: TestClient, database: Database, settings: Settings, groups: dict[str, Any]
) -> None:
    job_id = add_job(database, JobStatus.RUNNING, body=a_body(**groups))
    save(settings.checkpoints_dir(job_id), 20)

    assert error_of(ask(api, job_id)) == (409, "checkpoint_not_servable", "model")
    assert orders(api) == []


@pytest.mark.parametrize("stream", [False, True])
def test_where_the_newest_makes_room_for_a_newer_one_that_one_answers(
    api: TestClient, database: Database, settings: Settings, stream: bool
) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    save(settings.checkpoints_dir(job_id), 20)
    api.app.state.engine = PruningEngine(settings.checkpoints_dir(job_id))  # type: ignore[attr-defined]

    answer = ask(api, job_id, stream=stream)

    assert answer.status_code == 200
    assert f"{job_id}@step-60" in answer.text
    assert len(orders(api)) == 2


def test_a_step_that_makes_room_is_refused_with_what_is_kept(
    api: TestClient, database: Database, settings: Settings
) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    save(settings.checkpoints_dir(job_id), 20)
    api.app.state.engine = PruningEngine(settings.checkpoints_dir(job_id))  # type: ignore[attr-defined]

    answer = ask(api, f"{job_id}@step-20")

    assert error_of(answer) == (404, "unknown_checkpoint", "model")
    assert "step-60" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_openais_door_knows_them_and_does_not_list_them(
    api: TestClient, database: Database, settings: Settings, path: str
) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    found = save(settings.checkpoints_dir(job_id), 20)
    body = {"prompt": "x"} if path == "completions" else {"messages": [{"role": "user", "content": "x"}]}

    for name in (job_id, f"{job_id}@step-20"):
        answer = api.post(f"/v1/{path}", json={"model": name, **body}).json()

        assert answer["model"] == f"{job_id}@step-20"
        assert answer["system_fingerprint"] == f"fp_{job_id}@{found.version}"
    assert api.get("/v1/models").json()["data"] == []
