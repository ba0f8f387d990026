"""What a worker needs that proves adapters: a trainer that brings a bundle, and little patience."""

from pathlib import Path
from typing import Any

import pytest

from app.database.connection import Database
from tests.support.workers import attempts_of, settings_of
from worker.supervising import proving

BRINGING: dict[str, Any] = {"trainer_module": "tests.support.publishing_trainer", "verify": "engine", "max_attempts": 2}


def bring(monkeypatch: pytest.MonkeyPatch, bundle: Path, base: Path) -> None:
    """Let the trainings of this test leave this bundle, and the worker wait for an engine but shortly."""
    monkeypatch.setenv("BUNDLE", str(bundle))
    monkeypatch.setenv("BASE", str(base))
    monkeypatch.setenv("TUNESMITH_PASS_ENVIRONMENT", "BUNDLE,BASE")
    monkeypatch.setattr(proving, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(proving, "RETRY_SECONDS", 0.1)


def children(database: Database, home: Path, job_id: str) -> int:
    """How many attempts have started a child."""
    folder = settings_of(home).job_dir(job_id) / "attempts"
    return sum((folder / str(one.epoch) / "order.json").exists() for one in attempts_of(database, job_id))


def placed(home: Path) -> list[Path]:
    """Bundles among the adapters, with a row or without."""
    return [path for path in (settings_of(home).root / "adapters").glob("*/*") if path.is_dir()]
