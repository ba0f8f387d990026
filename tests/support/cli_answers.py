"""Answers of the service, with all their fields, as a client reads them."""

from datetime import UTC, datetime
from typing import Any

from app.adapters.schemas import AdapterPage, AdapterView
from app.files.schemas import FileView
from app.jobs.schemas import JobDetail
from app.jobs.states import JobStatus

Json = dict[str, Any]
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def a_job(**changes: Any) -> Json:
    job = JobDetail(
        id="job-1",
        name="fib",
        project="default",
        priority=0,
        status=JobStatus.SUCCEEDED,
        phase=None,
        adapter_id="a-1",
        created_at=NOW,
        started_at=None,
        finished_at=None,
    )
    return {**job.model_dump(mode="json"), **changes}


def figures(step: int, total: int = 4) -> Json:
    """What an event of a step and the progress of a job have in common."""
    return {
        "step": step,
        "total_steps": total,
        "epoch": step / total,
        "loss": 1 / step,
        "learning_rate": 1e-3,
        "grad_norm": None,
        "tokens": 100 * step,
        "tokens_per_second": 50.0,
        "seconds": 2.0 * step,
        "memory_bytes": 1000,
    }


def a_file() -> Json:
    file = FileView(
        id="file-1",
        bytes=3,
        created_at=NOW,
        filename="rows.jsonl",
        purpose="fine-tune",
        project="default",
        sha256="0" * 64,
        format="jsonl",
        layout="text",
        records=1,
    )
    return file.model_dump(mode="json")


def a_page_of_adapters() -> Json:
    adapter = AdapterView(
        id="a-1",
        version="1",
        name="a-1@1",
        job_id="job-1",
        kind="lora",
        base_model="tiny",
        base_revision=None,
        base_scaled_to=None,
        rank=16,
        bytes=2_500_000,
        created_at=NOW,
    )
    return AdapterPage(data=[adapter], first_id="a-1", last_id="a-1", has_more=False).model_dump(mode="json")
