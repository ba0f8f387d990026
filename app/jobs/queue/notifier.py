"""Notifies workers with a Celery message that says "there may be work", and nothing more.

The database row is the truth: a lost message costs only time, because the reconciler notifies again, and a worker that
gets a second message finds nothing to claim.
"""

import logging
from typing import Protocol

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from app.jobs.states import WORKER_STAGES, Stage

TASK = "tunesmith.attend"
QUEUES = {stage: f"tunesmith.{stage}" for stage in WORKER_STAGES}
log = logging.getLogger(__name__)


class JobNotifier(Protocol):
    """Tells the workers of a stage to look for work. It never raises, because a lost message is sent again."""

    def notify(self, stage: Stage) -> None: ...


class CeleryNotifier:
    def __init__(self, celery: Celery) -> None:
        self._celery = celery

    def notify(self, stage: Stage) -> None:
        try:
            self._celery.send_task(TASK, args=[stage.value], queue=QUEUES[stage], retry=False)
        except (OperationalError, OSError) as error:
            log.warning("the broker did not accept the notification for %s: %s", stage, type(error).__name__)

    def problem(self) -> str | None:
        """Return why the broker accepts no notifications, or None. It waits as long as a notification does."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.connect()  # Redis is pinged
        except (OperationalError, OSError, RedisError) as error:
            return f"it does not answer: {type(error).__name__}"
        return None


def make_celery(broker_url: str, prefix: str) -> Celery:
    """Return Celery configured for notifications: early ack, no prefetch, no results, short waits for the broker."""
    celery = Celery("tunesmith", broker=broker_url)
    celery.conf.update(
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_send_task_events=False,
        worker_consumer="worker.supervising.consumer:TolerantConsumer",
        worker_enable_remote_control=False,  # any client of the broker could stop every worker
        broker_heartbeat=0,
        task_serializer="json",
        accept_content=["json"],
        task_create_missing_queues=True,
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "max_retries": 1,
            "interval_start": 0.5,  # the wait before the second try, which a client of the API waits too
            "visibility_timeout": 3600,
            "global_keyprefix": prefix,
        },
    )
    return celery
