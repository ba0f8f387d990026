"""A service in which everything that is measured has happened once."""

import httpx
import pytest

from app.config import Settings
from app.contracts.generation import EngineError, EngineHealth, Finish, TextDelta, Usage
from app.contracts.gpu_readings import GpuReading
from app.database.connection import Database
from app.jobs.queue.claims import finish, record
from app.jobs.states import JobStatus
from app.metrics.generations import CountedEngine
from tests.support.api_engines import let_answer
from tests.support.events import a_step
from tests.support.jobs import NOW, add_job, add_worker, taken
from tests.support.jobs_api import an_app
from tests.support.scraping import Samples, scrape
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import serving

USAGE = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
REFUSED = EngineError(status=429, code="engine_busy", message="full")


class EngineOnGpu(ScriptedEngine):
    async def health(self) -> EngineHealth:
        return (await super().health()).model_copy(update={"memory_bytes": 1, "cache_bytes": 1})


@pytest.fixture
def everything(settings: Settings, database: Database, database_url: str) -> Samples:
    """A scrape of it."""
    settings.root.mkdir()
    app = an_app(settings, database_url)
    let_a_job_fail(database)
    let_a_job_run(database)
    job_id = add_job(database)
    with serving(app) as url, httpx.Client(base_url=url, verify=False) as api:
        for events in ((TextDelta(text="a"), Finish(reason="stop", usage=USAGE)), (REFUSED,)):
            engine = EngineOnGpu(events)
            let_answer(app, engine, CountedEngine(engine, app.state.counts))
            api.post("/generate", json={"model": "org/model", "prompt": "p"})
        with api.stream("GET", f"/jobs/{job_id}/stream"):
            return scrape(api)


def let_a_job_fail(database: Database) -> None:
    add_job(database)
    with database.writer() as session:
        finish(session, taken(database), JobStatus.FAILED, NOW, outcome="user_error", reason=None)
        session.commit()


def let_a_job_run(database: Database) -> None:
    job_id = add_job(database)
    with database.writer() as session:
        record(session, taken(database, "w1"), [a_step(1)], 10)
        session.commit()
    numbers = {field: 1 for field in GpuReading.model_fields if field not in ("gpu", "name")}
    add_worker(database, name="w1", job_id=job_id, gpu_readings=[{"gpu": "GPU-1", "name": "H200", **numbers}])
