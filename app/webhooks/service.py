"""The rules for webhooks: which URLs are taken, their secrets, and what is sent again."""

import base64
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.access import audit
from app.config import Settings
from app.database.connection import utc_now
from app.encryption import open_encryption
from app.errors import LONGEST_QUOTE, Conflict, InvalidRequest, NotFound, Problem
from app.ids import new_id
from app.public_addresses import read_networks
from app.scope import Scope
from app.webhooks import repository
from app.webhooks.event_types import EventType
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.outbox import delivery_of, event_of
from app.webhooks.schemas import WebhookChange, WebhookCreate
from app.webhooks.urls import read_webhook_url

# Ids are checked before a query, because PostgreSQL rejects a NUL in a text.
ENDPOINT_ID = re.compile(r"webhook-[a-z2-7]{24}")
DELIVERY_ID = re.compile(r"msg-[a-z2-7]{24}")
# Each change of a job's status reads all endpoints of its project.
MOST_OF_A_PROJECT = 20
SECRET_BYTES = 32
BY_THE_USER = "user"
BOTH_SIGN_FOR = timedelta(days=1)


def create(session: Session, scope: Scope, settings: Settings, wanted: WebhookCreate) -> tuple[WebhookEndpoint, str]:
    """Store an endpoint, and return it with its secret, which is never shown again.

    Raises InvalidRequest, Conflict if the project has too many, and Unavailable without a key for secrets.
    """
    project = wanted.project or scope.usual_project
    scope.check(project)
    _check_url(settings, wanted.url)
    secret = new_secret()
    if repository.count(session, scope, project) >= MOST_OF_A_PROJECT:
        message = f"the project {project} has {MOST_OF_A_PROJECT} webhooks, which is the most: delete one"
        raise Conflict(message, param="project", code="too_many_webhooks")
    endpoint = WebhookEndpoint(
        id=new_id("webhook"),
        project=project,
        url=wanted.url,
        event_types=[each.value for each in wanted.event_types],
        secret=open_encryption(settings, may_make_key=True).encrypt(secret),
        created_at=utc_now(),
    )
    repository.add(session, scope, endpoint)
    audit.record(session, "webhook.create", endpoint.id, project)
    session.commit()
    return endpoint, secret


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _check_url(settings: Settings, url: str) -> None:
    try:
        read_webhook_url(url, read_networks(settings.webhook_private_networks))
    except ValueError as error:
        # The value is not repeated: a URL may hold a password, and many hold a token.
        expected = str(error).removeprefix("should be ").removeprefix("should ")
        problem = Problem(field="url", code="invalid_url", found="another URL", expected=expected)
        raise InvalidRequest.of([problem]) from None


def find(session: Session, scope: Scope, endpoint_id: str) -> WebhookEndpoint:
    """Raises NotFound."""
    endpoint = repository.get(session, scope, endpoint_id) if ENDPOINT_ID.fullmatch(endpoint_id) else None
    return _found(endpoint, endpoint_id)


def _lock(session: Session, scope: Scope, endpoint_id: str) -> WebhookEndpoint:
    endpoint = repository.lock(session, scope, endpoint_id) if ENDPOINT_ID.fullmatch(endpoint_id) else None
    return _found(endpoint, endpoint_id)


def _found(endpoint: WebhookEndpoint | None, endpoint_id: str) -> WebhookEndpoint:
    if endpoint is None:
        message = f"there is no webhook {endpoint_id[:LONGEST_QUOTE]!r}"
        raise NotFound(message, param="webhook_id", code="unknown_webhook")
    return endpoint


def page(session: Session, scope: Scope, after: str | None, limit: int) -> tuple[Sequence[WebhookEndpoint], bool]:
    """Return the endpoints after the one with the id `after`, newest first, and whether there are more.

    Raises InvalidRequest if there is no endpoint `after`.
    """
    last = repository.get(session, scope, after) if after is not None and ENDPOINT_ID.fullmatch(after) else None
    if after is not None and last is None:
        raise InvalidRequest(f"after: there is no webhook {after[:LONGEST_QUOTE]!r}", param="after")
    found = repository.page(session, scope, after=last, limit=limit + 1)
    return found[:limit], len(found) > limit


def change(
    session: Session, scope: Scope, settings: Settings, endpoint_id: str, wanted: WebhookChange
) -> WebhookEndpoint:
    """Change what is not None. An endpoint that is enabled again begins without failures.

    Raises NotFound and InvalidRequest.
    """
    endpoint = _lock(session, scope, endpoint_id)
    if wanted.url is not None:
        _check_url(settings, wanted.url)
        endpoint.url = wanted.url
    if wanted.event_types is not None:
        endpoint.event_types = [each.value for each in wanted.event_types]
    if wanted.disabled is True and endpoint.disabled_at is None:
        disable(session, scope, endpoint, BY_THE_USER, utc_now())
    if wanted.disabled is False:
        endpoint.disabled_at = endpoint.disabled_reason = endpoint.failing_since = None
    audit.record(session, "webhook.change", endpoint.id, endpoint.project)
    session.commit()
    return endpoint


def disable(session: Session, scope: Scope, endpoint: WebhookEndpoint, reason: str, now: datetime) -> None:
    """Send nothing more to an endpoint, and give up what waits for it. The caller has locked its row."""
    endpoint.disabled_at, endpoint.disabled_reason = now, reason
    repository.give_up_waiting(session, scope, endpoint.id)


def rotate(
    session: Session, scope: Scope, settings: Settings, endpoint_id: str, *, keep_old: bool
) -> tuple[WebhookEndpoint, str]:
    """Give an endpoint another secret, and return both. With `keep_old` the one before signs too for a day.

    Raises NotFound, and Unavailable without a key for secrets.
    """
    endpoint, secret = _lock(session, scope, endpoint_id), new_secret()
    endpoint.previous_secret = endpoint.secret if keep_old else None
    endpoint.previous_secret_until = utc_now() + BOTH_SIGN_FOR if keep_old else None
    endpoint.secret = open_encryption(settings, may_make_key=True).encrypt(secret)
    audit.record(session, "webhook.rotate_secret", endpoint.id, endpoint.project)
    session.commit()
    return endpoint, secret


def delete(session: Session, scope: Scope, endpoint_id: str) -> None:
    """Remove an endpoint with its deliveries. Raises NotFound."""
    endpoint = find(session, scope, endpoint_id)
    repository.remove(session, scope, endpoint_id)
    audit.record(session, "webhook.delete", endpoint.id, endpoint.project)
    session.commit()


def deliveries(
    session: Session, scope: Scope, endpoint_id: str, after: str | None, limit: int
) -> tuple[Sequence[WebhookDelivery], bool]:
    """Return the deliveries of an endpoint after the one with the id `after`, newest first, and whether there are more.

    Raises NotFound for the endpoint, and InvalidRequest if there is no delivery `after`.
    """
    find(session, scope, endpoint_id)
    last = repository.delivery(session, scope, endpoint_id, after) if after and DELIVERY_ID.fullmatch(after) else None
    if after is not None and last is None:
        raise InvalidRequest(f"after: there is no delivery {after[:LONGEST_QUOTE]!r}", param="after")
    found = repository.deliveries(session, scope, endpoint_id, after=last, limit=limit + 1)
    return found[:limit], len(found) > limit


def send_test(session: Session, scope: Scope, endpoint_id: str) -> WebhookDelivery:
    """Add a delivery of the type webhook.test. Raises NotFound, and Conflict for a disabled endpoint."""
    endpoint, now = _lock(session, scope, endpoint_id), utc_now()
    _check_enabled(endpoint)
    event = event_of(EventType.TEST, {"id": endpoint.id}, now)
    made = delivery_of(endpoint.id, EventType.TEST, event, now)
    session.add(made)
    audit.record(session, "webhook.test", endpoint.id, endpoint.project)
    session.commit()
    return made


def redeliver(session: Session, scope: Scope, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
    """Send a delivery again, under its id, with all attempts of a new one.

    Raises NotFound, and Conflict for a disabled endpoint.
    """
    endpoint = _lock(session, scope, endpoint_id)
    _check_enabled(endpoint)
    found = None
    if DELIVERY_ID.fullmatch(delivery_id):
        found = repository.lock_delivery(session, scope, endpoint_id, delivery_id)
    if found is None:
        message = f"there is no delivery {delivery_id[:LONGEST_QUOTE]!r} of {endpoint_id}"
        raise NotFound(message, param="delivery_id", code="unknown_delivery")
    if found.next_attempt_at is None:
        found.attempts, found.delivered_at = 0, None
    found.next_attempt_at = utc_now()
    audit.record(session, "webhook.redeliver", endpoint.id, endpoint.project, delivery=found.id)
    session.commit()
    return found


def _check_enabled(endpoint: WebhookEndpoint) -> None:
    if endpoint.disabled_at is not None:
        message = f'{endpoint.id} is disabled ({endpoint.disabled_reason}): enable it with {{"disabled": false}}'
        raise Conflict(message, param="webhook_id", code="webhook_is_disabled")
