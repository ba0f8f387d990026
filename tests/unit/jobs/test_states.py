"""The life of a job has the moves that its drawing shows, and no other."""

import pytest

from app.jobs.states import NEXT, WORKER_STAGES, JobStatus, RequestedAction, Stage, given_back, next_status, sources_of


@pytest.mark.parametrize("status", [s for s in JobStatus if s.is_final])
def test_a_final_status_is_never_left(status: JobStatus) -> None:
    assert not NEXT[status]


@pytest.mark.parametrize("status", [s for s in JobStatus if not s.is_final])
def test_a_job_can_be_cancelled_until_it_has_ended(status: JobStatus) -> None:
    assert status in sources_of(JobStatus.CANCELLED)


def test_only_a_running_job_and_a_temporary_job_can_succeed() -> None:
    assert sources_of(JobStatus.SUCCEEDED) == [JobStatus.VALIDATING, JobStatus.RUNNING]


@pytest.mark.parametrize(
    ("done", "following", "requested_action", "status"),
    [
        (Stage.CHECK, Stage.TRAIN, RequestedAction.RUN, JobStatus.QUEUED),
        (Stage.CHECK, Stage.TRAIN, RequestedAction.PAUSE, JobStatus.PAUSED),
        (Stage.CHECK, Stage.TRAIN, RequestedAction.CANCEL, JobStatus.CANCELLED),
        (Stage.CHECK, None, RequestedAction.RUN, JobStatus.SUCCEEDED),
        (Stage.CHECK, None, RequestedAction.CANCEL, JobStatus.CANCELLED),
        (Stage.TRAIN, None, RequestedAction.RUN, JobStatus.SUCCEEDED),
        (Stage.TRAIN, None, RequestedAction.CANCEL, JobStatus.SUCCEEDED),
    ],
)
def test_a_job_whose_stage_is_done_waits_as_its_user_wants_and_has_ended_after_its_last_one(
    done: Stage, following: Stage | None, requested_action: RequestedAction, status: JobStatus
) -> None:
    assert next_status(done, following, requested_action) is status
    assert status in NEXT[done.active]


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("requested_action", RequestedAction)
def test_what_is_given_back_may_become_what_its_user_wants(stage: Stage, requested_action: RequestedAction) -> None:
    target = given_back(stage, requested_action)

    assert target in NEXT[stage.active]
    assert target.is_final == (requested_action is RequestedAction.CANCEL)


def test_a_stage_claims_what_the_stage_before_it_leaves() -> None:
    assert JobStatus.QUEUED in NEXT[Stage.CHECK.active]
    assert Stage.TRAIN.waiting is JobStatus.QUEUED


def test_every_stage_has_workers() -> None:
    assert [stage.served_by for stage in Stage] == [Stage.CHECK, Stage.TRAIN, Stage.CHECK]
    assert WORKER_STAGES == (Stage.CHECK, Stage.TRAIN)
