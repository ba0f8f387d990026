"""Rows as no version of today stores them: each document with each kind of damage, and values of enums that only
another version has."""

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import text

from app.accounts.schemas import NewKey
from app.accounts.service import create
from app.config import Settings
from app.database.connection import Database
from app.datasets.report import DataReport, Duplicates, FileReport
from app.files.models import File
from app.ids import new_id
from app.jobs.models import Attempt, Checkpoint, Job, JobEvent, Worker
from app.jobs.states import JobStatus, Stage
from tests.support.callers import ANYONE
from tests.support.jobs import NOW, add_job
from tests.support.learned_text import chat_parts, write_data
from tests.support.scripted_engine import add_adapter
from tests.support.specs import a_body, a_spec
from worker.checkpoints import drafting, publish

PROGRESS = {
    **dict.fromkeys(("step", "total_steps", "tokens", "memory_bytes"), 1),
    **dict.fromkeys(("percent", "epoch", "tokens_per_second", "seconds"), 1.0),
    **dict.fromkeys(("eta_seconds", "loss", "learning_rate", "grad_norm", "gpu_memory_bytes")),
}
COUNTS = {"records": 1, "kept": 1, "dropped": 0, "problem_count": 0, "longest_characters": 1, "longest_record": 1}
LISTS: dict[str, Any] = {name: [] for name in ("problems", "fixes", "warnings", "ignored_keys")}
SOURCE = DataReport(
    format="jsonl",
    is_gzip=False,
    layout=None,
    sha256=None,
    duplicates=Duplicates(count=0, records=[], looked_at=1),
    **COUNTS,
    **LISTS,
).model_dump()
REPORT = FileReport(**SOURCE, columns=[]).model_dump()
VARIANT = {"name": "dequant-nf4", "is_nested": False, "kept": None}
PAYLOAD = {"step": 3, "loss": 1.0}
DOCUMENTS: dict[tuple[str, str], Any] = {
    ("jobs", "labels"): {"team": "a"},
    ("jobs", "spec"): a_body(lora={"r": 8}),
    ("jobs", "resolved"): {name: a_spec().model_dump(mode="json")[name] for name in ("model", "dataset", "training")},
    ("jobs", "checking"): {"source": "source", "records": 1, "bytes_read": 1, "total_bytes": 1, "percent": 1.0},
    ("jobs", "progress"): PROGRESS,
    ("jobs", "data_report"): {"source": SOURCE},
    ("jobs", "notices"): [{"code": "c", "message": "m"}],
    ("jobs", "result"): {"adapter": "a", "steps": 1},
    ("jobs", "error"): {"category": "user_error", "code": "c", "message": "m"},
    ("files", "report"): REPORT,
    ("adapters", "base_variant"): VARIANT,
    ("job_events", "payload"): PAYLOAD,
    ("api_keys", "scopes"): ["read"],
    ("api_keys", "limits"): {"streams": 1},
}
CHOICES = {
    ("jobs", "status"): "archived",
    ("jobs", "desired"): "hold",
    ("jobs", "phase"): "distil",
    ("attempts", "stage"): "export",
    ("adapters", "kind"): "dora",
}
MOST_FIELDS = 2


def damages(good: Any) -> Iterator[str]:
    """JSON texts of what stands in place of a document: another shape, and itself with something missing, unknown or
    out of range."""
    for other in (None, [[1]], {}, "text", {"a": {"b": 1}}):
        yield json.dumps(other)
    yield r'{"step": 1e999, "message": "\ud800"}'
    if not isinstance(good, dict):
        return
    yield json.dumps({**good, "of_a_newer_version": {"x": [1]}})
    for name, value in list(good.items())[:MOST_FIELDS]:
        yield json.dumps({known: each for known, each in good.items() if known != name})
        worse: Any = [[1]] if isinstance(value, dict) else {"a": 1}
        yield json.dumps({**good, name: worse})
        if isinstance(value, dict):
            yield json.dumps({**good, name: {**value, "of_a_newer_version": 1}})


class Rows:
    """Damaged rows by their tables, one good row of each, and what a job of them has on the disk."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        self._prepare_folder()
        self._makers = {"jobs": self._job, "files": self._file, "adapters": self._adapter, "api_keys": self._key}
        self.good = {table: make() for table, make in self._makers.items()}
        self.damaged: dict[str, list[str]] = {table: [] for table in self._makers}
        for (table, column), good in DOCUMENTS.items():
            for value in (*damages(good), *(() if self._is_postgres else ('{"torn',))):
                self._damage(table, column, value, "CAST(:value AS JSON)" if self._is_postgres else ":value")
        for (table, column), value in CHOICES.items():
            self._damage(table, column, value, ":value")

    @property
    def _is_postgres(self) -> bool:
        return self.database.engine.dialect.name == "postgresql"

    @property
    def count(self) -> int:
        return sum(map(len, self.damaged.values()))

    def _damage(self, table: str, column: str, value: str, written: str) -> None:
        kind = table if table in self.damaged else "jobs"
        row_id = self._makers[kind]()
        key = "id" if table == kind else "job_id"
        statement = text(f"UPDATE {table} SET {column} = {written} WHERE {key} = :id")
        with self.database.writer() as session:
            session.execute(statement, {"value": value, "id": row_id})
            session.commit()
        self.damaged[kind].append(row_id)

    def _prepare_folder(self) -> None:
        """Rows and a checkpoint, which all jobs share."""
        self.shared = self.settings.root / "shared"
        write_data(self.shared / "data", train={1: chat_parts("q", "a")})
        with drafting(self.shared / "checkpoints", step=3, attempt=1) as draft:
            (draft / "adapter_config.json").write_text("{}")
            publish(draft, self.shared / "checkpoints", step=3, attempt=1)

    def _job(self) -> str:
        job_id = add_job(self.database, JobStatus.FAILED, finished_at=NOW)
        folder = self.settings.job_dir(job_id)
        folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(self.shared)
        saved = {"path": "p", "bytes": 1, "sha256": "0", "seconds": 1.0, "created_at": NOW}
        attempt = {"stage": Stage.TRAIN, "worker": "w", "started_at": NOW, "events_offset": 0}
        with self.database.writer() as session:
            session.get_one(Job, job_id).last_seq = 2
            session.add(JobEvent(job_id=job_id, seq=2, epoch=1, kind="step", at=NOW, payload=PAYLOAD))
            session.add(Attempt(job_id=job_id, epoch=1, **attempt))
            session.add(Checkpoint(job_id=job_id, step=3, epoch=1, **saved))
            session.commit()
        return job_id

    def _file(self) -> str:
        row_id = new_id("file")
        named = {"filename": "f.jsonl", "purpose": "fine-tune", "sha256": "0" * 64, "format": "jsonl", "layout": None}
        with self.database.writer() as session:
            session.add(File(id=row_id, bytes=1, records=1, report=REPORT, created_at=NOW, **named))
            session.commit()
        self.settings.file_path(row_id).parent.mkdir(exist_ok=True)
        self.settings.file_path(row_id).write_bytes(b"x")
        return row_id

    def _key(self) -> str:
        with self.database.writer() as session:
            return create(session, ANYONE, b"pepper", NewKey(name="k", project="a"))[0].id

    def _adapter(self) -> str:
        return add_adapter(self.database, self.settings.root / "adapters", base_variant=VARIANT).id


def add_worker_of_another_version(database: Database) -> None:
    with database.writer() as session:
        session.add(Worker(name="w", stage=Stage.TRAIN, host="h", device="d", started_at=NOW, last_seen=NOW))
        session.flush()
        session.execute(text("UPDATE workers SET stage = 'export'"))
        session.commit()
