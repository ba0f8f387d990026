"""`python -m worker.supervising.alive trainer0`: the health check of a worker's container.

It exits with 0 if the worker of that name on this host has updated its row in the database within the last minute.
Celery's own `inspect ping` cannot be used: it needs Celery's remote control, which is switched off.
"""

import socket
import sys
from datetime import timedelta

from app.config import Settings
from app.database.connection import Database
from app.jobs import repository

# A worker updates its row every TUNESMITH_RECONCILE_SECONDS.
SILENCE = timedelta(seconds=60)


def is_alive(database: Database, name: str) -> bool:
    """Whether the worker has updated its row within the last minute, by the database's clock."""
    with database.reader() as session:
        silent = repository.silent_workers(session, SILENCE)
        return name not in silent and any(worker.name == name for worker in repository.workers(session))


def main(node: str) -> None:
    name = f"{node}@{socket.gethostname()}"
    if not is_alive(Database.open(Settings().database), name):
        sys.exit(f"{name} has not been seen for {SILENCE.seconds} seconds")


if __name__ == "__main__":
    main(sys.argv[1])
