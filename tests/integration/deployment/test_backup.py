"""A backup that is made while jobs are written is a whole installation elsewhere, or is refused by name."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.engine import make_url

from app.adapters import repository as adapters
from app.artifacts import repository as artifacts
from app.backup import contents, service
from app.backup.contents import DATABASE, MANIFEST, BackupFile, BackupManifest, BackupRefused
from app.backup.service import backup, restore
from app.cli.main import main
from app.config import Settings
from app.database import installation
from app.database.connection import Database
from app.database.migrate import revision_of, upgrade
from app.hashing import hash_folder
from app.jobs import listing
from app.jobs.listing import JobFilter
from app.jobs.models import Job
from app.jobs.queue.orphans import check_belongs
from app.jobs.states import JobStatus
from app.main import create_app
from app.scope import EVERY_PROJECT
from tests.integration.conftest import a_postgres_database
from tests.support.disks import small_disk
from tests.support.jobs import add_job, read
from tests.support.jobs_api import an_api
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import LOCAL
from tests.support.waiting import wait_for
from tests.support.workers import (
    QUIET,
    add_training,
    at_work,
    check_events,
    losses,
    outcomes,
    reached_step,
    settings_of,
    slot_acquired,
    work,
)
from worker.hashing import bundle_version
from worker.supervising.lifecycle import run_until_idle
from worker.supervising.reconciler import Reconciler

ROWS = b'{"text": "a row that is long enough to be one"}\n' * 50
said: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_was_said() -> None:
    said.clear()


@pytest.fixture(scope="module")
def kind(empty_database_url: str) -> str:
    return make_url(empty_database_url).get_backend_name()


@pytest.fixture(scope="module")
def live(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation with a trained adapter and a file. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("live")
    for url in databases(kind, folder):
        upgrade(url)
        settings = Settings(home=folder / "home", database_url=url)
        with closing(Database.open(url)) as database:
            install(database, settings)
        yield settings


def databases(kind: str, folder: Path) -> Iterator[str]:
    """One empty database of this kind, which is gone behind the loop."""
    return iter([f"sqlite:///{folder / 'rows.db'}"]) if kind == "sqlite" else a_postgres_database()


def install(database: Database, settings: Settings) -> None:
    add_training(database, artifacts=1)
    work(database, settings.root)
    with an_api(settings, settings.database) as api:
        assert api.post("/files", files={"file": ("rows.jsonl", ROWS)}).status_code == 201


@pytest.fixture
def own(live: Settings, home: Path) -> Settings:
    """The same installation with a home of its own, which a test may change."""
    shutil.copytree(live.root, home)
    return Settings(home=home, database_url=live.database)


@pytest.fixture(scope="module")
def kept(live: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("kept") / "backup"
    backup(live, folder, said.append)
    return folder


@pytest.fixture
def changed(kept: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    return shutil.copytree(kept, tmp_path / "changed")


@pytest.fixture
def elsewhere(kind: str, tmp_path: Path) -> Iterator[Settings]:
    """A home and a database of the same kind, both empty."""
    for url in databases(kind, tmp_path / "elsewhere"):
        yield Settings(home=tmp_path / "elsewhere", database_url=url)


@contextmanager
def writing(database: Database) -> Iterator[list[str]]:
    """Meanwhile jobs are stored, one behind the other."""
    stored: list[str] = []
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.005):
            stored.append(add_job(database, JobStatus.FAILED))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_for("some are stored", lambda: len(stored) > 3)
        yield stored
    finally:
        over.set()
        thread.join()


def ids(database: Database) -> set[str]:
    with database.reader() as session:
        return {job.id for job in session.query(Job)}


def test_a_backup_of_a_service_at_work_is_restored_elsewhere_and_goes_on(
    database: Database, database_url: str, home: Path, elsewhere: Settings, tmp_path: Path
) -> None:
    busy = Settings(home=home, database_url=database_url)
    install(database, busy)
    running = add_training(database, save_every=2, step_seconds=0.4)
    with slot_acquired(settings_of(home), database) as context, at_work(context), writing(database) as stored:
        reached_step(database, running, 2)
        before = len(stored)
        backup(busy, tmp_path / "backup", said.append)
        assert len(stored) > before  # nobody was stopped
    manifest = restore(elsewhere, tmp_path / "backup", said.append)

    with closing(Database.open(elsewhere.database)) as restored:
        assert ids(restored) <= ids(database)
        assert set(stored[:before]) <= ids(restored)
        assert read(restored, running).status is JobStatus.RUNNING
        assert manifest.missing == []
        assert labelled(restored, ("save_every", "2")) == [running]
        check_belongs(restored, elsewhere)
        assert installation.of_database(restored) != installation.of_database(database)
        go_on(restored, elsewhere, running)
        answers(restored, elsewhere)


def go_on(restored: Database, settings: Settings, running: str) -> None:
    """Its worker is not there: its lease runs out, and it goes on behind its checkpoint."""
    with slot_acquired(settings_of(settings.root, lease_seconds=0.5), restored, name="w2") as context:
        reconciler = Reconciler(context)

        def is_waiting() -> bool:
            reconciler.round()
            return read(restored, running).status is JobStatus.QUEUED

        wait_for("it is taken back", is_waiting)
    with slot_acquired(settings_of(settings.root), restored, name="w2") as context:
        run_until_idle(context)
    assert read(restored, running).status is JobStatus.SUCCEEDED
    assert losses(restored, running) == QUIET
    assert outcomes(restored, running) == ["worker_lost", "finished"]
    check_events(restored, running)


def answers(restored: Database, settings: Settings) -> None:
    app = create_app(settings)
    app.state.engine = engine = ScriptedEngine()
    with TestClient(app, base_url=LOCAL) as api:
        for job_id in (job.id for job in succeeded(restored)):
            assert api.post("/generate", json={"prompt": "1,", "adapter": job_id}).status_code == 200
            asked = engine.orders[-1].adapter
            assert asked is not None
            assert bundle_version(Path(asked.path)) == asked.version
            assert Path(asked.path).is_relative_to(settings.root)
        (file,) = api.get("/files").json()["data"]
        assert api.get(f"/files/{file['id']}/content").content == ROWS


def labelled(database: Database, label: tuple[str, str]) -> list[str]:
    with database.reader() as session:
        return [
            job.id
            for job in listing.page(session, EVERY_PROJECT, JobFilter(labels=(label,)), after=None, limit=20).jobs
        ]


def succeeded(database: Database) -> list[Job]:
    with database.reader() as session:
        return list(session.query(Job).where(Job.status == JobStatus.SUCCEEDED))


def test_the_commands_make_and_restore_one(
    live: Settings,
    elsewhere: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, settings in (("backup", live), ("restore", elsewhere)):
        monkeypatch.setenv("TUNESMITH_DATABASE_URL", settings.database)
        monkeypatch.setenv("TUNESMITH_HOME", str(settings.root))
        with pytest.raises(SystemExit) as left:
            main([command, str(tmp_path / "backup")])
        assert left.value.code == 0, capsys.readouterr()

    with closing(Database.open(elsewhere.database)) as restored, restored.reader() as session:
        (adapter,) = adapters.page(session, EVERY_PROJECT, after=None, limit=9)
        (_, export) = artifacts.of_job(session, EVERY_PROJECT, adapter.job_id)
    assert bundle_version(elsewhere.locate(adapter.path)) == adapter.version
    assert hash_folder(elsewhere.locate(export.location)) == export.sha256


def test_what_is_gone_from_the_disk_is_named_and_the_rest_is_kept(
    own: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    (file,) = (own.root / "files").iterdir()
    file.unlink()
    backup(own, tmp_path / "backup", said.append)
    restore(elsewhere, tmp_path / "backup", said.append)

    assert [line for line in said if f"files/{file.name}" in line] == [said[1], said[3]]


def cut(path: Path) -> None:
    os.truncate(path, 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, flip, os.unlink])
@pytest.mark.parametrize("which", [DATABASE, "home/adapters/*/*/weights"])
def test_a_backup_that_is_not_whole_is_refused_by_name_and_nothing_is_made(
    changed: Path, elsewhere: Settings, damage: Callable[[Path], None], which: str
) -> None:
    (path,) = changed.glob(which)
    damage(path)

    with pytest.raises(BackupRefused, match=path.name):
        restore(elsewhere, changed, said.append)
    assert not elsewhere.root.exists()
    assert is_untouched(elsewhere)


def is_untouched(settings: Settings) -> bool:
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        return not Path(str(url.database)).exists()
    return revision_of(settings.database) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"revision": "9999"}, "schema 9999"),
        ({"format": 99}, "format 99"),
        ({"files": [{"path": "../outside", "bytes": 1, "sha256": "a"}]}, "leads out"),
        ({"database": "oracle"}, "cannot be read"),
        (None, "incomplete"),
    ],
)
def test_a_manifest_that_is_missing_or_that_this_version_cannot_follow_is_refused(
    changed: Path, elsewhere: Settings, tmp_path: Path, change: dict[str, object] | None, told: str
) -> None:
    (tmp_path / "outside").write_text("x")
    path = changed / MANIFEST
    manifest = json.loads(path.read_text())
    path.unlink()
    if change is not None:
        path.write_text(json.dumps({**manifest, **change}))

    with pytest.raises(BackupRefused, match=told):
        restore(elsewhere, changed, said.append)


def test_nothing_is_restored_over_what_is_there(
    live: Settings, kept: Path, elsewhere: Settings, tmp_path: Path
) -> None:
    with pytest.raises(BackupRefused, match="empty home"):
        restore(live, kept, said.append)
    with pytest.raises(BackupRefused, match="empty one"):
        restore(Settings(home=tmp_path / "new", database_url=live.database), kept, said.append)
    restore(elsewhere, kept, said.append)
    assert elsewhere.database != live.database
    with pytest.raises(BackupRefused, match="empty home"):
        restore(elsewhere, kept, said.append)


def test_a_backup_of_the_other_database_is_refused(kind: str, kept: Path, tmp_path: Path) -> None:
    other = "postgresql+psycopg://nobody@127.0.0.1/x" if kind == "sqlite" else f"sqlite:///{tmp_path / 'x.db'}"

    with pytest.raises(BackupRefused, match="the backup is of"):
        restore(Settings(home=tmp_path / "new", database_url=other), kept, said.append)


def test_a_backup_is_made_beside_nothing_else_and_outside_of_the_home(live: Settings, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("x")
    for target, told in ((tmp_path / "taken", "not empty"), (live.root / "backup", "in the home")):
        with pytest.raises(BackupRefused, match=told):
            backup(live, target, said.append)
    assert os.listdir(tmp_path / "taken") == ["mine"]


def test_a_backup_without_room_is_refused_and_is_none(own: Settings, tmp_path: Path) -> None:
    (file,) = (own.root / "files").iterdir()
    file.write_bytes(b"x" * (9 << 20))
    with small_disk(tmp_path / "small", 8) as disk:
        with pytest.raises(BackupRefused, match="full"):
            backup(own, disk / "backup", said.append)
        assert not (disk / "backup" / MANIFEST).exists()


def test_without_the_programs_of_postgres_a_sentence_says_what_is_missing(
    kind: str, live: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "sqlite":
        pytest.skip("SQLite needs no program")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupRefused, match="there is no pg_dump on this host"):
        backup(live, tmp_path / "backup", said.append)


def test_models_are_copied_where_that_is_asked_for(own: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    (own.models / "tiny").mkdir(parents=True)
    (own.models / "tiny" / "config.json").write_text("{}")
    without = backup(own, tmp_path / "without", said.append)
    backup(own, tmp_path / "with", said.append, with_models=True)
    restore(elsewhere, tmp_path / "with", said.append)

    assert not any("models" in file.path for file in without.files)
    assert (elsewhere.models / "tiny" / "config.json").read_text() == "{}"


def test_what_is_scratch_half_written_or_a_link_is_no_part_of_it(own: Settings, tmp_path: Path) -> None:
    (job,) = (own.root / "jobs").iterdir()
    for name in (".draft-step-00000009-attempt-1/weights", "checkpoints/.removed-x/weights", "attempts/1/work/scratch"):
        (job / name).parent.mkdir(parents=True, exist_ok=True)
        (job / name).write_text("half")
    (job / "link").symlink_to("/etc/passwd")
    (job / "data").mkdir(exist_ok=True)
    (job / "data" / "train.arrow").write_text("rows")
    backup(own, tmp_path / "backup", said.append)

    names = {file.path for file in BackupManifest.read(tmp_path / "backup").files}
    assert f"home/jobs/{job.name}/data/train.arrow" in names
    assert not [name for name in names if "half" in name or "scratch" in name or "link" in name or "/." in name]


@pytest.mark.parametrize("revision", [None, "0002"], ids=["no tables", "an older schema"])
def test_a_database_that_was_not_migrated_has_no_backup(
    elsewhere: Settings, tmp_path: Path, revision: str | None
) -> None:
    elsewhere.root.mkdir()
    if revision is not None:
        upgrade(elsewhere.database, revision)

    with pytest.raises(BackupRefused, match=r"migrate it first|there is no database"):
        backup(elsewhere, tmp_path / "backup", said.append)
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize("kept", ["checkpoints/step-00000002-attempt-1", "attempts/000001/adapter"])
def test_of_a_folder_that_is_removed_while_it_is_copied_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    home, target = tmp_path / "home", tmp_path / "target"
    for name in (f"{kept}/first", f"{kept}/second", "attempts/000001/events.jsonl"):
        (home / "jobs/job-a" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "jobs/job-a" / name).write_text("x")

    def copy_and_lose(source: Path, copied: Path, name: str) -> BackupFile:
        stored = contents.copy(source, copied, name)
        shutil.rmtree(home / "jobs/job-a" / kept, ignore_errors=True)
        return stored

    monkeypatch.setattr(service, "copy", copy_and_lose)
    found = {file.path for file in service._copy_whole(home, "jobs/job-a", target)}

    assert found == {"home/jobs/job-a/attempts/000001/events.jsonl"}
    assert not list(target.glob("**/first"))
