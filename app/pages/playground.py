"""The playground: the same question to several models at once, side by side."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from app.access.caller import Caller
from app.contracts.generation import Sampling
from app.database.connection import Database
from app.feedback.routes import list_datasets
from app.feedback.schemas import USUAL_DATASET
from app.jobs.adapter_routes import list_adapters
from app.jobs.repository import among
from app.jobs.routes import list_jobs
from app.jobs.states import JobStatus
from app.jobs.views.checkpoints import list_checkpoints
from app.pages.rendering import page
from app.pages.routing import pages
from app.system.routes import models
from app.web.browser_sessions import PAGES
from app.web.dependencies import DatabaseDep, ReadCaller, SettingsDep

MOST_COLUMNS = 4
MOST_ADAPTERS = 100
SETTINGS = {"temperature": "Temperature", "top_p": "Top p", "min_p": "Min p", "max_new_tokens": "Most tokens"}
# A name to ask for, and the words that a choice has for it.
Choices = list[tuple[str, str]]
router = pages()


@router.get(f"{PAGES}/playground")
def show_playground(
    request: Request,
    caller: ReadCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    model: Annotated[list[Annotated[str, Query(max_length=200)]] | None, Query(max_length=MOST_COLUMNS)] = None,
) -> Response:
    """Show what can be asked. Without `model` the newest adapter stands beside its base."""
    adapters, bases = _adapters(caller, database)
    local = [one.id for one in models(caller, settings).data]
    groups = {
        "Base models": [(name, name) for name in dict.fromkeys([*local, *bases])],
        "Adapters": adapters,
        "Running jobs": _checkpoints(caller, database),
    }
    known = {name for choices in groups.values() for name, _ in choices}
    chosen = model or [*local[:1], *bases][-1:] + [name for name, _ in adapters[:1]]
    groups["From the address"] = [(name, name) for name in chosen if name not in known]
    return page(
        request,
        "playground.html",
        groups=groups,
        chosen=chosen,
        most_columns=MOST_COLUMNS,
        settings=SETTINGS,
        fields=Sampling.model_json_schema()["properties"],
        usual_dataset=USUAL_DATASET,
        feedback=list_datasets(caller, database).data,
    )


def _adapters(caller: Caller, database: Database) -> tuple[Choices, list[str]]:
    """Return the newest adapters, by the names of their jobs, and their bases, that of the newest adapter last."""
    found = list_adapters(caller, database, None, MOST_ADAPTERS).data
    with database.reader() as session:
        named = {job.id: job.name for job in among(session, caller.scope, [adapter.job_id for adapter in found])}
    choices = [(one.id, f"{named.get(one.job_id) or 'adapter'}: {one.id}") for one in found]
    return choices, list(dict.fromkeys(one.base_model for one in reversed(found)))


def _checkpoints(caller: Caller, database: Database) -> Choices:
    """Return the running jobs, each with its newest checkpoint first and then with those that are kept."""
    choices: Choices = []
    running = list_jobs(caller, database, JobStatus.RUNNING).data
    with database.reader() as session:
        for job in running:
            called = job.name or job.id
            choices.append((job.id, f"{called}: newest checkpoint"))
            steps = dict.fromkeys(one.step for one in list_checkpoints(session, caller.scope, job.id).data)
            choices += [(f"{job.id}@step-{step}", f"{called}: step {step}") for step in steps]
    return choices
