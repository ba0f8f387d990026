"""A kind of job that a plugin adds: it counts the words of a text, on the CPU, and leaves the counts as an artifact.

It is one file, and no other file knows it: `TUNESMITH_PLUGINS=tests.support.dummy_kind`.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from app.contracts.base import Contract
from app.contracts.submitted import SubmittedSpec
from app.jobs.kinds import JobKind, register
from app.jobs.states import Stage

if TYPE_CHECKING:
    from fastapi import APIRouter
    from sqlalchemy.orm import Session

    from app.config import Settings
    from app.database.connection import Database
    from app.jobs.models import Job
    from app.jobs.queue.claims import Claim
    from app.scope import Scope
    from worker.supervising.attempt import Report
    from worker.supervising.context import WorkerContext

COUNTS = "counts.json"


class CountPlan(Contract):
    text: str


class CountSpec(SubmittedSpec):
    """The body of `POST /word-counts`."""

    text: str = Field(min_length=1, max_length=10_000)


class CountOrder(Contract):
    text: str
    folder: Path


class CountSubmission:
    def check(self, database: "Database", scope: "Scope", settings: "Settings", spec: CountSpec) -> None:
        from app.sources import invalid

        if not spec.text.split():
            raise invalid("text", "no_words", repr(spec.text), "a text with a word")

    def columns(self, session: "Session", scope: "Scope", settings: "Settings", spec: CountSpec) -> dict[str, Any]:
        return {"plan": {"text": spec.text}}

    def read_plan(self, job: "Job") -> CountPlan | None:
        try:
            return CountPlan.model_validate(job.plan)
        except ValidationError:
            return None


class CountRunner:
    def run(self, context: "WorkerContext", held: "Claim", job: "Job", plan: CountPlan) -> "Report":
        from app.processes.environments import Process
        from worker.child import command, environment
        from worker.supervising.attempt import ChildCommand, attempt_folder, run_child

        folder = attempt_folder(context, job)
        order = folder / "order.json"
        order.write_text(CountOrder(text=plan.text, folder=folder).model_dump_json())
        env = environment(Process.CHECK, context.settings.root / "cache")
        child = ChildCommand(command("tests.support.dummy_kind", order), env, folder, max_seconds=60)
        return run_child(context, held, child)

    def is_complete(self, report: "Report") -> bool:
        return len(report.artifacts) == 1

    def publish(self, session: "Session", context: "WorkerContext", job: "Job", report: "Report") -> dict[str, Any]:
        return {"result": {"bytes": report.artifacts[0].bytes}}


def make_router() -> "APIRouter":
    from fastapi import APIRouter

    from app.jobs import service
    from app.jobs.dependencies import NotifierDep
    from app.jobs.kinds import KINDS
    from app.jobs.schemas import JobDetail
    from app.jobs.views.details import detail_of
    from app.web.dependencies import DatabaseDep, JobsCaller, SettingsDep

    router = APIRouter(prefix="/word-counts", tags=["word counts"])

    @router.post("", status_code=201)
    def count(
        spec: CountSpec, caller: JobsCaller, database: DatabaseDep, settings: SettingsDep, notifier: NotifierDep
    ) -> JobDetail:
        sent = spec.model_dump(mode="json", exclude_unset=True)
        job_id = service.submit(database, caller, settings, notifier, KINDS["word-count"], spec, sent)
        with database.reader() as session:
            return detail_of(session, caller.scope, service.find(session, caller.scope, job_id))

    return router


def main() -> None:
    """The child process."""
    from app.contracts.events import ArtifactSaved
    from app.hashing import hash_folder
    from worker.events import EventWriter

    order = CountOrder.model_validate_json(Path(sys.argv[1]).read_text())
    counts = order.folder / "counts"
    counts.mkdir()
    (counts / COUNTS).write_text(json.dumps(Counter(order.text.split())))
    with EventWriter(order.folder / "events.jsonl") as events:
        size = (counts / COUNTS).stat().st_size
        events.write(
            ArtifactSaved(
                artifact_kind="word-count", name=COUNTS, path=str(counts), sha256=hash_folder(counts), bytes=size
            )
        )


HERE = "tests.support.dummy_kind"
register(
    JobKind("word-count", f"{HERE}:CountSubmission", {Stage.RUN: f"{HERE}:CountRunner"}, router=f"{HERE}:make_router")
)
if __name__ == "__main__":
    main()
