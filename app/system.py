"""HTTP for the service itself: is it alive, is it ready, what models and workers are there."""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text

from app.dependencies import DatabaseDep, EngineDep, SettingsDep
from app.errors import EngineUnavailable
from app.generate.client import EngineClient
from app.jobs import repository
from app.sources import local_models

router = APIRouter(tags=["service"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready", "degraded"]
    database: bool
    engine: bool = Field(description="its process is up")
    engine_reason: str | None = Field(None, description="why the engine answers nobody at present")


class WorkerView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str
    stage: str
    host: str
    device: str
    version: str | None = Field(description="of the service that it is part of: they differ while it is upgraded")
    problem: str | None
    job_id: str | None
    started_at: datetime
    last_seen: datetime


class WorkerList(BaseModel):
    object: Literal["list"] = "list"
    data: list[WorkerView]


class ModelView(BaseModel):
    id: str
    object: Literal["model"] = "model"
    source: Literal["local"] = "local"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelView]


@router.get("/", include_in_schema=False)
def root() -> RedirectResponse:
    """A browser is shown what the API can do."""
    return RedirectResponse("/docs")


@router.get("/healthz")
def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(database: DatabaseDep, engine: EngineDep, response: Response) -> Readiness:
    """Jobs can be taken. An engine that is away, or makes room for a training, leaves it degraded, not unready."""
    has_database = _answers(database)
    if not has_database:
        response.status_code = 503
    is_up, reason = await _look_at(engine)
    is_ready = has_database and reason is None
    status: Literal["ready", "degraded"] = "ready" if is_ready else "degraded"
    return Readiness(status=status, database=has_database, engine=is_up, engine_reason=reason)


def _answers(database: Any) -> bool:
    with database.reader() as session:
        return bool(session.scalar(text("SELECT 1")) == 1)


async def _look_at(engine: EngineClient) -> tuple[bool, str | None]:
    """Whether it is up, and why it answers nobody all the same."""
    try:
        return True, (await engine.health()).stepped_aside
    except EngineUnavailable as error:
        return False, error.message


@router.get("/workers")
def workers(database: DatabaseDep) -> WorkerList:
    """Every worker that was seen. A dry run that one holds is not named: nobody but its own request knows it."""
    with database.reader() as session:
        seen = [WorkerView.model_validate(worker) for worker in repository.workers(session)]
        hidden = repository.dry_runs_among(session, [worker.job_id for worker in seen if worker.job_id])
    return WorkerList(
        data=[worker.model_copy(update={"job_id": None}) if worker.job_id in hidden else worker for worker in seen]
    )


@router.get("/models")
def models(settings: SettingsDep) -> ModelList:
    """The base models in the server's models folder. Any hub id works beside them."""
    return ModelList(data=[ModelView(id=name) for name in local_models(settings.models)])
