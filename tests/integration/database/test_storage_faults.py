"""Disks that are full or read-only, a database that is frozen, a broker that is gone: each fault has a name for the
client, passes by itself, and costs nothing that was stored."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from app.cli.main import main
from app.config import Settings
from app.database.connection import BoundedConnection, Database
from app.database.migrate import upgrade
from app.files import storage
from app.jobs.queue.notifier import CeleryNotifier, make_celery
from app.jobs.states import JobStatus, Stage
from app.main import create_app
from app.processes.log_rotation import rotate
from tests.integration.conftest import a_postgres_database
from tests.support.checks import RecordingNotifier
from tests.support.disks import filled, read_only, read_only_files, small_disk
from tests.support.jobs import add_job, read
from tests.support.jobs_api import an_api, error_of, hub_body
from tests.support.serving import LOCAL
from tests.support.stalling_proxy import stalling_proxy
from tests.support.waiting import wait_for
from tests.support.workers import add_training, at_work, settings_of, slot_acquired
from worker.supervising.context import WorkerContext
from worker.supervising.reconciler import Reconciler
from worker.supervising.slots import Slot

ROWS = b'{"text": "a row that is long enough to be one"}\n' * 4_000


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 8) as folder:
        yield folder


@pytest.fixture(autouse=True)
def _fills_disks_to_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """What uploads leave free for all else is more than these disks have."""
    monkeypatch.setattr(storage, "RESERVE_BYTES", 0)


@pytest.fixture
def settings(home: Path) -> Settings:
    """SQLite and all files on the one small disk."""
    return Settings(home=home)


@pytest.fixture
def api(migrated: Settings) -> Iterator[TestClient]:
    with an_api(migrated, migrated.database) as client:
        yield client


def upload(api: TestClient) -> Any:
    return api.post("/files", files={"file": ("rows.jsonl", ROWS)}, data={"purpose": "fine-tune"})


def submit(api: TestClient) -> Any:
    return api.post("/jobs", json=hub_body())


def listed(api: TestClient, path: str) -> list[str]:
    return [each["id"] for each in api.get(path).json()["data"]]


def test_an_upload_without_room_is_a_507_and_leaves_nothing(api: TestClient, home: Path) -> None:
    before = upload(api).json()["id"]
    with filled(home):
        refused = upload(api)
    after = upload(api)

    assert error_of(refused)[:2] == (507, "disk_full")
    assert after.status_code == 201
    assert set(os.listdir(home / "files")) == {before, after.json()["id"]} == set(listed(api, "/files"))


@pytest.mark.parametrize("is_open", [True, False], ids=["a log that it could write to", "no file but the database"])
def test_a_database_without_room_is_a_507_and_takes_jobs_again(migrated: Settings, home: Path, is_open: bool) -> None:
    """SQLite says "disk I/O error" where it has no room for its shared memory, and "full" elsewhere."""
    with an_api(migrated, migrated.database) as api:
        jobs = [submit(api).json()["id"]] if is_open else []
        with filled(home):
            refused = [submit(api) for _ in range(30)]
        jobs.append(submit(api).json()["id"])

        failed = [answer for answer in refused if answer.status_code != 201]
        assert {error_of(answer) for answer in failed} == {(507, "disk_full", None)}
        taken = [answer.json()["id"] for answer in refused if answer.status_code == 201]
        assert sorted(listed(api, "/jobs?limit=1000")) == sorted([*jobs, *taken])


def test_a_read_only_disk_of_uploads_is_a_503_that_says_so(home: Path, migrated_file: Path, tmp_path: Path) -> None:
    file = shutil.copy(migrated_file, tmp_path)
    with an_api(Settings(home=home), f"sqlite:///{file}") as api:
        kept = upload(api).json()["id"]
        with read_only(home):
            refused, content = upload(api), api.get(f"/files/{kept}/content").content
        healed = upload(api)

    assert error_of(refused) == (503, "storage_read_only", None)
    assert content == ROWS
    assert healed.status_code == 201


def test_a_read_only_disk_of_the_database_is_a_503_that_says_so(api: TestClient, home: Path) -> None:
    before = submit(api).json()["id"]
    database: Database = api.app.state.database  # type: ignore[attr-defined]
    database.engine.dispose()  # no file is open: the disk could not become read-only
    with read_only(home):
        refused = submit(api)
    after = submit(api).json()["id"]

    assert error_of(refused) == (503, "storage_read_only", None)
    assert {before, after} == set(listed(api, "/jobs"))


def test_what_was_opened_while_the_database_was_read_only_writes_again_afterwards(home: Path) -> None:
    url = f"sqlite:///{home / 'tunesmith.db'}"
    upgrade(url)
    before, meanwhile = Database.open(url), Database.open(url)
    add_job(before)  # the files of SQLite's log are there as long as it is open
    with read_only_files(*home.glob("tunesmith.db*")), pytest.raises(OperationalError, match="readonly"):
        add_job(meanwhile)

    add_job(meanwhile)
    meanwhile.close()
    before.close()


def test_a_service_is_not_started_on_a_disk_that_takes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fault, told in ((filled, "is full"), (read_only, "is read-only")):
        with fault(home), pytest.raises(SystemExit) as left:
            main(["up", "--home", str(home / "new"), "--port", "0"])
        assert left.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


@pytest.mark.parametrize(("database", "problem"), [("small", "the database"), ("elsewhere", "the home")])
def test_a_read_only_home_is_not_adopted_and_the_reason_is_one_line(
    home: Path,
    tmp_path: Path,
    migrated_file: Path,
    database: str,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    file = shutil.copy(migrated_file, tmp_path / database)
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", f"sqlite:///{file}")
    with read_only(home), pytest.raises(SystemExit) as left:
        main(["adopt", "--home", str(home)])

    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 1
    assert line.startswith(problem)


def test_an_error_of_the_system_that_is_no_fault_of_a_disk_stays_unforeseen(api: TestClient, home: Path) -> None:
    (home / "files").mkdir(exist_ok=True)
    (home / "files").rmdir()
    (home / "files").write_text("in the way")

    assert error_of(upload(api)) == (500, "internal_error", None)


# Prints as a training does, until the disk of its log takes no line more.
CHATTY = """
import sys
from pathlib import Path
from worker.events import EventWriter
from worker.failures import guarded

def work():
    while True:
        print("x" * 4096, flush=True)

with EventWriter(Path(sys.argv[1])) as events:
    code = guarded(work, events, [])
sys.exit(code)
"""


def test_a_process_whose_log_finds_no_room_says_that_its_disk_is_full(home: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    with (home / "output.log").open("wb") as log:
        done = subprocess.run([sys.executable, "-c", CHATTY, str(events)], stdout=log, stderr=log, timeout=60)

    assert done.returncode != 0
    assert '"code":"disk_full"' in events.read_text()


def test_a_log_is_not_cut_where_its_old_bytes_find_no_room(home: Path) -> None:
    path = home / "output.log"
    path.write_bytes(b"line\n" * 1000)
    with filled(home):
        assert not rotate(path, max_bytes=100)
    assert path.read_bytes() == b"line\n" * 1000

    assert rotate(path, max_bytes=100)


def test_events_wait_in_their_file_while_the_database_is_full(migrated: Settings, home: Path, tmp_path: Path) -> None:
    """The training goes on: its files are on another disk here."""
    database = Database.open(migrated.database)
    job_id = add_training(database, steps=16, step_seconds=0.1)
    with slot_acquired(settings_of(tmp_path / "home"), database) as context, at_work(context):
        wait_for("it trains", lambda: (read(database, job_id).progress or {}).get("step", 0) >= 3)
        with filled(home):
            time.sleep(0.7)
        wait_for("it is done", lambda: read(database, job_id).status is JobStatus.SUCCEEDED)
    database.close()


def test_a_frozen_database_is_a_503_within_seconds_and_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host takes connections and answers nothing, as one whose disk hangs."""
    assert BoundedConnection.silent_seconds == 20
    monkeypatch.setattr(BoundedConnection, "silent_seconds", 1.0)
    for url in map(make_url, a_postgres_database()):
        upgrade(url.render_as_string(hide_password=False))
        with stalling_proxy(url.host or "127.0.0.1", url.port or 5432) as proxy:
            through = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
            with an_api(Settings(home=tmp_path / "home"), through) as api:
                before = submit(api).json()["id"]
                began = time.monotonic()
                with proxy.stalled():
                    refused = submit(api)
                    seconds = time.monotonic() - began
                after = submit(api).json()["id"]

                assert error_of(refused) == (503, "database_unavailable", None)
                assert seconds < 15
                assert {before, after} <= set(listed(api, "/jobs"))


def test_without_a_broker_jobs_are_taken_and_workers_find_them(migrated: Settings) -> None:
    """A bell that nobody hears is rung again by every worker's reconciler."""
    app = create_app(migrated)
    app.state.notifier = CeleryNotifier(make_celery("redis://127.0.0.1:9/0", "tunesmith:"))
    database, notifier = app.state.database, RecordingNotifier()
    slot = Slot.open(migrated.slots, "checker")
    with TestClient(app, base_url=LOCAL) as api:
        began = time.monotonic()
        job_id = submit(api).json()["id"]
        seconds = time.monotonic() - began
        Reconciler(WorkerContext(migrated, database, notifier, Stage.CHECK, "checker@here", "cpu", slot)).round()
        slot.release()

        assert read(database, job_id).status is JobStatus.VALIDATING
    assert notifier.notified == [Stage.CHECK]
    assert seconds < 1.9
