"""Moves files between this host and the store of all hosts, while the worker's heartbeats go on.

    before an attempt   the sources of a check; rows, checkpoints and origin of a training
    after it            rows and tokenizer of a check; adapters and other artifacts

Without a store nothing is moved. While the store is away the job waits: StoreAway passes through to the verdict.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

from app.contracts.checkpoints import NAME
from app.contracts.events import Blame, Failed
from app.contracts.plan import JobPlan
from app.contracts.rows import TOKENIZER
from app.contracts.spec import FileSource
from app.jobs import lineage as adapters
from app.jobs import repository
from app.jobs.queue.claims import Claim
from app.scope import EVERY_PROJECT
from app.store.faults import STORE_AWAY, Beat
from worker.supervising.attempt import Report, StopReason
from worker.supervising.context import WorkerContext
from worker.supervising.publishing import place_results
from worker.supervising.runners import StageRunner, heartbeat, is_done

# A job whose work is done does not pause while its results are stored.
RESULTS_ARE_STORED_ANYWAY = frozenset({StopReason.PAUSED})


class TransferEnded(Exception):
    """The attempt is to stop, so the transfer was ended."""


def beside_heartbeats(
    context: WorkerContext,
    held: Claim,
    work: Callable[[Beat], object],
    unheeded: frozenset[StopReason] = frozenset(),
) -> StopReason | None:
    """Do the work in a thread. Returns None when it is done, or why the attempt is to stop before that.

    Raises Fenced, and what the work raises. `unheeded` are reasons for which it is not ended.
    """
    over, done = threading.Event(), Future[None]()

    def beat() -> None:
        if over.is_set():
            raise TransferEnded

    def run() -> None:
        try:
            work(beat)
        except BaseException as error:  # noqa: BLE001  it is raised again in the thread that waits
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name=f"transfer-{held.job_id}", daemon=True).start()
    try:
        while not wait([done], timeout=context.settings.heartbeat_seconds).done:
            reason = heartbeat(context, held)
            if reason is not None and reason not in unheeded:
                return reason
        done.result()
        return None
    finally:
        over.set()


def bring_sources(context: WorkerContext, held: Claim, plan: JobPlan) -> StopReason | None:
    """Have the uploads that a check reads on this host. Returns why the attempt is to stop meanwhile."""
    settings = context.settings
    if settings.store is None:
        return None
    sources = (plan.dataset.source, plan.dataset.eval_source)
    paths = [settings.file_path(source.file) for source in sources if isinstance(source, FileSource)]
    return beside_heartbeats(context, held, lambda beat: [settings.files.bring(path, beat=beat) for path in paths])


def bring_for_training(context: WorkerContext, held: Claim, plan: JobPlan) -> StopReason | None:
    """Have all that a training reads on this host. Returns why the attempt is to stop meanwhile.

    All kept checkpoints come, because the trainer removes old ones and may end with the best. Raises NotFound if the
    adapter to continue from was deleted.
    """
    settings = context.settings
    if settings.store is None:
        return None
    origin = _origin(context, plan)

    def bring(beat: Beat) -> None:
        files, folder = settings.files, settings.checkpoints_dir(held.job_id)
        files.bring(settings.data_dir(held.job_id), is_replaced=True, beat=beat)
        kept = [folder / name for name in files.names(folder) if NAME.fullmatch(name)]
        for path in (*kept, *origin):
            files.bring(path, beat=beat)

    return beside_heartbeats(context, held, bring)


def _origin(context: WorkerContext, plan: JobPlan) -> list[Path]:
    """Return the folder of the adapter or checkpoint from which a job continues, if it names one."""
    origin = plan.continue_from
    if origin is None:
        return []
    with context.database.reader() as session:
        if origin.adapter is not None:
            path = adapters.find(session, EVERY_PROJECT, origin.adapter, "continue_from.adapter").path
            return [context.settings.locate(path)]
        found = repository.checkpoint(session, EVERY_PROJECT, origin.job or "", origin.step)
    return [] if found is None else [context.settings.locate(found.path)]


def keep_rows(context: WorkerContext, held: Claim, report: Report) -> Report:
    """Store the rows and the tokenizer that a check has made, in place of those of an earlier attempt."""
    settings = context.settings
    data = settings.data_dir(held.job_id)

    def keep(beat: Beat) -> None:
        settings.files.keep(settings.tokenizer_dir(held.job_id), source=data / TOKENIZER, beat=beat)
        settings.files.keep(data, source=data, beat=beat)

    return _kept(context, held, report, keep)


def keep_results(context: WorkerContext, held: Claim, report: Report) -> Report:
    """Store the adapter and the other artifacts of an attempt that is done, before the commit that publishes them."""
    return _kept(context, held, report, lambda beat: place_results(context.settings, held.job_id, report, beat))


def keep_artifacts(context: WorkerContext, held: Claim, runner: StageRunner, report: Report) -> Report:
    """Store the artifacts of an attempt of any kind, so that none has to be stored while its end is committed."""
    is_over = report.stopped in (StopReason.FENCED, StopReason.CANCELLED) or not is_done(runner, report)
    return report if is_over or not report.artifacts else keep_results(context, held, report)


def _kept(context: WorkerContext, held: Claim, report: Report, keep: Callable[[Beat], None]) -> Report:
    """Store what an attempt leaves. Returns its report, which says so if the worker is to stop before that is done."""
    if context.settings.store is None:
        return report
    reason = beside_heartbeats(context, held, keep, RESULTS_ARE_STORED_ANYWAY)
    if reason is StopReason.CANCELLED:
        report.stopped = reason
    elif reason is not None:
        report.failed = store_is_away("the worker was stopped while it stored the results")
    return report


def store_is_away(message: str) -> Failed:
    """Return the failure for which a job waits until the store can be used."""
    hint = "GET /readyz says whether the store of files can be used; the job goes on by itself"
    return Failed(blame=Blame.SYSTEM, code=STORE_AWAY, message=message[:1000], hint=hint)
