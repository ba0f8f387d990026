"""The context of a worker process, made once when it starts and passed down."""

import threading
from dataclasses import dataclass, field

from app.config import Settings
from app.database.connection import Database
from app.jobs.queue.notifier import JobNotifier
from app.jobs.states import Stage
from app.processes.traces import Tracing
from worker.supervising.further_gpus import FurtherGpus
from worker.supervising.gpu_readings import GpuReadings
from worker.supervising.slots import Slot
from worker.supervising.spare import WarmSpare


@dataclass(frozen=True)
class WorkerContext:
    """The context in which one process serves one stage. `stopping` is set when the process is to end.

    `slot_acquired` is set once the process holds its slot and has taken back the jobs of the slot's earlier holder.
    Before that it claims no job. `further_gpus`: for trainings on several GPUs. `spare`: None for a worker that keeps
    none. `tracing`: None if it is off.
    """

    settings: Settings
    database: Database
    notifier: JobNotifier
    stage: Stage
    name: str
    device: str
    slot: Slot
    concurrency: int = 1
    spare: WarmSpare | None = None
    further_gpus: FurtherGpus = field(default_factory=FurtherGpus)
    gpu_readings: GpuReadings = field(default_factory=GpuReadings)
    tracing: Tracing | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    slot_acquired: threading.Event = field(default_factory=threading.Event)
