"""Runs trainings: the trainer under its guardian, beside the engine, and the proof of the adapter afterwards."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.contracts.events import AdapterSaved, Noticed, Phase, PhaseStarted, Verified
from app.contracts.plan import JobPlan
from app.contracts.probe import Proof, ProofOrder
from app.errors import ServiceError
from app.jobs.models import Job
from app.jobs.queue.claims import Claim, lock
from app.processes.environments import Process
from app.sources import base_of
from worker.child import FETCHER, TRAINER, command, environment
from worker.compile_cache import compile_folder, keep_only
from worker.hardware import describe_device
from worker.supervising import orders
from worker.supervising.attempt import (
    EVENTS_NAME,
    ChildCommand,
    Report,
    StopReason,
    attempt_folder,
    refused,
    run_child,
)
from worker.supervising.context import WorkerContext
from worker.supervising.gpu_sharing import GpuLeases, Training, blame_sharing, training_of, wait_for_room
from worker.supervising.job_secrets import hub_secrets, training_secrets, with_secrets
from worker.supervising.proving import NoAnswer, ask, not_proved
from worker.supervising.publishing import adapter_row, place_bundle, publish, take_bundle_back
from worker.supervising.resuming import choose_start, finished_before, tidy
from worker.supervising.retries import retry_until_stored
from worker.supervising.runners import heartbeat, is_done, store_event
from worker.supervising.transfers import bring_for_training, keep_results

log = logging.getLogger(__name__)


class TrainingRunner:
    """The `StageRunner` of the stage `train`."""

    def run(self, context: WorkerContext, held: Claim, job: Job, plan: JobPlan) -> Report:
        """Train, unless an earlier attempt has finished that, and have the adapter verified."""
        done = retry_until_stored(lambda: finished_before(context, held), context.stopping)
        report = done if done is not None else _train(context, held, job, plan)
        if report.stopped in (StopReason.FENCED, StopReason.CANCELLED) or not is_done(self, report):
            return report
        report = keep_results(context, held, report)  # before the proof, for an engine on another host
        is_over = report.stopped is StopReason.CANCELLED or not is_done(self, report)
        return report if is_over or context.settings.verify == "off" else verify(context, held, job, report)

    def is_complete(self, report: Report) -> bool:
        """Return whether the training is finished and, if a proof is needed, its adapter is proved."""
        is_proved = report.proof is not None or not report.needs_proof
        return report.finished is not None and report.adapter is not None and is_proved

    def publish(self, session: Session, context: WorkerContext, job: Job, report: Report) -> dict[str, Any]:
        return publish(session, context.settings, job, report)


def verify(context: WorkerContext, held: Claim, job: Job, report: Report) -> Report:
    """Have the engine verify the adapter of a finished training.

    Returns the report with the proof, or with the failure; in that case the adapter is moved back to its attempt's
    folder. Raises Fenced.
    """
    began, saved = time.monotonic(), report.adapter
    assert saved is not None, "a finished training has an adapter"
    report = replace(report, stopped=None, needs_proof=True)
    store_event(context, held, PhaseStarted(phase=Phase.VERIFY))
    place_bundle(context.settings, job.id, saved)
    row = adapter_row(context.settings, job, saved)
    try:
        found = ask(
            context.settings.engines,
            ProofOrder(base=row.base(context.settings), adapter=row.ref(context.settings)),
            lambda: heartbeat(context, held),
            context.settings.heartbeat_seconds,
        )
    except NoAnswer as none:
        report.failed = none.failure
    else:
        _apply_result(report, found)
    if report.proof is None:
        retry_until_stored(lambda: _withdraw(context, held, saved), context.stopping)
    else:
        store_event(context, held, Verified(proof=report.proof, seconds=round(time.monotonic() - began, 3)))
    return report


def _withdraw(context: WorkerContext, held: Claim, saved: AdapterSaved) -> None:
    """If another attempt owns the job, this raises Fenced and does not move the bundle: that attempt may have published
    it."""
    with context.database.writer() as session:
        lock(session, held)
        try:
            take_bundle_back(context.settings, held.job_id, saved)
        except OSError as error:  # a later attempt finds it there too
            log.warning("%s: its adapter could not be moved back, and is not served: %s", held.job_id, error)


def _apply_result(report: Report, found: Proof | StopReason) -> None:
    match found:
        case StopReason():
            report.stopped = found
        case Proof(proved=True):
            report.proof = found
        case Proof():
            report.failed = not_proved(found)


def _train(context: WorkerContext, held: Claim, job: Job, plan: JobPlan) -> Report:
    folder = attempt_folder(context, job)
    keep_only(compile_folder(context.settings.root / "cache", describe_device()))
    try:
        stopped = bring_for_training(context, held, plan)
        if stopped is not None:
            return Report(exit_code=0, stopped=stopped)
        start = retry_until_stored(lambda: choose_start(context, held, plan), context.stopping)
        base = base_of(plan.model, context.settings.models)
        order = orders.write_training(context, job, plan, base, folder, start)
        of_hub, of_training = hub_secrets(context, job, plan), training_secrets(context, job, plan)
    except ServiceError as error:
        return refused(error)
    child_command = ChildCommand(
        command=command(context.settings.trainer_module, order),
        env=with_secrets(environment(Process.TRAIN, context.settings.root / "cache"), of_training),
        folder=folder,
        max_seconds=plan.resources.max_seconds,
        order=order if plan.resources.gpus == 1 else None,  # a spare has no locks of further GPUs
        checkpoints_requested=job.checkpoints_requested,
        secrets=[*of_training.values()],
    )
    if not base.is_local and context.settings.trainer_module == TRAINER:  # a test's trainer loads no base
        report = _fetch(context, held, child_command, order, of_hub)
        if report.exit_code != 0 or report.stopped is not None:
            return report
        child_command = replace(child_command, events_before=(folder / EVENTS_NAME).stat().st_size)
    report = _run_beside_engine(context, held, child_command, training_of(context, job, plan))
    if report.exit_code != 0 and report.stopped is not StopReason.FENCED:
        retry_until_stored(lambda: tidy(context, held), context.stopping)
    return report


def _fetch(context: WorkerContext, held: Claim, training: ChildCommand, order: Path, secrets: dict[str, str]) -> Report:
    """Download the base in a separate process, because the process that loads it gets no hub token."""
    env = with_secrets(environment(Process.FETCH, context.settings.root / "cache"), secrets)
    fetching = replace(training, command=command(FETCHER, order), env=env, order=None, secrets=[*secrets.values()])
    return run_child(context, held, fetching)


def _run_beside_engine(context: WorkerContext, held: Claim, child_command: ChildCommand, training: Training) -> Report:
    settings = context.settings
    with GpuLeases(settings.engines, settings.gpu_sharing, training, settings.lease_seconds) as gpu_lease:
        stopped = wait_for_room(gpu_lease, lambda: heartbeat(context, held), settings.heartbeat_seconds)
        if stopped is not None:
            return Report(exit_code=0, stopped=stopped)
        if not gpu_lease.is_settled:
            message = "the engine did not free its GPU memory in time: the training runs beside it"
            store_event(context, held, Noticed(code="engine_stayed", message=message))
        if gpu_lease.room_bytes is not None:
            orders.limit_memory(child_command.folder, gpu_lease.room_bytes)
        report = run_child(context, held, child_command)
    return blame_sharing(report, gpu_lease)
