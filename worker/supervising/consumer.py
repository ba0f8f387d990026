"""Reads a worker's queue and drops every message that is not a notification, with a line in the log.

Celery itself ends the whole worker when it cannot read a message, so anyone who can write to the broker could stop it.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer

from app.jobs.queue.notifier import QUEUES, CeleryNotifier

log = logging.getLogger(__name__)


class TolerantConsumer(Consumer):
    """Celery's consumer, which survives unreadable messages."""

    # Celery's types do not declare these.
    loop: Callable[..., None]
    connection_errors: tuple[type[Exception], ...]
    channel_errors: tuple[type[Exception], ...]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._celery_loop = self.loop
        self.loop = self._tolerant_loop

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        """Acknowledge a message that cannot be handled; otherwise the broker would deliver it again."""
        handle = super().create_task_handler(*arguments, **options)

        def handle_or_drop(message: Any) -> None:
            try:
                handle(message)
            except self.connection_errors:
                raise
            except Exception as error:  # noqa: BLE001  Celery documents no error for a malformed message
                log.warning("a message that is not a notification was dropped: %s", type(error).__name__)
                if not message.acknowledged:
                    message.ack_log_error(log, self.connection_errors)

        return handle_or_drop

    def _tolerant_loop(self, *arguments: Any) -> None:
        """Bytes that are not even a message are already off the queue; make Celery reconnect to read the next one.

        Celery reconnects only a few times a second, so thousands of such messages would delay the worker for an hour.
        Therefore the whole queue is emptied, and one notification replaces those that were in it.
        """
        try:
            self._celery_loop(*arguments)
        except (*self.connection_errors, *self.channel_errors):
            raise
        except Exception as error:
            log.warning(
                "bytes in the queue that are not a message were dropped, with all that was queued: %s",
                type(error).__name__,
            )
            self._empty_queues()
            raise ConnectionResetError("the queue held bytes that are not a message") from error

    def _empty_queues(self) -> None:
        self.app.control.purge()
        for stage in (stage for stage in QUEUES if QUEUES[stage] in self.app.amqp.queues.consume_from):
            CeleryNotifier(self.app).notify(stage)
