"""The life of a job has the moves that its drawing shows, and no other."""

import pytest

from app.jobs.states import NEXT, JobStatus, RequestedAction, Stage, after_check, given_back, sources_of


@pytest.mark.parametrize("status", [s for s in JobStatus if s.is_final])
def test_a_final_status_is_never_left(status: JobStatus) -> None:
    assert not NEXT[status]


@pytest.mark.parametrize("status", [s for s in JobStatus if not s.is_final])
def test_a_job_can_be_cancelled_until_it_has_ended(status: JobStatus) -> None:
    assert status in sources_of(JobStatus.CANCELLED)


def test_only_a_running_job_and_a_dry_run_can_succeed() -> None:
    assert sources_of(JobStatus.SUCCEEDED) == [JobStatus.VALIDATING, JobStatus.RUNNING]


@pytest.mark.parametrize(
    ("requested_action", "is_dry_run", "status"),
    [
        (RequestedAction.RUN, False, JobStatus.QUEUED),
        (RequestedAction.PAUSE, False, JobStatus.PAUSED),
        (RequestedAction.CANCEL, False, JobStatus.CANCELLED),
        (RequestedAction.RUN, True, JobStatus.SUCCEEDED),
        (RequestedAction.CANCEL, True, JobStatus.CANCELLED),
    ],
)
def test_a_job_that_was_checked_waits_as_its_user_wants_and_a_dry_run_has_ended(
    requested_action: RequestedAction, is_dry_run: bool, status: JobStatus
) -> None:
    assert after_check(requested_action, is_dry_run=is_dry_run) is status
    assert status in NEXT[JobStatus.VALIDATING]


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("requested_action", RequestedAction)
def test_what_is_given_back_may_become_what_its_user_wants(stage: Stage, requested_action: RequestedAction) -> None:
    target = given_back(stage, requested_action)

    assert target in NEXT[stage.active]
    assert target.is_final == (requested_action is RequestedAction.CANCEL)


def test_a_stage_claims_what_the_stage_before_it_leaves() -> None:
    assert JobStatus.QUEUED in NEXT[Stage.CHECK.active]
    assert Stage.TRAIN.waiting is JobStatus.QUEUED
