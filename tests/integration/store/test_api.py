"""The API of a host with a home of its own: what another host received or made is read, and deleted, here too."""

import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.contracts.checkpoints import folder_name
from app.database.connection import Database
from app.generate.targets import find_target
from app.ids import new_id
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from app.store.faults import STORE_AWAY
from app.system.readiness import look_at_store
from tests.support.jobs import add_job
from tests.support.jobs_api import error_of
from tests.support.learned_text import chat_parts, write_data
from tests.support.s3_server import S3Server, with_store
from worker.checkpoints import drafting, publish

ROWS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def hosts(s3: S3Server, tmp_path: Path, database_url: str) -> tuple[Settings, Settings]:
    prefix = new_id("prefix")
    first, second = (with_store(s3, tmp_path / name, prefix, database_url=database_url) for name in "ab")
    return first, second


def at(api: TestClient, settings: Settings) -> TestClient:
    """The API as it runs on a host."""
    api.app.state.settings = settings  # type: ignore[attr-defined]
    return api


def upload(api: TestClient) -> str:
    answer = api.post("/files", files={"file": ("a.jsonl", ROWS)})
    assert answer.status_code == 201, answer.text
    file_id: str = answer.json()["id"]
    return file_id


def keys(settings: Settings) -> list[str]:
    assert settings.files.entries is not None
    return [key for key, _ in settings.files.entries.below()]


def test_an_upload_is_read_and_deleted_on_another_host(api: TestClient, hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    file_id = upload(at(api, first))
    shutil.rmtree(first.root)
    whole, part = (at(api, second).get(f"/files/{file_id}/content", headers=headers) for headers in ({}, RANGE))

    assert (whole.content, part.status_code, part.content) == (ROWS, 206, ROWS[2:10])
    assert keys(first) == [f"files/{file_id}"]
    assert at(api, second).delete(f"/files/{file_id}").status_code == 200
    assert keys(first) == []


RANGE = {"range": "bytes=2-9"}


def test_an_upload_is_refused_while_the_store_is_away_and_leaves_nothing(
    api: TestClient, hosts: tuple[Settings, Settings], s3: S3Server
) -> None:
    first, second = hosts
    file_id = upload(at(api, first))
    s3.stop()
    try:
        refused = at(api, first).post("/files", files={"file": ("a.jsonl", ROWS)})
        unread = at(api, second).get(f"/files/{file_id}/content")
        problem = look_at_store(lambda: first.files)
    finally:
        s3.start()

    assert error_of(refused)[:2] == error_of(unread)[:2] == (503, STORE_AWAY)
    assert refused.headers["retry-after"]
    assert [path.name for path in (first.root / "files").iterdir()] == [file_id]
    assert problem is not None
    assert "cannot be used" in problem
    assert look_at_store(lambda: first.files) is None


def test_a_job_is_checked_with_a_file_of_another_host(api: TestClient, hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    file_id = upload(at(api, first))
    body = {"model": {"model_name": "org/name"}, "dataset": {"source": {"file": file_id}}}

    assert at(api, second).post("/jobs", json=body).status_code == 201
    assert second.file_path(file_id).read_bytes() == ROWS


def test_rows_are_shown_on_another_host(api: TestClient, database: Database, hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    job_id = add_job(database)
    write_data(first.data_dir(job_id), train={1: chat_parts("q", "a")}, eval={})
    first.files.keep(first.data_dir(job_id), source=first.data_dir(job_id))

    shown = at(api, second).get(f"/jobs/{job_id}/data").json()

    assert [row["record"] for row in shown["data"]] == [1]


def test_a_checkpoint_in_the_store_is_named_to_the_engine(database: Database, hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    job_id = add_job(database, JobStatus.RUNNING)
    folder = first.checkpoints_dir(job_id)
    with drafting(folder, step=4, attempt=1) as draft:
        (draft / "adapter_config.json").write_text('{"base_model_name_or_path": "org/loaded"}')
        saved = publish(draft, folder, step=4, attempt=1)
    first.files.keep(saved.path)

    with database.reader() as session:
        found = find_target(session, EVERY_PROJECT, second, f"{job_id}@step-4", "model")

    assert found.adapter is not None
    assert (found.adapter.version, found.base.source) == (saved.version, "org/loaded")
    assert found.adapter.path == f"jobs/{job_id}/checkpoints/{folder_name(4, 1)}"
    assert found.adapter.language == f"jobs/{job_id}/tokenizer"
    assert not second.checkpoints_dir(job_id).exists()
