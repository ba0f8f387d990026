"""A home that is moved keeps all that is in it: adapters, checkpoints, jobs that wait, unpublished bundles."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.adapters.models import Adapter
from app.config import Settings
from app.database.connection import Database
from app.jobs.models import Checkpoint
from app.jobs.states import JobStatus
from app.main import create_app
from tests.support.jobs import read
from tests.support.scripted_engine import ScriptedEngine, add_adapter
from tests.support.serving import LOCAL
from tests.support.workers import QUIET, add_training, losses, settings_of, skip_pause, slot_acquired, work
from worker.supervising.lifecycle import run_until_idle


def as_older_versions_stored_it(database: Database, home: Path) -> None:
    with database.writer() as session:
        for row in [*session.query(Adapter), *session.query(Checkpoint)]:
            row.path = str(home / row.path)
        session.commit()


def stored(database: Database) -> list[str]:
    with database.reader() as session:
        return [row.path for row in [*session.query(Adapter), *session.query(Checkpoint)]]


@pytest.mark.parametrize("is_old", [False, True], ids=["relative", "absolute, by an older version"])
def test_a_moved_home_answers_continues_and_resumes(
    database: Database, database_url: str, tmp_path: Path, is_old: bool
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    done, cut = add_training(database), add_training(database, save_every=2, at=5, does="dies")
    with slot_acquired(settings_of(first), database) as context:
        run_until_idle(context)
    assert all(not path.startswith("/") for path in stored(database))
    if is_old:
        as_older_versions_stored_it(database, first)
    first.rename(second)

    skip_pause(database, cut)
    work(database, second)
    skip_pause(database, cut)
    work(database, second)
    assert (read(database, cut).status, losses(database, cut)) == (JobStatus.SUCCEEDED, QUIET)

    settings = Settings(home=second, database_url=database_url)
    app = create_app(settings)
    app.state.engine = engine = ScriptedEngine()
    with TestClient(app, base_url=LOCAL) as api:
        for job_id in (done, cut):
            assert api.post("/generate", json={"prompt": "1,", "adapter": job_id}).status_code == 200
            asked = engine.orders[-1].adapter
            assert asked is not None
            assert Path(asked.path).is_dir()
            assert Path(asked.path).is_relative_to(second)
        kept = api.get(f"/jobs/{cut}/checkpoints").json()["data"]
        assert len(kept) == len({one["step"] for one in kept})
        assert api.delete(f"/adapters/{done}").status_code == 200
        assert [path.name for path in (second / "adapters").iterdir()] == [cut.replace("job-", "adapter-")]
    assert not first.exists()


def test_a_bundle_that_was_not_published_yet_is_published_from_the_moved_home(
    database: Database, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "adapters").write_text("in the way")
    job_id = add_training(database)
    work(database, first)
    (first / "adapters").unlink()
    first.rename(second)

    skip_pause(database, job_id)
    work(database, second)

    assert read(database, job_id).status is JobStatus.SUCCEEDED
    events = list((second / "jobs" / job_id).glob("attempts/*/events.jsonl"))
    assert len(events) == 1  # no step was trained again


def test_a_local_base_is_found_where_the_models_are_now(database: Database, tmp_path: Path) -> None:
    local: dict[str, Any] = {"base_model": "org/tiny", "base_is_local": True}
    new, old = (
        add_adapter(database, tmp_path, base_source=source, **local)
        for source in ("org/tiny", str(tmp_path / "gone" / "models" / "org" / "tiny"))
    )
    settings = Settings(home=tmp_path / "home")
    (settings.models / "org" / "tiny").mkdir(parents=True)

    assert new.base(settings).source == old.base(settings).source == str(settings.models / "org" / "tiny")


def test_models_outside_of_the_home_stay_where_they_are(database: Database, tmp_path: Path) -> None:
    elsewhere = tmp_path / "large" / "org" / "tiny"
    elsewhere.mkdir(parents=True)
    adapter = add_adapter(database, tmp_path, base_source=str(elsewhere), base_model="org/tiny", base_is_local=True)

    assert adapter.base(Settings(home=tmp_path / "home")).source == str(elsewhere)
    moved = Settings(home=tmp_path / "home", models_dir=tmp_path / "large")
    assert adapter.base(moved).source == str(elsewhere)


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ("adapters/adapter-a/v1", "adapters/adapter-a/v1"),
        ("/old/home/adapters/adapter-a/v1", "adapters/adapter-a/v1"),
        ("/data/jobs/home/jobs/job-a/checkpoints/step-00000002-attempt-1",
         "jobs/job-a/checkpoints/step-00000002-attempt-1"),
        ("/adapters/home/jobs/job-a/attempts/1/adapter", "jobs/job-a/attempts/1/adapter"),
    ],
)  # fmt: skip
def test_a_stored_path_is_below_the_home(settings: Settings, stored: str, found: str) -> None:
    assert settings.locate(stored) == settings.root / found
