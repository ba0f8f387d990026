"""What `wait --for` takes."""

import pytest
import typer

from app.cli.waiting import read_condition
from app.jobs.schemas import JobDetail
from tests.support.cli_answers import Json, a_job, figures

TRAINING = {"percent": 25.0, "eta_seconds": None, "gpu_memory_bytes": None, **figures(3, 12)}


@pytest.mark.parametrize(
    ("condition", "job", "is_met"),
    [
        ("succeeded", {"status": "succeeded"}, True),
        ("succeeded", {"status": "running"}, False),
        ("running", {"status": "running"}, True),
        ("running", {"status": "succeeded"}, True),  # it was running, between two looks
        ("running", {"status": "failed"}, False),
        ("ended", {"status": "cancelled"}, True),
        ("ended", {"status": "paused"}, False),
        ("phase=save", {"status": "running", "phase": "save"}, True),
        ("phase=save", {"status": "running", "phase": "train"}, False),
        ("step=3", {"status": "running", "progress": TRAINING}, True),
        ("step=4", {"status": "running", "progress": TRAINING}, False),
        ("step=0", {"status": "queued", "progress": None}, False),
    ],
)
def test_a_job_is_as_the_condition_says(condition: str, job: Json, is_met: bool) -> None:
    assert read_condition(condition)(JobDetail.model_validate(a_job(**job))) is is_met


@pytest.mark.parametrize("text", ["", "done", "unknown", "phase=", "phase=sleep", "step=", "step=-1", "ended=1"])
def test_what_is_no_condition_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"expected ended, a status .validating, .* or step=NUMBER"):
        read_condition(text)
