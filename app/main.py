"""The API: `create_app` puts the parts together. It never imports torch."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pkgutil import resolve_name
from typing import Any

from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.access.authenticating import Keys
from app.access.proxies import TrustedProxies
from app.accounts.routes import router as accounts
from app.artifacts.routes import router as artifacts
from app.config import Settings
from app.database.connection import Database
from app.errors import ErrorForm
from app.feedback.routes import router as feedback
from app.files.routes import router as files
from app.generate.metering import Meter
from app.generate.routes import router as generate
from app.generate.routing import connect
from app.jobs.adapter_routes import router as adapters
from app.jobs.kinds import KINDS
from app.jobs.queue.notifier import CeleryNotifier, make_celery
from app.jobs.queue.sweeps import sweep_regularly
from app.jobs.repository import uses_file
from app.jobs.routes import router as jobs
from app.jobs.views.polls import Polls
from app.jobs.views.stream import Streams
from app.known_hosts import TRUST_VARIABLE, KnownHosts, split_list
from app.metrics.counts import Counts
from app.metrics.generations import CountedEngine
from app.metrics.requests import CountedRequests
from app.metrics.routes import Scraped
from app.metrics.routes import router as metrics
from app.openai.routes import router as openai
from app.pages.routes import add_pages
from app.processes.environments import own_secrets
from app.processes.logs import set_up
from app.processes.private_files import keep_private
from app.processes.traces import TracedRequests, start_tracing
from app.redaction import redact_logs
from app.secrets.routes import router as secrets
from app.system import routes
from app.system.readiness import Readiness
from app.web.authentication import Authentication
from app.web.conditional_get import ConditionalGets
from app.web.docs_page import add_docs_page
from app.web.error_responses import BrowserHeaders, HeadRequests, RequestLimits, install_error_handlers, refuse
from app.web.parameters import refuse_unknown_parameters
from app.webhooks.routes import router as webhooks

Responses = dict[int | str, dict[str, Any]]
# "4XX" stands for all client errors. For a wrong field the paths of OpenAI's API use OpenAI's status, 400.
ERRORS: Responses = {code: {"model": ErrorForm} for code in ("4XX", 503, 507)}
WRONG_FIELD: Responses = {422: {"model": ErrorForm}}
OPENAI_WRONG_FIELD: Responses = {400: {"model": ErrorForm}}
log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application for these settings, or for those of the environment."""
    settings = settings or Settings()
    _start_logs(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stopping = threading.Event()
        sweeps = threading.Thread(target=sweep_regularly, args=(settings, stopping), name="orphans", daemon=True)
        sweeps.start()  # in a thread, because removing what a crash left may take minutes
        yield
        stopping.set()
        await app.state.engine.close()
        await app.state.keys.close()
        await run_in_threadpool(_close, app)

    app = FastAPI(
        title="Tunesmith",
        version=__version__,
        lifespan=lifespan,
        responses=ERRORS,
        dependencies=[Depends(refuse_unknown_parameters)],
        docs_url=None,
        redoc_url=None,
    )
    add_docs_page(app)
    _provide(app, settings)
    _add_routes(app)
    add_pages(app)
    install_error_handlers(app)
    _add_middlewares(app, settings)
    return app


def _start_logs(settings: Settings) -> None:
    open_home = keep_private(settings.root, settings.database)
    set_up(settings.log_level, settings.log_format)
    redact_logs([*settings.secret_values, *own_secrets()])
    if open_home is not None:
        log.warning(open_home)


def _close(app: FastAPI) -> None:
    """Store and send what is left, which may wait for the database and for a receiver of traces."""
    app.state.meter.close()
    if app.state.tracing is not None:
        app.state.tracing.close()
    app.state.database.close()


def _add_routes(app: FastAPI) -> None:
    of_work = (jobs, files, feedback, adapters, artifacts, generate)
    for router in (routes.router, metrics, *of_work, accounts, webhooks, secrets):
        app.include_router(router, responses=WRONG_FIELD)
    for kind in KINDS.values():
        if kind.router is not None:
            app.include_router(resolve_name(kind.router)(), responses=WRONG_FIELD)
    app.include_router(openai, responses=OPENAI_WRONG_FIELD)


def _add_middlewares(app: FastAPI, settings: Settings) -> None:
    """Add all middlewares, the innermost first."""
    proxies = TrustedProxies.of(settings)
    app.state.keys = keys = Keys(app.state.database, settings)
    app.add_middleware(Authentication, keys=keys, proxies=proxies, needs_key=settings.needs_key)
    app.add_middleware(ConditionalGets)
    app.add_middleware(HeadRequests)
    app.add_middleware(
        RequestLimits, max_body_bytes=settings.max_body_bytes, max_upload_bytes=settings.max_upload_bytes
    )
    _guard(app, settings)


def _provide(app: FastAPI, settings: Settings) -> None:
    """Make the objects that the routes' dependencies return."""
    app.state.settings = settings
    app.state.database = Database.open(settings.database, settings.api_processes)
    app.state.polls = Polls(app.state.database)
    app.state.streams = Streams(app.state.database, settings.max_streams)
    app.state.notifier = notifier = CeleryNotifier(make_celery(settings.broker, settings.broker_prefix))
    app.state.uses_file = uses_file  # app.files must not import app.jobs
    app.state.tracing = start_tracing("tunesmith-api")
    app.state.counts = counts = Counts()
    app.state.scraped = Scraped(app.state.database)
    router = connect(settings.engines)
    app.state.engines, app.state.engine = router.engines, CountedEngine(router, counts)
    app.state.meter = Meter(app.state.database)
    app.state.readiness = Readiness(
        app.state.database, settings.root, notifier.problem, router.engines, lambda: settings.files
    )


def _guard(app: FastAPI, settings: Settings) -> None:
    """Add the outermost middlewares. They decide which requests are accepted, and which origins may read responses."""
    if origins := split_list(settings.allowed_origins):
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "etag"],
        )
    app.add_middleware(KnownHosts, rules=settings.host_rules, respond=refuse)
    app.add_middleware(BrowserHeaders)
    if app.state.tracing is not None:
        app.add_middleware(TracedRequests, tracing=app.state.tracing)
    app.add_middleware(CountedRequests, counts=app.state.counts)
    if settings.trust_network:
        log.warning("%s is set: everybody who reaches this address may use the service", TRUST_VARIABLE)
