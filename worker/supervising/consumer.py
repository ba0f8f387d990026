"""How a worker reads its queue: what is no notification is dropped with a line in the log, and stops nobody.

Celery ends the whole worker when a message is none that it can read. Whoever can write to the broker could do so.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer

from app.jobs.queue.notifier import QUEUES, CeleryNotifier
from app.jobs.states import Stage

log = logging.getLogger(__name__)


class TolerantConsumer(Consumer):
    """Celery's, which takes whatever is in its queue."""

    # What the types of Celery do not tell.
    loop: Callable[..., None]
    connection_errors: tuple[type[Exception], ...]
    channel_errors: tuple[type[Exception], ...]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._read = self.loop
        self.loop = self._read_on

    def create_task_handler(self, *arguments: Any, **options: Any) -> Callable[[Any], None]:
        """A message that cannot be handled is taken off the queue, where it would come again."""
        handle = super().create_task_handler(*arguments, **options)

        def handle_or_drop(message: Any) -> None:
            try:
                handle(message)
            except self.connection_errors:
                raise
            except Exception as error:  # noqa: BLE001  a stranger's message: Celery names no kind of error for it
                log.warning("a message that is no notification was dropped: %s", type(error).__name__)
                if not message.acknowledged:
                    message.ack_log_error(log, self.connection_errors)

        return handle_or_drop

    def _read_on(self, *arguments: Any) -> None:
        """What is not even a message is off the queue already, and Celery connects anew behind it.

        It does so a few times a second at most, so that thousands of them would hold the worker up for an hour: all
        that is queued is dropped, and one notification says what any of them could say.
        """
        try:
            self._read(*arguments)
        except (*self.connection_errors, *self.channel_errors):
            raise
        except Exception as error:
            log.warning("what is no message was dropped, with all that is queued: %s", type(error).__name__)
            self._empty_queues()
            raise ConnectionResetError("what was in the queue could not be read") from error

    def _empty_queues(self) -> None:
        self.app.control.purge()
        for stage in (stage for stage in Stage if QUEUES[stage] in self.app.amqp.queues.consume_from):
            CeleryNotifier(self.app).notify(stage)
