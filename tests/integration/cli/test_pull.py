"""`tunesmith pull`: what is pulled is whole, goes on where it was cut off, and replaces nothing."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from app.adapters.models import Adapter
from app.config import Settings
from app.database.connection import Database
from app.hashing import hash_folder
from app.jobs.states import JobStatus
from tests.integration.cli.conftest import Command
from tests.support.jobs import add_job
from tests.support.jobs_api import an_app
from tests.support.scripted_engine import add_adapter
from tests.support.serving import serving

WEIGHTS = bytes(range(256)) * 20_000
CONFIG = {"base_model_name_or_path": "org/base"}


class BreakingLine:
    """Cuts the connection after so many bytes of a body, as often as it is told; keeps the ranges that are asked."""

    def __init__(self, app: FastAPI) -> None:
        self._app, self.breaks, self.after = app, 0, 1 << 20
        self.ranges: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.ranges += [value.decode() for name, value in scope.get("headers", ()) if name == b"range"]
        sent = 0

        async def send_some(message: Message) -> None:
            nonlocal sent
            sent += len(message.get("body", b""))
            if self.breaks and sent > self.after:
                self.breaks -= 1
                raise ConnectionAbortedError
            await send(message)

        await self._app(scope, receive, send_some)


@pytest.fixture
def line(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[BreakingLine]:
    found = BreakingLine(an_app(migrated, migrated.database))
    with serving(found) as url:  # type: ignore[arg-type]
        monkeypatch.setenv("TUNESMITH_URL", url)
        yield found


@pytest.fixture
def adapter(migrated: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Adapter:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.cli.pull.PAUSE_SECONDS", 0)
    with closing(Database.open(migrated.database)) as database:
        job_id = add_job(database, JobStatus.SUCCEEDED)
        adapter = add_adapter(database, migrated.root / "adapters", job_id=job_id)
    (Path(adapter.path) / "adapter_config.json").write_text(json.dumps(CONFIG))
    (Path(adapter.path) / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (Path(adapter.path) / "empty.txt").touch()
    return adapter


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "home")


@pytest.mark.usefixtures("line")
def test_an_adapter_is_pulled_by_its_names_and_it_is_said_how_it_is_loaded(
    tunesmith: Command, adapter: Adapter, tmp_path: Path
) -> None:
    by_id = tunesmith("pull", adapter.id)
    by_job = tunesmith("pull", adapter.job_id, "--to", str(tmp_path / "by-job"))

    assert (by_id.code, by_job.code) == (0, 0)
    base = "AutoModelForCausalLM.from_pretrained('org/base')"
    assert by_id.out.splitlines() == [
        "pulled 0.0 of 5.1 MB",
        "pulled 5.1 of 5.1 MB",
        f"{adapter.id} is in {tmp_path / adapter.id}",
        f"load it with peft and transformers: PeftModel.from_pretrained({base}, {str(tmp_path / adapter.id)!r})",
    ]
    stored = hash_folder(Path(adapter.path))
    assert hash_folder(tmp_path / adapter.id) == hash_folder(tmp_path / "by-job") == stored
    assert names(tmp_path) == sorted([adapter.id, "by-job"])


def test_a_connection_that_breaks_is_gone_on_with(
    tunesmith: Command, line: BreakingLine, adapter: Adapter, tmp_path: Path
) -> None:
    line.breaks = 3

    result = tunesmith("pull", adapter.id, "--to", "here")

    assert result.code == 0, result.err
    assert [each.startswith("bytes=") for each in line.ranges] == [True] * 3
    assert hash_folder(tmp_path / "here") == hash_folder(Path(adapter.path))


def test_a_later_pull_goes_on_where_an_earlier_one_ended(
    tunesmith: Command, line: BreakingLine, adapter: Adapter, tmp_path: Path
) -> None:
    line.breaks, line.after = 100, 0
    first = tunesmith("pull", adapter.id, "--to", "here")
    draft = tmp_path / f".here.{adapter.id}.part"
    draft.mkdir(exist_ok=True)
    (draft / "adapter_model.safetensors").write_bytes(WEIGHTS[:1000])
    line.breaks, line.ranges = 0, []

    second = tunesmith("pull", adapter.id, "--to", "here")

    assert (first.code, second.code) == (1, 0)
    assert "did not answer" in first.err
    assert line.ranges == ["bytes=1000-"]
    assert names(tmp_path) == ["here"]


@pytest.mark.parametrize("rest", [b"x" * 1000, WEIGHTS + b"more"], ids=["other", "longer"])
def test_what_is_not_what_the_service_has_is_never_kept(
    tunesmith: Command, line: BreakingLine, adapter: Adapter, tmp_path: Path, rest: bytes
) -> None:
    draft = tmp_path / f".here.{adapter.id}.part"
    draft.mkdir()
    (draft / "adapter_model.safetensors").write_bytes(rest)

    results = [tunesmith("pull", adapter.id, "--to", "here") for _ in range(2)]

    assert [result.code for result in results][-1] == 0
    assert hash_folder(tmp_path / "here") == hash_folder(Path(adapter.path))


@pytest.mark.usefixtures("line")
def test_what_was_pulled_is_recognised_and_nothing_else_is_replaced(
    tunesmith: Command, adapter: Adapter, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    results = {to: tunesmith("pull", adapter.id, "--to", to) for to in ("empty", "empty", "mine", "file", "link")}

    assert {to: result.code for to, result in results.items()} == {"empty": 0, "mine": 1, "file": 1, "link": 1}
    assert results["mine"].err == "mine holds something else: --to names a new folder\n"
    assert (tmp_path / "mine" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.usefixtures("line")
def test_a_job_without_artifacts_and_an_unknown_one_are_said(
    tunesmith: Command, migrated: Settings, adapter: Adapter
) -> None:
    with closing(Database.open(migrated.database)) as database:
        running = add_job(database, JobStatus.RUNNING)

    assert tunesmith("pull", running).err == f"{running} has no artifacts: a job has them once it has succeeded\n"
    assert tunesmith("pull", f"adapter-{'a' * 24}").err.startswith("unknown_artifact: ")
    listed = tunesmith("artifacts", adapter.job_id).out.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [[adapter.id, "adapter", "adapter"]]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", ""])
def test_a_service_that_names_a_path_outside_writes_nothing(
    tunesmith: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    app = FastAPI()
    adapter_id = f"adapter-{'x' * 24}"
    shown: dict[str, Any] = {"id": adapter_id, "job_id": "job-x", "kind": "adapter", "name": "adapter", "bytes": 1}
    file = {"name": name, "bytes": 1, "sha256": "0" * 64}

    @app.get(f"/artifacts/{adapter_id}")
    def artifact() -> JSONResponse:
        return JSONResponse({**shown, "sha256": None, "created_at": "2026-11-25T12:00:00Z", "files": [file]})

    monkeypatch.chdir(tmp_path)
    with serving(app) as url:
        result = tunesmith("pull", adapter_id, "--url", url)

    assert result.code == 1
    assert "outside of the artifact" in result.err
    assert list(tmp_path.iterdir()) == []
