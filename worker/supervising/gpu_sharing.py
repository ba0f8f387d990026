"""Shares one GPU between the engine and a training: both use it if both fit, otherwise the engine frees its memory.

check (is it the same memory? do both fit?) ──> they fit, or share nothing ─────────────────────────> trainer
                                          └──> hold, renewed by a thread ──> engine has yielded ──> trainer ──> release

The hold is a lease on the engine's own clock, so it ends by itself if this process is killed. An engine that restarts
meanwhile gets the request again.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Literal, Self

import httpx
from pydantic import ValidationError

from app.contracts.events import Blame, Failed
from app.contracts.generation import EngineHealth
from app.contracts.layout_choice import CONTEXT_BYTES, MARGIN
from app.contracts.memory_lease import ENGINE_SHARE, LONGEST_HOLD_SECONDS, ResumeOrder, YieldOrder, YieldState, this_cpu
from app.contracts.model_shape import shape_of
from app.contracts.plan import JobPlan
from app.jobs.models import Job
from app.jobs.queue import attempts
from app.jobs.states import Stage
from app.processes.engine_address import SAYS_WRONG_KEY, EngineAddress
from worker.hardware import Gpu, measure_gpu
from worker.supervising.attempt import Report, StopReason
from worker.supervising.context import WorkerContext
from worker.supervising.predicting import base_card, predicted_bytes, row_report
from worker.supervising.verdict import NO_ROOM_BESIDE

Policy = Literal["auto", "always", "never"]
OUT_OF_MEMORY = "out_of_gpu_memory"
ANSWER_SECONDS = 3.0
RENEW_SECONDS = 2.0
# An engine cannot yield while it is loading a model, which may take long.
PATIENCE_SECONDS = 180.0
log = logging.getLogger(__name__)


def room_beside(*, free_bytes: int, engine_bytes: int, base_bytes: int) -> int:
    """The bytes for a training beside an engine that reloads the same base and takes ENGINE_SHARE of the rest.

    `free_bytes` is measured while the engine holds `engine_bytes`.
    """
    return min(free_bytes, int((free_bytes + engine_bytes - base_bytes) * (1 - ENGINE_SHARE)))


@dataclass(frozen=True)
class Training:
    """A training that is about to begin. An unknown size (None) never fits beside the engine.

    `holder`: the key of its slot's lock file. It cannot be guessed, and the next attempt in this slot reads the same
    key, so it takes over a hold that a dead worker left.
    """

    job_id: str
    holder: str
    training_bytes: int | None
    base_bytes: int | None
    gpus: tuple[str, ...] = ()

    def room(self, engine: EngineHealth, gpu: Gpu) -> int | None:
        """The bytes that this training may take beside the engine. None: the size of its base is not known."""
        if self.base_bytes is None:
            return None
        return room_beside(free_bytes=gpu.free_bytes, engine_bytes=engine.memory_bytes or 0, base_bytes=self.base_bytes)

    def fits_beside(self, engine: EngineHealth, gpu: Gpu | None) -> bool:
        """Whether both fit. On a CPU the answer is always yes: the host's memory is not managed here."""
        if gpu is None:
            return True
        room = self.room(engine, gpu)
        return self.training_bytes is not None and room is not None and room >= self.training_bytes


def training_of(context: WorkerContext, job: Job, plan: JobPlan) -> Training:
    """What is known of a job's memory: measured in an earlier attempt, otherwise predicted."""
    folder = context.settings.data_dir(job.id)
    card = base_card(folder)
    shape = shape_of(card) if card is not None else None
    peak = (job.progress or {}).get("gpu_memory_bytes")
    needed = measured_bytes(peak) if isinstance(peak, int) and peak > 0 else None
    if needed is None and shape is not None:
        needed = predicted_bytes(plan, shape, row_report(folder))
    with context.database.reader() as session:
        ended = {attempt.outcome for attempt in attempts.of_stage(session, job.id, Stage.TRAIN)}
    return Training(
        job_id=job.id,
        holder=context.slot.key,
        training_bytes=needed if NO_ROOM_BESIDE not in ended else None,
        base_bytes=shape.weight_bytes if shape is not None else None,
        gpus=context.further_gpus.devices,
    )


def measured_bytes(peak: int) -> int:
    """The upper bound for a training that reserved `peak` bytes in an earlier attempt."""
    return int(peak * MARGIN) + CONTEXT_BYTES


class GpuLease:
    """Keeps the engine from using memory that the training needs, for the length of its `with` block."""

    def __init__(self, engine: EngineAddress, policy: Policy, training: Training, lease_seconds: float) -> None:
        """`lease_seconds`: how long the engine stays away after this process has stopped renewing the hold."""
        self._http = engine.client(ANSWER_SECONDS)
        self._policy, self._training, self._lease_seconds = policy, training, lease_seconds
        self._hold_seconds = min(lease_seconds, LONGEST_HOLD_SECONDS)
        self._is_sharing: bool | None = None
        self._room_bytes: int | None = None
        self._has_held = self._fits = False
        self._settled = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_closed, name="gpu-lease", daemon=True)

    @property
    def is_settled(self) -> bool:
        """Whether the training may begin: the engine has yielded or does not have to."""
        return self._settled.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until `is_settled`, at most so many seconds. Returns `is_settled`."""
        return self._settled.wait(seconds)

    @property
    def room_bytes(self) -> int | None:
        """What the training may take of a GPU that the engine uses too. None: all that it finds free."""
        return self._room_bytes

    @property
    def is_beside_engine(self) -> bool:
        """Whether engine and training use the same GPU because both were found to fit."""
        return self._fits

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        with closing(self._http):
            if self._has_held:
                self._release()

    def _renew_until_closed(self) -> None:
        while not self._closing.is_set():
            try:
                if self._request_room():
                    self._settled.set()
            except httpx.ConnectTimeout:
                self._settled.set()  # no engine of this host: its kernel would have answered
            except httpx.TimeoutException:
                log.warning("%s: the engine does not answer in time", self._training.job_id)
            except (httpx.HTTPError, ValidationError) as error:
                self._warn_of_wrong_key(error)
                self._settled.set()  # there is no engine, or none that uses this memory
            except Exception:  # the thread must go on: the next round tries again while the training waits
                log.exception("%s: sharing the GPU with the engine failed", self._training.job_id)
            self._closing.wait(min(RENEW_SECONDS, self._lease_seconds / 6))

    def _warn_of_wrong_key(self, error: Exception) -> None:
        """Warn once if the engine refuses this service's key: the training then runs beside it without any check."""
        is_refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 401
        if is_refused and not self.is_settled:
            log.warning("%s: %s", self._training.job_id, SAYS_WRONG_KEY)

    def _request_room(self) -> bool:
        if self._is_sharing is None:
            content = self._http.get("/health").raise_for_status().content
            engine = EngineHealth.model_validate_json(content, extra="ignore")
            self._is_sharing = self._engine_may_stay(engine)
            if self._is_sharing and engine.stepped_aside is not None:
                self._release()  # a worker that died may have left a hold
        return self._is_sharing or self._hold()

    def _engine_may_stay(self, engine: EngineHealth) -> bool:
        gpus = [measure_gpu(name) for name in self._training.gpus] or [measure_gpu()]
        gpu = next((one for one in gpus if one is not None and one.uuid == engine.place), gpus[0])
        if engine.place != (gpu.uuid if gpu is not None else this_cpu()):
            return True
        fits = self._policy == "auto" and self._training.fits_beside(engine, gpu)
        if gpu is not None and (fits or self._policy == "always"):
            self._room_bytes = self._training.room(engine, gpu)
        if self._policy == "always":
            return True
        if gpu is not None:
            decision = "stays beside" if fits else "makes room for"
            log.info("%s: the engine %s it: %s, %s", self._training.job_id, decision, self._training, gpu)
            self._fits = fits
        return fits

    def _hold(self) -> bool:
        self._has_held = True
        training = self._training
        order = YieldOrder(holder=training.holder, job_id=training.job_id, lease_seconds=self._hold_seconds)
        return self._post("/yield", order).is_away

    def _release(self) -> None:
        try:
            self._post("/resume", ResumeOrder(holder=self._training.holder))
        except (httpx.HTTPError, ValidationError) as error:  # the engine is gone, or its lease will end the hold
            log.warning("%s: the engine could not be told to resume: %s", self._training.job_id, type(error).__name__)

    def _post(self, path: str, order: YieldOrder | ResumeOrder) -> YieldState:
        headers = {"content-type": "application/json"}
        response = self._http.post(path, content=order.model_dump_json(exclude_defaults=True), headers=headers)
        return YieldState.model_validate_json(response.raise_for_status().content, extra="ignore")


class GpuLeases:
    """The same for several engines: those that compute on the training's GPUs make room, the others are left alone."""

    def __init__(
        self, engines: Sequence[EngineAddress], policy: Policy, training: Training, lease_seconds: float
    ) -> None:
        self._leases = [GpuLease(engine, policy, training, lease_seconds) for engine in engines]
        self._stack = ExitStack()

    @property
    def is_settled(self) -> bool:
        return all(lease.is_settled for lease in self._leases)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        return all(lease.wait(max(0.0, deadline - time.monotonic())) for lease in self._leases)

    @property
    def room_bytes(self) -> int | None:
        rooms = [lease.room_bytes for lease in self._leases if lease.room_bytes is not None]
        return min(rooms, default=None)

    @property
    def is_beside_engine(self) -> bool:
        return any(lease.is_beside_engine for lease in self._leases)

    def __enter__(self) -> Self:
        for lease in self._leases:
            self._stack.enter_context(lease)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def wait_for_room(
    gpu_lease: GpuLease | GpuLeases, heartbeat: Callable[[], StopReason | None], heartbeat_seconds: float
) -> StopReason | None:
    """Wait until the training may begin, at most PATIENCE_SECONDS. Returns the reason if `heartbeat` ended the wait.

    `heartbeat` renews the claim on the job every `heartbeat_seconds`; its exceptions are raised.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not gpu_lease.wait(heartbeat_seconds) and time.monotonic() < deadline:
        reason = heartbeat()
        if reason is not None:
            return reason
    return None


def blame_sharing(report: Report, gpu_lease: GpuLeases) -> Report:
    """Running out of memory beside the engine is not the user's error: only with the whole GPU would it be."""
    failed = report.failed
    if failed is None or failed.code != OUT_OF_MEMORY:
        return report
    if not gpu_lease.is_settled:
        hint = "the engine did not free its GPU memory in time"
        report.failed = failed.model_copy(update={"blame": Blame.SYSTEM, "hint": hint})
    elif gpu_lease.is_beside_engine:
        report.failed = Failed(
            blame=Blame.SYSTEM,
            code=NO_ROOM_BESIDE,
            message="the GPU has not enough memory for this training beside the engine",
            hint="the engine frees its GPU memory for the next attempt",
        )
    return report
