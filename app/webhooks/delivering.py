"""Takes messages out of the outbox, and stores what became of them. Several processes may do it at once.

A process that dies between the answer of the receiver and the commit has delivered a message of which nobody knows. It
is sent again, under the same id, after the lease: delivery is at least once.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.config import Settings
from app.database.connection import Database, utc_now
from app.encryption import open_encryption
from app.errors import Unavailable
from app.scope import EVERY_PROJECT
from app.webhooks import repository
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.retries import FAILS_AT_MOST, pause_after
from app.webhooks.sending import DeliveryOutcome, WebhookMessage
from app.webhooks.service import disable

# Longer than an attempt takes, with the resolution of a name that nobody answers.
LEASE = timedelta(seconds=120)
KEPT_FOR = timedelta(days=7)
FORGOTTEN_AT_ONCE = 1000
GONE = 410
FAILING, IS_GONE = "failing", "gone"
log = logging.getLogger(__name__)
Send = Callable[[WebhookMessage], DeliveryOutcome]


@dataclass(frozen=True)
class ClaimedDelivery:
    """The right to make one attempt, until its lease ends. `attempt` is the fence of what is stored about it.

    `message` is None if the secret of the endpoint cannot be read, because of the reason in `problem`.
    """

    id: str
    endpoint_id: str
    attempt: int
    message: WebhookMessage | None
    problem: str | None = None


def claim_due(
    database: Database, settings: Settings, now: datetime, *, busy: Collection[str], of_one: int, limit: int
) -> list[ClaimedDelivery]:
    """Claim deliveries that are due: at most `of_one` of an endpoint, and none of `busy` endpoints."""
    with database.reader() as session:
        due = repository.due(session, EVERY_PROJECT, now, busy=busy, of_one=of_one, limit=limit)
    claimed = (_claim(database, settings, delivery_id, now) for delivery_id in due)
    return [each for each in claimed if each is not None]


def _claim(database: Database, settings: Settings, delivery_id: str, now: datetime) -> ClaimedDelivery | None:
    with database.writer() as session:
        delivery = repository.claim(session, EVERY_PROJECT, delivery_id, now, LEASE)
        claimed = _read(session, settings, delivery, now) if delivery is not None else None
        session.commit()
    return claimed


def _read(session: Session, settings: Settings, delivery: WebhookDelivery, now: datetime) -> ClaimedDelivery | None:
    endpoint = repository.get(session, EVERY_PROJECT, delivery.endpoint_id)
    if endpoint is None:  # it is deleted at this moment, with its deliveries
        return None
    claimed = (delivery.id, endpoint.id, delivery.attempts)
    try:
        secrets = _secrets_of(settings, endpoint, now)
    except Unavailable as error:
        log.error("%s was not sent: %s", delivery.id, error.message)
        return ClaimedDelivery(*claimed, None, f"its secret cannot be read ({error.code})")
    return ClaimedDelivery(*claimed, WebhookMessage(delivery.id, endpoint.url, secrets, delivery.payload))


def _secrets_of(settings: Settings, endpoint: WebhookEndpoint, now: datetime) -> list[str]:
    encryption, stored = open_encryption(settings), [endpoint.secret]
    until = endpoint.previous_secret_until
    if endpoint.previous_secret is not None and until is not None and until > now:
        stored.append(endpoint.previous_secret)
    return [encryption.decrypt(each) for each in stored]


def deliver(
    database: Database, claimed: ClaimedDelivery, send: Send, now: Callable[[], datetime] = utc_now
) -> DeliveryOutcome:
    """Make the claimed attempt, and store what became of it."""
    outcome = send(claimed.message) if claimed.message is not None else DeliveryOutcome(None, claimed.problem)
    with database.writer() as session:
        endpoint = repository.lock(session, EVERY_PROJECT, claimed.endpoint_id)
        delivery = repository.lock_delivery(session, EVERY_PROJECT, claimed.endpoint_id, claimed.id)
        if endpoint is not None and delivery is not None and delivery.attempts == claimed.attempt:
            _store(session, endpoint, delivery, outcome, now())
        session.commit()
    return outcome


def _store(
    session: Session, endpoint: WebhookEndpoint, delivery: WebhookDelivery, outcome: DeliveryOutcome, now: datetime
) -> None:
    for row in (endpoint, delivery):
        row.last_status, row.last_error = outcome.status, outcome.error
    endpoint.last_attempt_at = now
    if outcome.error is None:
        endpoint.failing_since, delivery.next_attempt_at, delivery.delivered_at = None, None, now
        log.info("%s: %s was delivered", endpoint.id, delivery.id)
        return
    endpoint.failing_since = endpoint.failing_since or now
    pause = pause_after(delivery.attempts) if endpoint.disabled_at is None else None
    delivery.next_attempt_at = now + pause if pause is not None else None
    log.warning("%s: attempt %d of %s failed: %s", endpoint.id, delivery.attempts, delivery.id, outcome.error)
    is_failing = pause is None and now - endpoint.failing_since > FAILS_AT_MOST
    if endpoint.disabled_at is None and (is_failing or outcome.status == GONE):
        session.flush()
        disable(session, EVERY_PROJECT, endpoint, IS_GONE if outcome.status == GONE else FAILING, now)
        log.warning("%s was disabled: %s", endpoint.id, endpoint.disabled_reason)


def forget_old(database: Database, now: datetime) -> int:
    """Remove some of the deliveries that are over since long ago, and return how many."""
    with database.writer() as session:
        forgotten = repository.forget_old(session, EVERY_PROJECT, now - KEPT_FOR, FORGOTTEN_AT_ONCE)
        session.commit()
    return forgotten
