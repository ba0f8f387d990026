"""The life of a job has the moves that its drawing shows, and no other."""

import pytest

from app.jobs.states import NEXT, Desire, JobStatus, Stage, after_check, given_back, sources_of


@pytest.mark.parametrize("status", [s for s in JobStatus if s.is_final])
def test_a_final_status_is_never_left(status: JobStatus) -> None:
    assert not NEXT[status]


@pytest.mark.parametrize("status", [s for s in JobStatus if not s.is_final])
def test_a_job_can_be_cancelled_until_it_has_ended(status: JobStatus) -> None:
    assert status in sources_of(JobStatus.CANCELLED)


def test_only_a_running_job_and_a_dry_run_can_succeed() -> None:
    assert sources_of(JobStatus.SUCCEEDED) == [JobStatus.VALIDATING, JobStatus.RUNNING]


@pytest.mark.parametrize(
    ("desired", "is_dry_run", "status"),
    [
        (Desire.RUN, False, JobStatus.QUEUED),
        (Desire.PAUSE, False, JobStatus.PAUSED),
        (Desire.CANCEL, False, JobStatus.CANCELLED),
        (Desire.RUN, True, JobStatus.SUCCEEDED),
        (Desire.CANCEL, True, JobStatus.CANCELLED),
    ],
)
def test_a_job_that_was_checked_waits_as_its_user_wants_and_a_dry_run_has_ended(
    desired: Desire, is_dry_run: bool, status: JobStatus
) -> None:
    assert after_check(desired, is_dry_run=is_dry_run) is status
    assert status in NEXT[JobStatus.VALIDATING]


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("desired", Desire)
def test_what_is_given_back_may_become_what_its_user_wants(stage: Stage, desired: Desire) -> None:
    target = given_back(stage, desired)

    assert target in NEXT[stage.active]
    assert target.is_final == (desired is Desire.CANCEL)


def test_a_stage_claims_what_the_stage_before_it_leaves() -> None:
    assert JobStatus.QUEUED in NEXT[Stage.CHECK.active]
    assert Stage.TRAIN.waiting is JobStatus.QUEUED
