"""The Celery task that a notification starts, and the start and stop of a worker process."""

import logging
import threading
from functools import partial
from typing import Any

from celery import signals

from app.contracts.devices import CPU
from app.database.connection import Database
from app.jobs.queue.notifier import QUEUES, TASK, CeleryNotifier
from app.jobs.queue.sweeps import sweep_regularly
from app.jobs.states import Stage
from app.processes.environments import own_secrets
from app.processes.traces import start_tracing
from app.redaction import redact_logs
from worker.confinement import landlock
from worker.hardware import describe_device, find_slots
from worker.supervising.celery_app import app, open_home, settings
from worker.supervising.context import WorkerContext
from worker.supervising.further_gpus import FurtherGpus
from worker.supervising.lifecycle import run_until_idle
from worker.supervising.reconciler import Reconciler
from worker.supervising.slots import Slot
from worker.supervising.spare import WarmSpare, is_wanted
from worker.supervising.webhooks import WebhookThread

log = logging.getLogger(__name__)
contexts: dict[Stage, WorkerContext] = {}


@app.task(name=TASK)
def work_on_stage(stage: str) -> None:
    """Work until no job of this stage is left to claim."""
    context = contexts.get(Stage(stage))
    if context is not None:
        run_until_idle(context)


@signals.worker_ready.connect
def open_contexts(sender: Any, **_: object) -> None:
    """Start to serve the stages whose queues this process reads."""
    redact_logs([*settings.secret_values, *own_secrets()])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a request goes to the engine every few seconds
    if settings.confinement == "off" or landlock.abi() == 0:
        why = "TUNESMITH_CONFINEMENT is off" if settings.confinement == "off" else "this kernel has no Landlock"
        log.warning("%s: processes that read models and datasets can open every file that this user can", why)
    if open_home is not None:
        log.warning(open_home)
    database, tracing = Database.open(settings.database), start_tracing("tunesmith-worker")
    for stage in (stage for stage in QUEUES if QUEUES[stage] in sender.app.amqp.queues.consume_from):
        device = describe_device() if stage is Stage.TRAIN else CPU
        slot, further_gpus = _open_slots(stage, sender.hostname)
        at_once = sender.controller.concurrency
        spare = WarmSpare(settings, slot) if stage is Stage.TRAIN and is_wanted(settings, device) else None
        context = WorkerContext(
            settings,
            database,
            CeleryNotifier(app),
            stage,
            sender.hostname,
            device,
            slot,
            at_once,
            spare,
            further_gpus,
            tracing=tracing,
        )
        contexts[stage] = context
        threading.Thread(target=Reconciler(context).run, name=f"reconcile-{stage}", daemon=True).start()
        if stage is Stage.CHECK:
            threading.Thread(target=WebhookThread(context).run, name="webhooks", daemon=True).start()
        if stage is Stage.TRAIN:
            measure = context.gpu_readings.keep_reading
            threading.Thread(target=measure, args=(context.stopping,), name="gpu-readings", daemon=True).start()
        log.info("%s serves %s on %s", context.name, stage, device)
    if settings.store is not None:  # this host's home may have no API that sweeps it
        stopping = next(iter(contexts.values())).stopping
        sweeps = partial(sweep_regularly, settings, stopping, has_store=False)
        threading.Thread(target=sweeps, name="orphans", daemon=True).start()


def _open_slots(stage: Stage, worker: str) -> tuple[Slot, FurtherGpus]:
    """A training's slot is its GPU, so that no two run on one; every checker has a slot of its own."""
    if stage is not Stage.TRAIN:
        return Slot.open(settings.slots, f"check-{worker}"), FurtherGpus()
    if settings.slot is not None:
        return Slot.open(settings.slots, settings.slot), FurtherGpus()
    (own, name), *others = find_slots().items()
    slots = [Slot.open(settings.slots, other) for _, other in others]
    return Slot.open(settings.slots, name), FurtherGpus(own, [gpu for gpu, _ in others], slots)


@signals.worker_shutting_down.connect
def close_contexts(**_: object) -> None:
    """Tell running tasks to hand their jobs back, since a warm shutdown of Celery waits for them."""
    for context in contexts.values():
        context.stopping.set()
        if context.spare is not None:
            context.spare.close()
