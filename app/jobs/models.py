"""The tables of jobs: the job itself, its attempts, events and checkpoints, idempotency keys, and the workers."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, ForeignKey, Index, Integer, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database.columns import Choice, Document
from app.database.connection import Base, UtcDateTime
from app.jobs.states import JobStatus, RequestedAction, Stage


def _partial(name: str, *columns: str, where: str, on_sqlite: str | None = None) -> Index:
    """An index of the few rows for which a condition holds. Queries must repeat the condition as it is written here."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(on_sqlite or where))


class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    project: Mapped[str] = mapped_column(String(64), server_default="default", comment="projects take turns")
    labels: Mapped[dict[str, str]] = mapped_column(Document())
    priority: Mapped[int] = mapped_column(Integer)
    sent: Mapped[dict[str, Any]] = mapped_column("spec", Document(), comment="as the client sent it")
    spec_version: Mapped[int] = mapped_column(
        Integer, server_default="1", comment="of the form of its spec: a worker claims none of a newer version"
    )
    plan: Mapped[dict[str, Any]] = mapped_column(
        "resolved", Document(), comment="app.contracts.plan; of older versions: see app.jobs.stored"
    )
    observed: Mapped[dict[str, Any] | None] = mapped_column(
        Document(is_optional=True), comment="what the libraries really used, by dotted field of the plan"
    )
    file_id: Mapped[str | None] = mapped_column(String(40), index=True)
    eval_file_id: Mapped[str | None] = mapped_column(String(40), index=True)
    continues: Mapped[str | None] = mapped_column(
        String(40), index=True, comment="the adapter or job that it goes on from, which may not be deleted meanwhile"
    )
    kind: Mapped[str] = mapped_column(String(32), server_default="train")
    gpus: Mapped[int] = mapped_column(Integer, server_default="1", comment="that its training needs, of one host")
    created_by: Mapped[str | None] = mapped_column(
        String(128), comment="app.access.caller: Caller.name; null: an older version stored it"
    )
    is_temporary: Mapped[bool] = mapped_column(
        "is_dry_run",
        Boolean,
        server_default=false(),
        comment="in no list, and removed once the request that made it has its result",
    )

    status: Mapped[JobStatus] = mapped_column(Choice(JobStatus, JobStatus.UNKNOWN))
    phase: Mapped[str | None] = mapped_column(String(16))
    requested_action: Mapped[RequestedAction] = mapped_column(
        "desired", Choice(RequestedAction, RequestedAction.UNKNOWN)
    )
    epoch: Mapped[int] = mapped_column(Integer, comment="fencing token: every write of an attempt names it")
    worker: Mapped[str | None] = mapped_column(String(128), comment="who holds the job now")
    slot: Mapped[str | None] = mapped_column(String(40), comment="the lock that the holder's processes hold")
    heartbeats: Mapped[int] = mapped_column("beats", BigInteger, comment="rises with every heartbeat of the holder")
    checkpoints_requested: Mapped[int] = mapped_column(
        "checkpoints_asked", Integer, server_default="0", comment="how often a user did"
    )
    run_after: Mapped[datetime | None] = mapped_column(UtcDateTime)
    waiting_since: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="since when it is validating or queued; null: since it was made"
    )
    last_seq: Mapped[int] = mapped_column(BigInteger, comment="number of the newest event")
    traceparent: Mapped[str | None] = mapped_column(
        String(64), comment="the trace of the request that made it; null: none"
    )

    checking: Mapped[dict[str, Any] | None] = mapped_column(
        Document(is_optional=True), comment="how far the check has read"
    )
    progress: Mapped[dict[str, Any] | None] = mapped_column(Document(is_optional=True))
    data_report: Mapped[dict[str, Any] | None] = mapped_column(Document(is_optional=True))
    notices: Mapped[list[dict[str, Any]]] = mapped_column(Document(list))
    result: Mapped[dict[str, Any] | None] = mapped_column(Document(is_optional=True))
    error: Mapped[dict[str, Any] | None] = mapped_column(Document(is_optional=True))
    adapter_id: Mapped[str | None] = mapped_column(String(40))

    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_jobs_waiting", "status", "priority", "created_at"),
        Index("ix_jobs_created", "created_at", "id"),
        Index("ix_jobs_by_project", "project", "created_at", "id"),
        Index("ix_jobs_by_status", "status", "created_at", "id"),
        Index("ix_jobs_by_project_and_status", "project", "status", "created_at", "id"),
        _partial("ix_jobs_held", "worker", "project", where="worker IS NOT NULL"),
        _partial("ix_jobs_finished", "finished_at", where="finished_at IS NOT NULL"),
        _partial("ix_jobs_dry_runs", "created_at", where="is_dry_run", on_sqlite="is_dry_run = 1"),
    )


class JobLabel(Base):
    """A label of a job, with the job's time, so that an index lists the jobs of a label, newest first."""

    __tablename__ = "job_labels"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_job_labels_jobs", "name", "value", "created_at", "job_id"),)


class Attempt(Base):
    """One try at a stage of a job, with a child process of its own."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)
    stage: Mapped[Stage | str] = mapped_column(Choice(Stage))
    worker: Mapped[str] = mapped_column(String(128))
    resume_step: Mapped[int | None] = mapped_column(
        Integer, comment="the step it went on behind; null until that is known, which supersedes nothing"
    )
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    outcome: Mapped[str | None] = mapped_column(String(32))
    reason: Mapped[str | None] = mapped_column(Text)
    exit_code: Mapped[int | None] = mapped_column(Integer, comment="128+n after signal n")
    events_offset: Mapped[int] = mapped_column(BigInteger, comment="bytes of the events file that are stored")


class JobEvent(Base):
    """One event of a job. The events of a job are numbered from 1 without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(Integer)
    kind: Mapped[str] = mapped_column(String(32))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    payload: Mapped[dict[str, Any]] = mapped_column(Document())

    __table_args__ = (Index("ix_job_events_kind", "job_id", "kind", "seq"),)


class MetricSummary(Base):
    """The points of the metrics among consecutive events of a job (`app.jobs.metric_summaries`)."""

    __tablename__ = "metric_summaries"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    parts: Mapped[list[dict[str, Any]]] = mapped_column(Document(list))


class Checkpoint(Base):
    """A complete checkpoint of a job on the disk, written by `worker.checkpoints`."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)
    path: Mapped[str] = mapped_column(Text)  # to be resolved with `Settings.locate`
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), comment="of its manifest")
    seconds: Mapped[float] = mapped_column(Float, comment="how long the training stood still for it")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class IdempotencyKey(Base):
    """The `Idempotency-Key` of a POST /jobs, so that the same request sent twice makes one job."""

    __tablename__ = "idempotency_keys"

    project: Mapped[str] = mapped_column(String(64), primary_key=True, server_default="default")
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_idempotency_keys_created", "created_at"),)


class TrainingMeasurement(Base):
    """What a training measured of memory and speed, on a kind of device and a shape of base."""

    __tablename__ = "training_measurements"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    device: Mapped[str] = mapped_column(String(255), comment="as of the worker")
    shape: Mapped[str] = mapped_column(String(128), comment="app.contracts.model_shape: BaseShape.key")
    held_bytes: Mapped[int] = mapped_column(BigInteger, comment="predicted, whatever the tokens are")
    predicted_bytes: Mapped[int] = mapped_column(BigInteger, comment="peak, without a correction")
    measured_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="peak; null: not measured")
    operations_per_second: Mapped[float | None] = mapped_column(Float, comment="floating point; null: not measured")
    measured_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("ix_training_measurements", "device", "shape", "measured_at"),)


class Total(Base):
    """How many jobs or attempts have ended in one way since the table is there (`app.jobs.queue.totals`)."""

    __tablename__ = "totals"

    subject: Mapped[str] = mapped_column(String(16), primary_key=True, comment="jobs or attempts")
    part: Mapped[str] = mapped_column(String(32), primary_key=True, comment="kind of the jobs, stage of the attempts")
    outcome: Mapped[str] = mapped_column(String(32), primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger, comment="how many have ended so")


class Turn(Base):
    """When a job of a project last began a stage, as a number that grows from one begin to the next."""

    __tablename__ = "turns"

    stage: Mapped[Stage | str] = mapped_column(Choice(Stage), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Worker(Base):
    """A worker process. It updates `last_seen`, by the clock of the database, while it is alive."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    stage: Mapped[Stage | str] = mapped_column(Choice(Stage))
    host: Mapped[str] = mapped_column(String(255))
    device: Mapped[str] = mapped_column(String(255))
    gpus: Mapped[int] = mapped_column(
        Integer,
        server_default="1",
        comment="that it can give to one training, if all are free; 1 also of a worker without any",
    )
    version: Mapped[str | None] = mapped_column(String(32), comment="of the service; null: of one that did not say it")
    problem: Mapped[str | None] = mapped_column(Text, comment="why it takes no job")
    gpu_readings: Mapped[list[dict[str, Any]] | None] = mapped_column(
        Document(list, is_optional=True), comment="of its GPUs: app.contracts.gpu_readings; null: it has none"
    )
    job_id: Mapped[str | None] = mapped_column(String(40))
    spec_version: Mapped[int] = mapped_column(
        Integer, server_default="1", comment="the newest version of a spec that it understands"
    )
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_seen: Mapped[datetime] = mapped_column(UtcDateTime)
