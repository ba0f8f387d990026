"""The Celery application of a worker: `celery -A worker.supervising.celery_app worker -P threads -c 1 -Q
tunesmith.train`.

One worker process serves one stage, on one GPU slot. It only supervises: torch is imported by its child processes.
"""

from celery import Celery

from app.config import Settings
from app.jobs.queue.notifier import make_celery
from app.processes.private_files import keep_private

settings = Settings()
open_home = keep_private(settings.root, settings.database)
app: Celery = make_celery(settings.broker, settings.broker_prefix)
app.conf.update(imports=["worker.supervising.tasks"])
