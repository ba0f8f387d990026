"""`continue_from`: what does not fit is refused by its field, and what is gone on from stays until that has ended."""

import json
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.adapters.models import Adapter
from app.config import Settings
from app.contracts.spec import JobSpec
from app.database.connection import Database
from app.jobs import continuing, repository
from app.jobs.models import Checkpoint
from app.jobs.states import ENDED, JobStatus
from app.scope import EVERY_PROJECT
from tests.support.jobs import NOW, a_job, add_job, read
from tests.support.jobs_api import error_of, hub_body
from tests.support.scripted_engine import add_adapter

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def adapter(database: Database, tmp_path: Path) -> Adapter:
    return add_adapter(database, tmp_path)


def add_origin(database: Database, *steps: int, status: JobStatus = JobStatus.FAILED, **values: Any) -> str:
    """A job that has kept checkpoints of these steps."""
    job_id = add_job(database, status, **values)
    with database.writer() as session:
        for step in steps:
            row = {"path": f"/ck/{step}", "bytes": 1, "sha256": "ab", "seconds": 0.1, "created_at": NOW}
            session.add(Checkpoint(job_id=job_id, step=step, epoch=1, **row))
        session.commit()
    return job_id


def post(api: TestClient, origin: dict[str, Any], **groups: Any) -> Any:
    return api.post("/jobs", json=hub_body(continue_from=origin, **groups))


def describe_lora(adapter: Adapter, **config: Any) -> None:
    (Path(adapter.path) / "adapter_config.json").write_text(json.dumps(config))


def test_a_job_goes_on_from_an_adapter_by_any_of_its_names(
    api: TestClient, database: Database, adapter: Adapter
) -> None:
    for name in (adapter.id, adapter.name, adapter.job_id):
        answer = post(api, {"adapter": name})
        assert answer.status_code == 201, answer.text
        assert read(database, answer.json()["id"]).continues == adapter.id


def test_a_job_goes_on_from_a_checkpoint(api: TestClient, database: Database) -> None:
    origin = add_origin(database, 20, 40)

    for step in (None, 20, 40):
        answer = post(api, {"job": origin, "step": step})
        assert answer.status_code == 201, answer.text
        assert read(database, answer.json()["id"]).continues == origin


@pytest.mark.parametrize(
    ("origin", "field"),
    [
        ({"adapter": "adapter-" + "a" * 24}, "continue_from.adapter"),
        ({"adapter": "../x"}, "continue_from.adapter"),
        ({"adapter": "a\0b"}, "continue_from.adapter"),
        ({"job": "job-" + "a" * 24}, "continue_from.job"),
        ({"job": "a\0b"}, "continue_from.job"),
        ({"job": ""}, "continue_from.job"),
        ({"job": "job-" + "a" * 24, "step": 0}, "continue_from.step"),
        ({"job": "job-" + "a" * 24, "step": True}, "continue_from.step"),
        ({}, "continue_from"),
        ({"adapter": "adapter-x", "job": "job-" + "a" * 24}, "continue_from"),
        ({"adapter": "adapter-x", "step": 3}, "continue_from.step"),
    ],
)
def test_what_is_not_there_cannot_be_gone_on_from(api: TestClient, origin: dict[str, Any], field: str) -> None:
    answer = post(api, origin)

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field)


@pytest.mark.parametrize("status", [status for status in JobStatus if status not in ENDED])
def test_a_job_that_is_alive_cannot_be_gone_on_from(api: TestClient, database: Database, status: JobStatus) -> None:
    origin = add_origin(database, 20, status=status)

    assert error_of(post(api, {"job": origin}))[::2] == (422, "continue_from.job")
    assert error_of(post(api, {"adapter": origin})) == (422, "job_has_no_adapter", "continue_from.adapter")


def test_a_temporary_job_is_no_origin(api: TestClient, database: Database) -> None:
    origin = add_origin(database, 20, is_temporary=True)

    assert error_of(post(api, {"job": origin}))[::2] == (422, "continue_from.job")


def test_a_job_without_a_checkpoint_and_a_step_that_is_not_kept_are_refused(
    api: TestClient, database: Database
) -> None:
    bare, origin = add_origin(database), add_origin(database, 20, 40)
    answer = post(api, {"job": origin, "step": 30})

    assert error_of(post(api, {"job": bare}))[::2] == (422, "continue_from.job")
    assert error_of(answer)[::2] == (422, "continue_from.step")
    assert answer.json()["error"]["details"][0]["expected"] == "one of its checkpoints: 40, 20"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": {"model_name": "org/other"}}, "model.model_name"),
        ({"model": {"load_in_4bit": False}}, "model.load_in_4bit"),
        ({"model": {"load_in_4bit": False, "full_finetuning": True}}, "model.full_finetuning"),
        ({"lora": {"r": 8}}, "lora.r"),
        ({"lora": {"lora_alpha": 8}}, "lora.lora_alpha"),
        ({"lora": {"use_rslora": True}}, "lora.use_rslora"),
        ({"lora": {"bias": "all"}}, "lora.bias"),
        ({"lora": {"target_modules": ["q_proj"]}}, "lora.target_modules"),
        ({"lora": {"target_modules": [*PROJECTIONS, "lm_head"]}}, "lora.target_modules"),
        ({"lora": {"modules_to_save": ["lm_head"]}}, "lora.target_modules"),
        ({"training": {"optim": "sgd"}}, "training.optim"),
        ({"training": {"embedding_learning_rate": 1e-5}}, "training.embedding_learning_rate"),
        ({"training": {"max_steps": 20}}, "training.max_steps"),
        ({"training": {"max_steps": 19}}, "training.max_steps"),
    ],
)
def test_what_a_checkpoint_does_not_fit_is_refused_by_its_field(
    api: TestClient, database: Database, change: dict[str, Any], field: str
) -> None:
    assert error_of(post(api, {"job": add_origin(database, 20)}, **change))[::2] == (422, field)


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"max_steps": 21}},
        {"training": {"num_train_epochs": 1}},
        {"training": {"learning_rate": 1e-5, "seed": 7}},
        {"lora": {"target_modules": PROJECTIONS[::-1]}},
        {"lora": {"lora_dropout": 0.1, "use_gradient_checkpointing": True, "random_state": 7}},
    ],
)
def test_what_a_checkpoint_does_not_depend_on_may_differ(
    api: TestClient, database: Database, change: dict[str, Any]
) -> None:
    assert post(api, {"job": add_origin(database, 20)}, **change).status_code == 201


def test_the_optimizer_that_the_origin_really_had_fits_too(api: TestClient, database: Database) -> None:
    origin = add_origin(database, 20)
    with database.writer() as session:
        job = repository.get(session, EVERY_PROJECT, origin)
        assert job is not None
        job.observed = {"training.optim": "adamw_torch"}
        session.commit()

    codes = [post(api, {"job": origin}, training={"optim": name}).status_code for name in ("adamw_8bit", "adamw_torch")]
    assert codes == [201, 201]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": {"model_name": "org/other"}}, "model.model_name"),
        ({"model": {"load_in_4bit": False, "full_finetuning": True}}, "model.full_finetuning"),
        ({"lora": {"r": 8}}, "lora.r"),
        ({"lora": {"lora_alpha": 8}}, "lora.lora_alpha"),
        ({"lora": {"target_modules": ["q_proj"]}}, "lora.target_modules"),
    ],
)
def test_what_an_adapter_does_not_fit_is_refused_by_its_field(
    api: TestClient, adapter: Adapter, change: dict[str, Any], field: str
) -> None:
    describe_lora(adapter, r=16, lora_alpha=16, target_modules=PROJECTIONS)

    assert error_of(post(api, {"adapter": adapter.id}, **change))[::2] == (422, field)


def test_embeddings_may_stand_in_either_of_the_two_lists(api: TestClient, adapter: Adapter) -> None:
    """Unsloth trains `embed_tokens` and `lm_head` whole, though a spec names them as targets."""
    describe_lora(adapter, target_modules=PROJECTIONS, modules_to_save=["lm_head"])

    assert post(api, {"adapter": adapter.id}, lora={"target_modules": [*PROJECTIONS, "lm_head"]}).status_code == 201
    assert error_of(post(api, {"adapter": adapter.id}))[::2] == (422, "lora.target_modules")


def test_a_whole_model_and_another_version_are_no_adapters_to_go_on_from(
    api: TestClient, database: Database, adapter: Adapter, tmp_path: Path
) -> None:
    whole = add_adapter(database, tmp_path, kind="full", rank=None)

    assert error_of(post(api, {"adapter": whole.id}))[::2] == (422, "continue_from.adapter")
    assert error_of(post(api, {"adapter": f"{adapter.id}@v2"}))[1:] == ("unknown_version", "continue_from.adapter")


@pytest.mark.parametrize("status", [status for status in JobStatus if status not in ENDED])
def test_what_a_living_job_goes_on_from_is_not_deleted(
    api: TestClient, database: Database, adapter: Adapter, status: JobStatus
) -> None:
    origin = add_origin(database, 20)
    users = [add_job(database, status, continues=name) for name in (origin, adapter.id)]
    answers = [api.delete(f"/jobs/{origin}"), api.delete(f"/adapters/{adapter.id}")]

    assert [error_of(answer)[:2] for answer in answers] == [(409, "job_is_in_use"), (409, "adapter_is_in_use")]
    assert all(user in answer.json()["error"]["message"] for user, answer in zip(users, answers, strict=True))
    assert Path(adapter.path).is_dir()


@pytest.mark.parametrize("status", sorted(ENDED))
def test_it_is_deleted_once_that_job_has_ended(
    api: TestClient, database: Database, adapter: Adapter, status: JobStatus
) -> None:
    origin = add_origin(database, 20)
    for name in (origin, adapter.id):
        add_job(database, status, continues=name)

    assert api.delete(f"/jobs/{origin}").status_code == 200
    assert api.delete(f"/adapters/{adapter.id}").status_code == 200


def test_the_job_of_an_adapter_may_go_while_the_adapter_is_gone_on_from(
    api: TestClient, database: Database, tmp_path: Path
) -> None:
    origin = add_job(database, JobStatus.SUCCEEDED)
    adapter = add_adapter(database, tmp_path, job_id=origin)
    assert post(api, {"adapter": origin}).status_code == 201

    assert api.delete(f"/jobs/{origin}").status_code == 200
    assert error_of(api.delete(f"/adapters/{adapter.id}"))[:2] == (409, "adapter_is_in_use")


def test_a_temporary_job_holds_no_origin(api: TestClient, database: Database, adapter: Adapter) -> None:
    add_job(database, JobStatus.VALIDATING, continues=adapter.id, is_temporary=True)

    assert api.delete(f"/adapters/{adapter.id}").status_code == 200


@pytest.mark.parametrize("kind", ["jobs", "adapters"])
def test_an_origin_is_not_deleted_while_a_job_that_goes_on_from_it_is_stored(
    api: TestClient, database: Database, settings: Settings, adapter: Adapter, kind: str
) -> None:
    """The transaction that stores the job is open when the origin is to be deleted."""
    origin = add_origin(database, 20) if kind == "jobs" else adapter.id
    body = {"job": origin} if kind == "jobs" else {"adapter": origin}
    spec = JobSpec.model_validate(hub_body(continue_from=body))
    with ThreadPoolExecutor(1) as pool:
        with database.writer() as session:
            job = a_job(spec, {})
            job.continues = continuing.check(session, EVERY_PROJECT, settings, spec)
            session.add(job)
            session.flush()
            answer = pool.submit(api.delete, f"/{kind}/{origin}")
            assert not wait([answer], timeout=0.5).done
            session.commit()
        assert answer.result().status_code == 409
