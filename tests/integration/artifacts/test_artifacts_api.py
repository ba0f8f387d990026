"""Artifacts over HTTP: their files are listed and sent, whole or in parts, and name no path of the server."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.adapters.models import Adapter
from app.artifacts import repository
from app.artifacts.models import Artifact
from app.artifacts.store import store_of
from app.config import Settings
from app.database.connection import Database
from app.hashing import hash_folder
from app.ids import new_id
from app.jobs.models import Job
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from tests.support.jobs import NOW, add_job
from tests.support.jobs_api import error_of
from tests.support.scripted_engine import add_adapter

BASE = "/srv/models/tiny"
WEIGHTS = bytes(range(256)) * 10
NEWEST = {"base_model": "tiny", "spec": {"model": {"model_name": "tiny"}}}


@pytest.fixture
def adapter(database: Database, tmp_path: Path) -> Adapter:
    """One whose bundle was written by an older version: it names the folder of its base."""
    adapter = add_adapter(database, tmp_path)
    folder = Path(adapter.path)
    (folder / "tunesmith.json").write_text(json.dumps({**NEWEST, "base_model": BASE}))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": BASE, "r": 16}))
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    return adapter


def add_export(database: Database, settings: Settings, folder: Path) -> Artifact:
    """A stored artifact of another kind, with one file."""
    (folder / "export").mkdir(parents=True)
    (folder / "export" / "model.gguf").write_text("gguf")
    artifact_id, sha256 = f"artifact-{new_id('a')[2:]}-1", hash_folder(folder / "export")
    row = Artifact(
        id=artifact_id,
        project="default",
        job_id=new_id("job"),
        kind="export",
        name="model",
        bytes=4,
        sha256=sha256,
        location=store_of(settings).put(artifact_id, folder / "export", sha256),
        created_at=NOW,
    )
    with database.writer() as session:
        repository.add(session, EVERY_PROJECT, row)
        session.commit()
    return row


def content(api: TestClient, artifact_id: str, file: str | None = None, **headers: str) -> Any:
    params = {} if file is None else {"file": file}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.get(f"/artifacts/{artifact_id}/content", params=params, headers=named)


def test_an_artifact_lists_its_files_as_they_are_sent(api: TestClient, adapter: Adapter) -> None:
    shown = api.get(f"/artifacts/{adapter.id}").json()

    assert (shown["kind"], shown["job_id"], shown["sha256"]) == ("adapter", adapter.job_id, None)
    assert [file["name"] for file in shown["files"]] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tunesmith.json",
    ]
    for file in shown["files"]:
        sent = content(api, adapter.id, file["name"]).content
        assert (len(sent), hashlib.sha256(sent).hexdigest()) == (file["bytes"], file["sha256"])


def test_no_path_of_the_server_is_sent_and_the_stored_bundle_stays_as_it_is(api: TestClient, adapter: Adapter) -> None:
    before = hash_folder(Path(adapter.path))

    tar = content(api, adapter.id).content
    config = content(api, adapter.id, "adapter_config.json").json()

    assert BASE.encode() not in tar
    assert config == {"base_model_name_or_path": "tiny", "r": 16}
    assert hash_folder(Path(adapter.path)) == before


def test_a_tar_is_always_the_same_and_holds_all_files(api: TestClient, adapter: Adapter) -> None:
    first, second = content(api, adapter.id), content(api, adapter.id)

    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"]
    assert int(first.headers["content-length"]) == len(first.content)
    with tarfile.open(fileobj=io.BytesIO(first.content)) as tar:
        members = tar.getmembers()
        weights = tar.extractfile(f"{adapter.id}/adapter_model.safetensors")
        assert weights is not None
        assert weights.read() == WEIGHTS
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
    assert len(members) == 3


@pytest.mark.parametrize("file", [None, "adapter_model.safetensors", "adapter_config.json"])
def test_every_range_is_a_part_of_the_whole(api: TestClient, adapter: Adapter, file: str | None) -> None:
    whole = content(api, adapter.id, file).content

    for start in (0, 1, len(whole) // 3, len(whole) - 1):
        for end in {start + 1, start + 700, len(whole)}:
            answer = content(api, adapter.id, file, range=f"bytes={start}-{end - 1}")
            assert (answer.status_code, answer.content) == (206, whole[start:end])
            last = min(end, len(whole)) - 1
            assert answer.headers["content-range"] == f"bytes {start}-{last}/{len(whole)}"
            assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_range_beyond_the_end_is_a_416_with_the_size(api: TestClient, adapter: Adapter) -> None:
    answer = content(api, adapter.id, "adapter_model.safetensors", range="bytes=2560-")

    assert error_of(answer) == (416, "range_not_satisfiable", "Range")
    assert answer.headers["content-range"] == "bytes */2560"
    assert error_of(content(api, adapter.id, range="bytes=x")) == (400, "invalid_range", "Range")


def test_a_client_that_has_the_bytes_gets_none_again(api: TestClient, adapter: Adapter) -> None:
    tag = content(api, adapter.id).headers["etag"]

    for known in (tag, f'"other", W/{tag}', "*"):
        answer = content(api, adapter.id, if_none_match=known)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert content(api, adapter.id, if_none_match='"other"').status_code == 200


def test_a_range_of_other_bytes_is_answered_with_the_whole(api: TestClient, adapter: Adapter) -> None:
    tag = content(api, adapter.id).headers["etag"]

    statuses = [content(api, adapter.id, range="bytes=1-", if_range=known).status_code for known in (tag, '"other"')]

    assert statuses == [206, 200]


def test_head_has_the_headers_alone(api: TestClient, adapter: Adapter) -> None:
    answer, whole = api.head(f"/artifacts/{adapter.id}/content"), content(api, adapter.id)

    assert (answer.status_code, answer.content) == (200, b"")
    names = ("etag", "content-length", "content-disposition", "accept-ranges")
    assert [answer.headers[name] for name in names] == [whole.headers[name] for name in names]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../v1/adapter_config.json", "/etc/passwd", "%2e%2e", "\x00", "x" * 1024, "nothing"]
)
def test_no_name_leads_out_of_the_artifact(api: TestClient, adapter: Adapter, name: str) -> None:
    assert error_of(content(api, adapter.id, name)) == (404, "unknown_file", "file")


def test_a_file_with_another_name_is_named_safely(api: TestClient, database: Database, tmp_path: Path) -> None:
    adapter = add_adapter(database, tmp_path)
    (Path(adapter.path) / 'ö"\r\n.txt').write_text("x")

    answer = content(api, adapter.id, 'ö"\r\n.txt')

    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%B6%22%0D%0A.txt"


def test_a_job_lists_what_it_made(api: TestClient, database: Database, tmp_path: Path) -> None:
    job_id = add_job(database, JobStatus.SUCCEEDED)
    adapter = add_adapter(database, tmp_path, job_id=job_id)

    shown = api.get(f"/jobs/{job_id}/artifacts").json()["data"]

    assert [(each["id"], each["kind"], each["bytes"]) for each in shown] == [(adapter.id, "adapter", 2)]
    assert api.get(f"/jobs/{add_job(database)}/artifacts").json()["data"] == []
    assert error_of(api.get(f"/jobs/{new_id('job')}/artifacts"))[:2] == (404, "unknown_job")


@pytest.mark.parametrize("name", ["nobody", f"job-{'a' * 24}", f"adapter-{'a' * 24}", "adapter-%00", "a" * 500])
def test_an_unknown_artifact_is_not_found(api: TestClient, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert error_of(api.request(method, f"/artifacts/{name}{path}")) == (404, "unknown_artifact", "artifact_id")


def test_another_version_is_not_found(api: TestClient, adapter: Adapter) -> None:
    assert api.get(f"/artifacts/{adapter.name}").json()["id"] == adapter.id
    assert error_of(api.get(f"/artifacts/{adapter.id}@v2"))[:2] == (404, "unknown_version")


def test_an_adapter_takes_its_artifact_with_it_and_is_deleted_by_its_own_route(
    api: TestClient, adapter: Adapter
) -> None:
    refused = api.delete(f"/artifacts/{adapter.id}")
    deleted = api.delete(f"/adapters/{adapter.id}")

    assert error_of(refused)[:2] == (409, "artifact_is_adapter")
    assert f"DELETE /adapters/{adapter.id}" in refused.text
    assert deleted.status_code == 200
    assert api.get(f"/artifacts/{adapter.id}").status_code == 404


def test_another_artifact_is_deleted_with_its_files(
    api: TestClient, database: Database, settings: Settings, tmp_path: Path
) -> None:
    export = add_export(database, settings, tmp_path)

    assert content(api, export.id, "model.gguf").text == "gguf"
    assert api.delete(f"/artifacts/{export.id}").json() == {"id": export.id, "object": "artifact", "deleted": True}
    assert api.get(f"/artifacts/{export.id}").status_code == 404
    assert list((settings.root / "artifacts").iterdir()) == []


def test_artifacts_outlive_their_job(api: TestClient, database: Database, settings: Settings, tmp_path: Path) -> None:
    job_id = add_job(database, JobStatus.SUCCEEDED)
    export = add_export(database, settings, tmp_path)
    with database.writer() as session:
        session.get_one(Artifact, export.id).job_id = job_id
        session.commit()

    assert api.delete(f"/jobs/{job_id}").status_code == 200
    assert api.get(f"/artifacts/{export.id}").json()["job_id"] == job_id
    with database.reader() as session:
        assert session.get(Job, job_id) is None


def test_files_that_are_gone_or_were_changed_are_not_sent(
    api: TestClient, database: Database, settings: Settings, tmp_path: Path
) -> None:
    changed, gone = (add_export(database, settings, tmp_path / name) for name in ("changed", "gone"))
    (settings.locate(changed.location) / "model.gguf").write_text("other")
    store_of(settings).delete(gone.location)

    for path in ("", "/content"):
        assert error_of(api.get(f"/artifacts/{changed.id}{path}"))[:2] == (409, "artifact_damaged")
        assert error_of(api.get(f"/artifacts/{gone.id}{path}"))[:2] == (404, "content_is_gone")
