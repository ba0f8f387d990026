"""Adds events to the outbox, in the transaction of what they tell: what is rolled back is not told, and all else is.

`worker.supervising.webhooks` sends what is there.
"""

import json
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.ids import new_id
from app.scope import Scope
from app.webhooks import repository
from app.webhooks.event_types import EventType
from app.webhooks.models import WebhookDelivery


def tell(
    session: Session, scope: Scope, project: str, event_type: EventType, told: dict[str, Any], now: datetime
) -> None:
    """Add one delivery for each endpoint of the project that has chosen this type.

    `told` has ids and states alone: never a row, a prompt or another text of a user. The endpoints cannot be deleted
    until the transaction ends.
    """
    endpoints = repository.that_listen(session, scope, project)
    chosen = [endpoint for endpoint in endpoints if not endpoint.event_types or event_type in endpoint.event_types]
    if chosen:
        event = event_of(event_type, told, now)
        session.add_all(delivery_of(endpoint.id, event_type, event, now) for endpoint in chosen)


def event_of(event_type: EventType, told: dict[str, Any], now: datetime) -> str:
    """Return the body of an event, in the form of OpenAI's."""
    event = {
        "id": new_id("evt"),
        "object": "event",
        "type": event_type.value,
        "created_at": int(now.timestamp()),
        "data": told,
    }
    return json.dumps(event, separators=(",", ":"))


def delivery_of(endpoint_id: str, event_type: EventType, event: str, now: datetime) -> WebhookDelivery:
    return WebhookDelivery(
        id=new_id("msg"),
        endpoint_id=endpoint_id,
        event_type=event_type.value,
        payload=event,
        created_at=now,
        attempts=0,
        next_attempt_at=now,
    )
