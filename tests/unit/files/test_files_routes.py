"""Uploads over HTTP: the very bytes, a report, and a refusal that leaves nothing behind."""

import gzip
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.config import Settings
from app.database.connection import Base, Database
from app.errors import InvalidRequest
from app.files import service
from app.files.routes import router
from app.jobs.repository import uses_file
from app.web.dependencies import get_caller
from app.web.error_responses import install_error_handlers
from tests.support.callers import ANYONE
from tests.support.serving import LOCAL
from tests.support.written_files import chat, lines

CHAT = lines(chat(("user", "hi"), ("assistant", "hello")))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_upload_bytes": 100_000, "max_unpacked_bytes": 200_000})


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "empty.db"
    database = Database.open(f"sqlite:///{path}")
    Base.metadata.create_all(database.engine)
    database.close()
    return path


@pytest.fixture
def database(settings: Settings, empty_database: Path) -> Iterator[Database]:
    settings.root.mkdir()
    shutil.copy(empty_database, settings.root / "tunesmith.db")
    database = Database.open(settings.database)
    yield database
    database.close()


@pytest.fixture
def api(settings: Settings, database: Database) -> Iterator[TestClient]:
    app = FastAPI()
    app.state.settings, app.state.database, app.state.uses_file = settings, database, uses_file
    app.include_router(router)
    install_error_handlers(app)
    app.dependency_overrides[get_caller] = lambda: ANYONE
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def upload(api: TestClient, content: bytes = CHAT, name: str = "chats.jsonl", **form: str) -> dict[str, Any]:
    answer = api.post("/files", files={"file": (name, content)}, data=form)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def stored(settings: Settings) -> list[str]:
    folder = settings.root / "files"
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_an_upload_is_answered_with_what_it_holds(api: TestClient, settings: Settings) -> None:
    file = upload(api, purpose="fine-tune")

    assert file == {
        "object": "file", "id": file["id"], "bytes": len(CHAT), "created_at": file["created_at"],
        "filename": "chats.jsonl", "purpose": "fine-tune", "project": "default",
        "sha256": hashlib.sha256(CHAT).hexdigest(),
        "format": "jsonl", "layout": "messages", "records": 1, "status": "processed",
        "usable_records": 1, "problem_count": 0, "warning_count": 0, "unreadable": [],
    }  # fmt: skip
    assert api.get(f"/files/{file['id']}").json() == file
    assert stored(settings) == [file["id"]]


@pytest.mark.parametrize("content", [CHAT, gzip.compress(CHAT, mtime=0)])
def test_the_very_bytes_come_back(api: TestClient, content: bytes) -> None:
    file = upload(api, content)

    assert api.get(f"/files/{file['id']}/content").content == content


def test_a_part_of_the_bytes_can_be_asked_for(api: TestClient) -> None:
    file = upload(api)

    answer = api.get(f"/files/{file['id']}/content", headers={"range": "bytes=2-5"})

    assert (answer.status_code, answer.content) == (206, CHAT[2:6])


def test_the_report_of_an_upload_is_kept(api: TestClient) -> None:
    file = upload(api, CHAT + lines({"text": "b"}))

    report = api.get(f"/files/{file['id']}/report").json()

    assert (report["sha256"], report["kept"], report["columns"]) == (file["sha256"], 1, ["messages"])
    assert [(row["record"], row["kind"], row["turns"][1]["trained"]) for row in report["preview"]] == [
        (1, "chat", True)
    ]
    assert [problem["code"] for problem in report["problems"]] == ["mixed_layouts"]


def test_an_upload_with_bad_rows_says_so_at_once(api: TestClient) -> None:
    asked = chat(("user", "hi"), ("assistant", "hello"), ("user", "and?"))
    file = upload(api, CHAT * 2 + lines(chat(("user", "hi")), asked))

    counts = [file[name] for name in ("records", "usable_records", "problem_count", "warning_count")]
    assert counts == [4, 3, 1, 1]
    assert api.get("/files").json()["data"] == [file]


def test_columns_that_only_a_job_can_map_are_stored(api: TestClient) -> None:
    file = upload(api, lines({"question": "a", "answer": "b"}))

    assert (file["layout"], file["records"]) == (None, 1)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (CHAT + b'{"messages": [', 422, "invalid_json"),
        (b"", 422, "empty"),
        (b"\x89PNG\r\n", 422, "unknown_format"),
        (gzip.compress(b"a" * 300_000, mtime=0), 422, "unpacked_size"),
        (CHAT * 2000, 413, "too_large"),
    ],
)
def test_a_refused_upload_leaves_nothing_behind(
    api: TestClient, settings: Settings, content: bytes, status: int, code: str
) -> None:
    answer = api.post("/files", files={"file": ("chats.jsonl", content)})

    assert (answer.status_code, answer.json()["error"]["param"]) == (status, "file")
    assert answer.json()["error"]["details"][0]["code"] == code
    assert stored(settings) == []
    assert api.get("/files").json()["data"] == []


@pytest.mark.parametrize(
    "name", ["../x.jsonl", "a/b", "a\\b", "..", ". ", "a\0b", "a\nb", "a" * 256, "é" * 128, "\ud800"]
)
def test_a_hostile_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^file\.filename: found"):
        service.check_filename(name)


@pytest.mark.parametrize("name", ["rows.jsonl", "déjà vu (1).csv", "👨\u200d👩\u200d👧.json", "行\u3000.txt"])
def test_a_name_is_kept_as_a_label(api: TestClient, name: str) -> None:
    assert upload(api, name=name)["filename"] == name


@pytest.mark.parametrize(
    "body", [{}, {"files": {"file": ("", CHAT)}}, {"files": {"file": CHAT}, "data": {"purpose": "x"}}]
)
def test_a_form_that_is_not_whole_is_refused(api: TestClient, body: dict[str, Any]) -> None:
    assert api.post("/files", **body).status_code == 422


def test_files_are_listed_newest_first_in_pages(api: TestClient) -> None:
    ids = [upload(api)["id"] for _ in range(3)]

    first = api.get("/files", params={"limit": 2}).json()
    second = api.get("/files", params={"limit": 2, "after": first["last_id"]}).json()

    assert [file["id"] for file in first["data"] + second["data"]] == ids[::-1]
    assert (first["object"], first["first_id"], first["has_more"]) == ("list", ids[2], True)
    assert (second["last_id"], second["has_more"]) == (ids[0], False)


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": "x"}, {"after": "file-x"}, {"after": "\0"}])
def test_a_page_that_cannot_be_is_refused(api: TestClient, params: dict[str, Any]) -> None:
    assert api.get("/files", params=params).status_code == 422


@pytest.mark.parametrize("file_id", [f"file-{'a' * 24}", "..%2f..%2fetc%2fpasswd", "file-%00", "x" * 5000])
def test_an_unknown_file_is_a_404(api: TestClient, file_id: str) -> None:
    answers = [api.get(f"/files/{file_id}{path}") for path in ("", "/content", "/report")]

    assert [answer.status_code for answer in answers] == [404, 404, 404]


def test_a_deleted_file_is_gone_from_table_and_disk(api: TestClient, settings: Settings) -> None:
    file = upload(api)

    answer = api.delete(f"/files/{file['id']}")

    assert answer.json() == {"id": file["id"], "object": "file", "deleted": True}
    assert api.get(f"/files/{file['id']}").status_code == 404
    assert api.delete(f"/files/{file['id']}").status_code == 404
    assert stored(settings) == []


def test_a_file_whose_bytes_are_lost_is_said_to_be(api: TestClient, settings: Settings) -> None:
    file = upload(api)
    settings.file_path(file["id"]).unlink()

    assert api.get(f"/files/{file['id']}/content").json()["error"]["code"] == "content_is_gone"
