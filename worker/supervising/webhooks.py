"""The thread of a checker that sends the messages of webhooks. It has threads of its own for the messages, so that a
receiver that does not answer delays nothing but its own messages."""

import logging
import threading
import time

from app.database.connection import AWAY, utc_now
from app.public_addresses import read_networks
from app.webhooks.delivering import ClaimedDelivery, claim_due, deliver, forget_old
from app.webhooks.sending import WebhookSender
from worker.supervising.context import WorkerContext

AT_ONCE = 16
# Of one endpoint. Its next ones are claimed once these are over.
OF_ONE = 4
SECONDS_BETWEEN_SWEEPS = 600.0
log = logging.getLogger(__name__)


class WebhookThread:
    """Claims what is due whenever a sender is free, until the process is to stop.

    What it sends at that moment is not waited for: it is sent again after its lease.
    """

    def __init__(self, context: WorkerContext, sender: WebhookSender | None = None) -> None:
        self._context = context
        self._sender = sender or WebhookSender(read_networks(context.settings.webhook_private_networks))
        self._lock, self._is_free = threading.Lock(), threading.Event()
        self._sending: list[str] = []
        self._swept_at = 0.0

    def run(self) -> None:
        while not self._context.stopping.is_set():
            self._is_free.clear()
            has_more = self.round()
            if has_more:
                continue
            self._is_free.wait(self._context.settings.reconcile_seconds)

    def round(self) -> bool:
        """Begin to send what is due, as far as senders are free. Returns whether something was begun.

        Errors are logged, never raised.
        """
        context = self._context
        try:
            self._sweep()
            with self._lock:
                busy = list(self._sending)
            limit = AT_ONCE - len(busy)
            if limit <= 0:
                return False
            claimed = claim_due(context.database, context.settings, utc_now(), busy=busy, of_one=OF_ONE, limit=limit)
        except AWAY as error:
            log.warning("the database is unavailable: %s", context.database.why_away(error))
            return False
        except Exception:  # the next round may succeed, and without this thread nothing would be sent
            log.exception("messages of webhooks could not be claimed")
            return False
        for each in claimed:
            self._begin(each)
        return bool(claimed)

    def _begin(self, claimed: ClaimedDelivery) -> None:
        with self._lock:
            self._sending.append(claimed.endpoint_id)
        threading.Thread(target=self._deliver, args=(claimed,), name=f"webhook-{claimed.id}", daemon=True).start()

    def _deliver(self, claimed: ClaimedDelivery) -> None:
        try:
            deliver(self._context.database, claimed, self._sender.send)
        except AWAY as error:  # it is sent again after its lease
            log.warning("what became of %s was not stored: %s", claimed.id, self._context.database.why_away(error))
        except Exception:
            log.exception("%s could not be sent", claimed.id)
        finally:
            with self._lock:
                self._sending.remove(claimed.endpoint_id)
            self._is_free.set()

    def _sweep(self) -> None:
        if time.monotonic() - self._swept_at > SECONDS_BETWEEN_SWEEPS:
            forget_old(self._context.database, utc_now())
            self._swept_at = time.monotonic()
