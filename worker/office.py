"""What a worker process knows of itself: made once at its start and passed down."""

import threading
from dataclasses import dataclass, field

from app.config import Settings
from app.db import Database
from app.jobs.queue import Doorbell
from app.jobs.states import Stage
from worker.slots import Slot


@dataclass(frozen=True)
class Office:
    """One stage served by one process. `stopping` is set when the process is to end.

    `seated` is set once the process holds its slot and has handed back what an earlier holder of it left: before that
    it claims nothing.
    """

    settings: Settings
    database: Database
    bell: Doorbell
    stage: Stage
    name: str
    device: str
    slot: Slot
    jobs_at_once: int = 1
    stopping: threading.Event = field(default_factory=threading.Event)
    seated: threading.Event = field(default_factory=threading.Event)
