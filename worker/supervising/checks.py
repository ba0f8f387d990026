"""Runs the checks of specs and their data: the checker under its guardian."""

from typing import Any

from app.contracts.plan import JobPlan
from app.errors import ServiceError
from app.jobs.models import Job
from app.jobs.queue.claims import Claim
from app.processes.environments import Process
from app.sources import base_of
from worker.child import CHECKER, command, environment
from worker.supervising import orders
from worker.supervising.attempt import ChildCommand, Report, StopReason, attempt_folder, refused, run_child
from worker.supervising.context import WorkerContext
from worker.supervising.job_secrets import hub_secrets, with_secrets
from worker.supervising.runners import is_done
from worker.supervising.transfers import bring_sources, keep_rows


class CheckRunner:
    """The `StageRunner` of the stage `check`."""

    def run(self, context: WorkerContext, held: Claim, job: Job, plan: JobPlan) -> Report:
        folder = attempt_folder(context, job)
        stopped = bring_sources(context, held, plan)
        if stopped in (StopReason.CANCELLED, StopReason.SHUTDOWN):
            return Report(exit_code=0, stopped=stopped)
        try:
            order = orders.write_check(context, job, plan, base_of(plan.model, context.settings.models), folder)
            secrets = hub_secrets(context, job, plan)
        except ServiceError as error:
            return refused(error)
        env = with_secrets(environment(Process.CHECK, context.settings.root / "cache"), secrets)
        words, values = command(CHECKER, order), [*secrets.values()]
        report = run_child(context, held, ChildCommand(words, env, folder, max_seconds=None, secrets=values))
        is_over = report.stopped in (StopReason.FENCED, StopReason.CANCELLED) or not is_done(self, report)
        return report if is_over else keep_rows(context, held, report)

    def is_complete(self, report: Report) -> bool:
        return report.is_checked

    def publish(self, *_: Any) -> dict[str, Any]:
        """A check publishes nothing: its rows lie in the job's folder."""
        return {}
