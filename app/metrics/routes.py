"""`GET /metrics`: all metrics in the formats that Prometheus reads."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Header, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool

from app.contracts.generation import EngineHealth
from app.database.connection import Database
from app.generate.client import SingleEngine
from app.metrics.counts import Counts
from app.metrics.processes import forget_dead, shared_folder
from app.metrics.state import (
    StoredState,
    families_of_engines,
    families_of_jobs,
    families_of_service,
    families_of_workers,
    look_at_state,
)
from app.system.readiness import ServiceState, in_a_thread
from app.system.routes import ReadinessDep
from app.web.dependencies import ReadCaller, SettingsDep

router = APIRouter(tags=["service"])
TEXT = "text/plain"


class Scraped:
    """Reads the stored state for scrapes: at most once a second, and within two seconds."""

    def __init__(self, database: Database) -> None:
        self._look = in_a_thread(lambda: (look_at_state(database),))

    async def state(self) -> StoredState | None:
        (found,) = await self._look.found() or (None,)
        return found


async def get_scraped(request: Request) -> Scraped:
    return cast(Scraped, request.app.state.scraped)


async def get_counts(request: Request) -> Counts:
    return cast(Counts, request.app.state.counts)


async def get_engines(request: Request) -> Mapping[str, SingleEngine]:
    return cast(Mapping[str, SingleEngine], request.app.state.engines)


class AllMetrics(Collector):
    """What this process, or all together, have counted, and the state of everything else."""

    def __init__(
        self,
        counts: Counts,
        home: Path,
        service: ServiceState,
        engines: Mapping[str, EngineHealth],
        state: StoredState | None,
    ) -> None:
        self._counts, self._home = counts, home
        self._service, self._engines, self._state = service, engines, state

    def collect(self) -> Iterator[Metric]:
        yield from self._counted()
        yield from families_of_service(self._service, self._home)
        yield from families_of_engines(self._engines)
        if self._state is not None:
            yield from families_of_jobs(self._state.queue, self._state.totals)
            yield from families_of_workers(self._state.workers)

    def _counted(self) -> Iterator[Metric]:
        folder = shared_folder()
        if folder is None:
            yield from self._counts.registry.collect()
            return
        forget_dead(folder)
        yield from MultiProcessCollector(None, str(folder)).collect()  # type: ignore[no-untyped-call]


@router.get("/metrics", response_class=Response)
async def metrics(
    caller: ReadCaller,
    readiness: ReadinessDep,
    engines: Annotated[Mapping[str, SingleEngine], Depends(get_engines)],
    scraped: Annotated[Scraped, Depends(get_scraped)],
    counts: Annotated[Counts, Depends(get_counts)],
    settings: SettingsDep,
    accept: Annotated[str, Header()] = TEXT,
) -> Response:
    """The metrics of the whole service for Prometheus, within about two seconds. They name no job and no project."""
    caller.check_every_project("metrics")
    service, state = await readiness.found(), await scraped.state()
    healths = await _healths(engines) if service.has_engine else {}
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(AllMetrics(counts, settings.root, service, healths, state))
    return Response(await run_in_threadpool(encode, registry), media_type=content_type)


async def _healths(engines: Mapping[str, SingleEngine]) -> dict[str, EngineHealth]:
    """Return the state of each engine that answers."""
    found = await asyncio.gather(*(engine.health() for engine in engines.values()), return_exceptions=True)
    return {name: health for name, health in zip(engines, found, strict=True) if isinstance(health, EngineHealth)}
