"""`python -m app.serve`: the API's processes, all of them on one listening socket.

One process answers in itself. Of several, this one starts them, and starts again those that end; they end with it.
"""

import gc
import multiprocessing
import os
import resource
import signal
import threading

import uvicorn
from fastapi import FastAPI

from app.config import Settings
from app.web.connection_limit import LimitedProtocol

# What a process needs beside its connections: database, files, logs.
DESCRIPTORS_BESIDE_CONNECTIONS = 256
MOST_CONNECTIONS = 10_000
GRACEFUL_SECONDS = 1
# One of several processes that does not even say that it lives is killed, and another one started.
HUNG_SECONDS = 30
# New objects until the young ones are looked at, and of those looks until older ones are (`gc.set_threshold`).
GARBAGE_THRESHOLDS = (50_000, 20, 100)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings()
    uvicorn.run(
        "app.serve:create_process",
        factory=True,
        host=settings.host,
        port=settings.port,
        http=LimitedProtocol,
        workers=settings.api_processes,
        limit_concurrency=most_connections(raise_descriptor_limit()),
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        timeout_worker_healthcheck=HUNG_SECONDS,
    )


def create_process() -> FastAPI:
    """The application of one process, which does not outlive the one that started it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    from app.main import create_app  # takes seconds, in which the process already says that it lives

    app = create_app()
    _collect_less_garbage()
    return app


def _collect_less_garbage() -> None:
    """A collection stops all answers, a full one of all that is loaded for a tenth of a second."""
    gc.collect()
    gc.freeze()  # modules and routes stay for good
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def raise_descriptor_limit() -> int:
    """As many open files as this user may have: many shells allow 1,024, and each connection is one. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def most_connections(descriptors: int) -> int:
    """Of one process at once; a further one is answered 503. So that a flood leaves descriptors for the database."""
    return min(MOST_CONNECTIONS, max(descriptors - DESCRIPTORS_BESIDE_CONNECTIONS, descriptors // 2))


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
