"""`python -m app.serve`: runs the API's processes on one listening socket.

A single process serves by itself. Several are started, and restarted, by this one, and they end with it.
"""

import gc
import multiprocessing
import os
import resource
import signal
import threading

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from app.config import Settings
from app.metrics.processes import counting_together, remove_shared_folder
from app.processes.garbage import exclude_from_collections
from app.processes.logs import set_up
from app.web.connection_limit import LimitedProtocol

# Descriptors that a process needs besides its connections: for the database, files and logs.
DESCRIPTORS_BESIDE_CONNECTIONS = 256
MOST_CONNECTIONS = 10_000
GRACEFUL_SECONDS = 1
# A process that does not answer uvicorn's health check for this time is killed and replaced.
HUNG_SECONDS = 30
# The arguments of `gc.set_threshold`: how many new objects, and younger collections, cause the next collection.
GARBAGE_THRESHOLDS = (50_000, 20, 100)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings()
    set_up(settings.log_level, settings.log_format)
    with counting_together(settings.api_processes):
        uvicorn.run(
            "app.serve:create_process",
            factory=True,
            host=settings.host,
            port=settings.port,
            loop="asyncio",  # the same whether or not a development package has brought uvloop
            http=LimitedProtocol,
            log_config=None if settings.log_format == "json" else LOGGING_CONFIG,
            workers=settings.api_processes,
            proxy_headers=False,  # app.access.proxies decides which ones count
            limit_concurrency=most_connections(raise_descriptor_limit()),
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
            timeout_worker_healthcheck=HUNG_SECONDS,
        )


def create_process() -> FastAPI:
    """Return the application of one process. The process ends when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    from app.main import create_app  # takes seconds, in which the process already answers health checks

    app = create_app()
    _collect_less_garbage()
    return app


def _collect_less_garbage() -> None:
    """A collection stops all requests. A full one of all loaded modules takes a tenth of a second."""
    exclude_from_collections()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def raise_descriptor_limit() -> int:
    """Raise the limit of open files to the most that this user may have, and return it.

    Many shells allow 1,024, and each connection is one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def most_connections(descriptors: int) -> int:
    """Return how many connections a process accepts at once; a further one is answered with 503.

    The limit leaves descriptors for the database.
    """
    return min(MOST_CONNECTIONS, max(descriptors - DESCRIPTORS_BESIDE_CONNECTIONS, descriptors // 2))


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    remove_shared_folder()  # a parent that was killed has left it
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
