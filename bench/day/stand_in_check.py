"""A plugin (`TUNESMITH_PLUGINS=bench.day.stand_in_check`): the check of a job as a short child process.

The service's own check loads a model's tokenizer, which takes seconds of computing; hundreds of them would measure
nothing else. It checks jobs with the label `check` alone. What the child writes is stored and moved between hosts as
the rows of any check, and is nothing that could be trained on.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.jobs.kinds import KINDS, SUBMISSION, TRAIN, TRAININGS, JobKind
from app.jobs.states import Stage

if TYPE_CHECKING:
    from app.contracts.plan import JobPlan
    from app.jobs.models import Job
    from app.jobs.queue.claims import Claim
    from worker.supervising.attempt import Report
    from worker.supervising.context import WorkerContext

HERE = "bench.day.stand_in_check"


class StandInCheck:
    """The `StageRunner` of the stage `check`."""

    def run(self, context: "WorkerContext", held: "Claim", job: "Job", plan: "JobPlan") -> "Report":
        from app.processes.environments import Process
        from app.sources import base_of
        from worker.child import command, environment
        from worker.supervising import orders
        from worker.supervising.attempt import ChildCommand, attempt_folder, run_child
        from worker.supervising.checks import CheckRunner
        from worker.supervising.runners import is_done
        from worker.supervising.transfers import keep_rows

        if "check" in job.labels:
            return CheckRunner().run(context, held, job, plan)
        folder = attempt_folder(context, job)
        order = orders.write_check(context, job, plan, base_of(plan.model, context.settings.models), folder)
        env = environment(Process.CHECK, context.settings.root / "cache")
        report = run_child(context, held, ChildCommand(command(HERE, order), env, folder, max_seconds=None))
        return keep_rows(context, held, report) if is_done(self, report) else report

    def is_complete(self, report: "Report") -> bool:
        return report.is_checked

    def publish(self, *_: object) -> dict[str, object]:
        return {}


def main() -> None:
    """The child process."""
    from app.contracts.events import SourcesChecked
    from app.contracts.order import CheckOrder
    from app.contracts.rows import TOKENIZER
    from worker.events import EventWriter

    order = CheckOrder.model_validate_json(Path(sys.argv[1]).read_text())
    tokenizer = order.data_dir / TOKENIZER
    tokenizer.mkdir(parents=True, exist_ok=True)
    for path in (tokenizer / "tokenizer.json", order.data_dir / "train.arrow"):
        path.write_text(order.job_id)
    with EventWriter(order.events) as events:
        events.write(SourcesChecked())


if __name__ == "__main__":
    main()
else:
    KINDS[TRAIN] = JobKind(TRAIN, SUBMISSION, {Stage.CHECK: f"{HERE}:StandInCheck", Stage.TRAIN: TRAININGS})
