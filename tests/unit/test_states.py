"""The life of a job has the moves that its drawing shows, and no other."""

import pytest

from app.jobs.states import NEXT, JobStatus, Stage, after_check, sources_of


@pytest.mark.parametrize("status", [s for s in JobStatus if s.is_final])
def test_a_final_status_is_never_left(status: JobStatus) -> None:
    assert not NEXT[status]


@pytest.mark.parametrize("status", [s for s in JobStatus if not s.is_final])
def test_a_job_can_be_cancelled_until_it_has_ended(status: JobStatus) -> None:
    assert status in sources_of(JobStatus.CANCELLED)


def test_only_a_running_job_and_a_dry_run_can_succeed() -> None:
    assert sources_of(JobStatus.SUCCEEDED) == [JobStatus.VALIDATING, JobStatus.RUNNING]


@pytest.mark.parametrize(("is_dry_run", "status"), [(False, JobStatus.QUEUED), (True, JobStatus.SUCCEEDED)])
def test_a_job_that_was_checked_waits_for_its_training_and_a_dry_run_has_ended(
    is_dry_run: bool, status: JobStatus
) -> None:
    assert after_check(is_dry_run=is_dry_run) is status
    assert status in NEXT[JobStatus.VALIDATING]


def test_a_stage_claims_what_the_stage_before_it_leaves() -> None:
    assert JobStatus.QUEUED in NEXT[Stage.CHECK.active]
    assert Stage.TRAIN.waiting is JobStatus.QUEUED
