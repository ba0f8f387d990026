"""Adapters over HTTP: listed, found by any of their names, deleted with their files."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.database.connection import Database
from app.ids import new_id
from app.jobs.states import JobStatus
from tests.support.jobs import add_job
from tests.support.scripted_engine import add_adapter


def error_of(api: TestClient, path: str) -> tuple[int, str, str]:
    answer = api.get(path)
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["message"]


def test_an_adapter_is_shown_with_what_it_was_trained_on(api: TestClient, database: Database, tmp_path: Path) -> None:
    adapter = add_adapter(database, tmp_path)

    shown = api.get(f"/adapters/{adapter.id}").json()

    assert (shown["name"], shown["job_id"], shown["base_model"]) == (f"{adapter.id}@v1", adapter.job_id, "org/model")
    assert (shown["kind"], shown["rank"], shown["created_at"]) == ("lora", 16, "2026-11-25T12:00:00Z")
    assert "path" not in shown


def test_every_name_of_an_adapter_finds_it(api: TestClient, database: Database, tmp_path: Path) -> None:
    adapter = add_adapter(database, tmp_path)

    names = (adapter.id, f"{adapter.id}@v1", adapter.job_id)

    assert {api.get(f"/adapters/{name}").json()["id"] for name in names} == {adapter.id}


def test_another_version_is_not_found_and_the_present_one_named(
    api: TestClient, database: Database, tmp_path: Path
) -> None:
    adapter = add_adapter(database, tmp_path)

    status, code, message = error_of(api, f"/adapters/{adapter.id}@v2")

    assert (status, code) == (404, "unknown_version")
    assert "'v1'" in message


@pytest.mark.parametrize("name", ["nobody", "adapter-x", "adapter-x@v1", "%00", "adapter-%00", "a" * 500, "..%2f.."])
def test_an_unknown_name_is_not_found(api: TestClient, name: str) -> None:
    assert api.get(f"/adapters/{name}").status_code == 404


def test_an_unknown_job_has_no_adapter(api: TestClient) -> None:
    assert error_of(api, f"/adapters/{new_id('job')}")[:2] == (404, "unknown_job")


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_has_not_succeeded_says_its_status(api: TestClient, database: Database, status: JobStatus) -> None:
    job_id = add_job(database, status)

    code, _, message = error_of(api, f"/adapters/{job_id}")

    assert code == 409
    assert f"is {status.value}" in message


def test_adapters_are_listed_newest_first_in_pages(api: TestClient, database: Database, tmp_path: Path) -> None:
    ids = [add_adapter(database, tmp_path, age=age).id for age in (1, 2, 3)]

    first = api.get("/adapters", params={"limit": 2}).json()
    second = api.get("/adapters", params={"limit": 2, "after": first["last_id"]}).json()

    assert [adapter["id"] for adapter in (*first["data"], *second["data"])] == ids
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_adapters_of_one_moment_are_all_listed_once(api: TestClient, database: Database, tmp_path: Path) -> None:
    ids = {add_adapter(database, tmp_path).id for _ in range(3)}

    seen, after = [], None
    for _ in range(3):
        page = api.get("/adapters", params={"limit": 1, **({"after": after} if after else {})}).json()
        after = page["last_id"]
        seen.append(after)

    assert set(seen) == ids


@pytest.mark.parametrize("after", ["adapter-x", "\x00", ""])
def test_a_page_behind_nothing_is_refused(api: TestClient, after: str) -> None:
    assert api.get("/adapters", params={"after": after}).status_code == 422


def test_a_deleted_adapter_is_gone_with_its_files(api: TestClient, database: Database, tmp_path: Path) -> None:
    adapter = add_adapter(database, tmp_path)

    answer = api.delete(f"/adapters/{adapter.id}")

    assert answer.json() == {"id": adapter.id, "object": "adapter", "deleted": True}
    assert list(tmp_path.glob("adapter-*")) == []
    assert api.get(f"/adapters/{adapter.id}").status_code == 404
    assert api.delete(f"/adapters/{adapter.id}").status_code == 404


def test_a_delete_that_was_cut_off_can_be_repeated(api: TestClient, database: Database, tmp_path: Path) -> None:
    adapter = add_adapter(database, tmp_path)
    folder = Path(adapter.path)
    folder.rename(folder.with_name(".deleted-v1"))

    assert api.delete(f"/adapters/{adapter.id}").status_code == 200
    assert list(tmp_path.glob("adapter-*")) == []


def test_the_adapter_of_a_succeeded_job_that_was_deleted_is_not_found(api: TestClient, database: Database) -> None:
    job_id = add_job(database, JobStatus.SUCCEEDED)

    status, code, message = error_of(api, f"/adapters/{job_id}")

    assert (status, code) == (404, "unknown_adapter")
    assert "was deleted" in message
