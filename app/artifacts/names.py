"""Ids of artifacts. The artifact of an adapter has the adapter's id; others have that of their job, and a number."""

import re

ADAPTER = "adapter"
PREFIX = "artifact"
# Ids are validated before a query, because PostgreSQL refuses a NUL in a text.
ARTIFACT_ID = re.compile(rf"{ADAPTER}-[a-z2-7]{{24}}|{PREFIX}-[a-z2-7]{{24}}-[0-9]{{1,5}}")


def artifact_id_of(job_id: str, number: int) -> str:
    """Return the id of the artifact that a job reported as its `number`-th. It is the same when that is repeated."""
    return f"{job_id.replace('job-', f'{PREFIX}-', 1)}-{number}"


def job_id_of(artifact_id: str) -> str:
    return f"job-{artifact_id.split('-')[1]}"
