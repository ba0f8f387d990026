"""What a worker process knows of itself: made once at its start and passed down."""

import threading
from dataclasses import dataclass

from app.config import Settings
from app.db import Database
from app.jobs.queue import Doorbell
from app.jobs.states import Stage


@dataclass(frozen=True)
class Office:
    """One stage served by one process. `stopping` is set when the process is to end."""

    settings: Settings
    database: Database
    bell: Doorbell
    stage: Stage
    name: str
    device: str
    stopping: threading.Event
