"""The HTTP routes of the service itself: health, readiness, local models and workers."""

from typing import Annotated, Literal, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from app.jobs import repository
from app.sources import local_models
from app.system.readiness import Readiness
from app.system.schemas import ModelList, ModelView, WorkerList, WorkerView
from app.web.dependencies import DatabaseDep, ReadCaller, SettingsDep

router = APIRouter(tags=["service"])


async def get_readiness(request: Request) -> Readiness:
    return cast(Readiness, request.app.state.readiness)


ReadinessDep = Annotated[Readiness, Depends(get_readiness)]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class EngineView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    is_up: bool = Field(description="its process is up")
    reason: str | None = Field(description="why it answers no requests at present")


class ReadinessView(BaseModel):
    model_config = ConfigDict(title="Readiness")

    status: Literal["ready", "degraded", "unready"] = Field(
        description="unready (503): it accepts no jobs; degraded: it accepts them, and `problems` says what has to wait"
    )
    database: bool = Field(description="it answers and can be written to")
    broker: bool
    engine: bool = Field(description="the process of at least one engine is up")
    engine_reason: str | None = Field(None, description="why no engine answers requests at present")
    engines: dict[str, EngineView] = Field(description="each engine by its name, that is, its host and port")
    disk_free_bytes: int | None = Field(description="of the disk under TUNESMITH_HOME")
    checkers: int = Field(description="workers that check jobs, alive and without a problem")
    trainers: int
    problems: dict[str, str] = Field(description="what is wrong, by part; empty if all parts work")


@router.get("/", include_in_schema=False)
def root() -> RedirectResponse:
    """Redirect browsers to the pages."""
    return RedirectResponse("/ui")


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers. Nothing else is checked."""
    return Health()


@router.get("/readyz", responses={503: {"model": ReadinessView}})
async def readyz(readiness: ReadinessDep, response: Response) -> ReadinessView:
    """Whether jobs are accepted and can run. The response comes within two seconds and may be a second old."""
    found = await readiness.found()
    if not found.takes_jobs:
        response.status_code = 503
    status: Literal["degraded", "unready"] = "degraded" if found.takes_jobs else "unready"
    return ReadinessView(
        status=status if found.problems else "ready",
        database=found.has_database,
        broker=found.has_broker,
        engine=found.has_engine,
        engine_reason=found.engine_reason,
        engines={name: EngineView.model_validate(engine) for name, engine in found.engines.items()},
        disk_free_bytes=found.disk_free_bytes,
        checkers=found.checkers,
        trainers=found.trainers,
        problems=found.problems,
    )


@router.get("/workers")
def workers(caller: ReadCaller, database: DatabaseDep) -> WorkerList:
    """All known workers. The job of another project is not shown, and neither is a temporary job, which only its own
    request may see."""
    with database.reader() as session:
        seen = [WorkerView.model_validate(worker) for worker in repository.workers(session)]
        shown = repository.shown_among(session, caller.scope, [worker.job_id for worker in seen if worker.job_id])
    return WorkerList(
        data=[worker if worker.job_id in shown else worker.model_copy(update={"job_id": None}) for worker in seen]
    )


@router.get("/models")
def models(_caller: ReadCaller, settings: SettingsDep) -> ModelList:
    """The base models in the server's models folder. Any hub id can be used as well."""
    return ModelList(data=[ModelView(id=name) for name in local_models(settings.models)])
