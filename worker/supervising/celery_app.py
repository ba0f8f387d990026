"""The Celery application of a worker: `celery -A worker.supervising.celery_app worker -P threads -c 1 -Q
tunesmith.train`.

One worker process serves one stage, on one GPU slot. It only supervises: torch is imported by its child processes.
"""

from celery import Celery, signals

from app.config import Settings
from app.jobs.queue.notifier import make_celery
from app.processes.logs import set_up
from app.processes.private_files import keep_private

settings = Settings()
open_home = keep_private(settings.root, settings.database)


@signals.setup_logging.connect
def log_as_set(loglevel: str | int | None = None, **_: object) -> None:
    """In place of Celery's own logs, whose form is another one."""
    set_up(loglevel or settings.log_level, settings.log_format)


app: Celery = make_celery(settings.broker, settings.broker_prefix)
app.conf.update(imports=["worker.supervising.tasks"])
