"""Every query about webhooks. It never commits."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, delete, func, select, true, update
from sqlalchemy.orm import Session

from app.database.newest_first import is_behind
from app.scope import Scope
from app.webhooks.models import WebhookDelivery, WebhookEndpoint


def add(session: Session, scope: Scope, endpoint: WebhookEndpoint) -> None:
    """Raises InvalidRequest if its project is not in the scope."""
    scope.check(endpoint.project)
    session.add(endpoint)


def get(session: Session, scope: Scope, endpoint_id: str) -> WebhookEndpoint | None:
    return session.scalar(_one(scope, endpoint_id))


def lock(session: Session, scope: Scope, endpoint_id: str) -> WebhookEndpoint | None:
    """Return the row, locked until the transaction ends against other changes, but not against new deliveries."""
    locked = _one(scope, endpoint_id).with_for_update(key_share=True)
    return session.scalar(locked.execution_options(populate_existing=True))


def _one(scope: Scope, endpoint_id: str) -> Select[WebhookEndpoint]:
    return select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, scope.permits(WebhookEndpoint.project))


def count(session: Session, scope: Scope, project: str) -> int:
    is_of = (WebhookEndpoint.project == project, scope.permits(WebhookEndpoint.project))
    return session.scalar(select(func.count()).where(*is_of)) or 0


def page(session: Session, scope: Scope, *, after: WebhookEndpoint | None, limit: int) -> Sequence[WebhookEndpoint]:
    """Return endpoints, newest first. `after` is the last one of the previous page."""
    query = select(WebhookEndpoint).where(scope.permits(WebhookEndpoint.project))
    if after is not None:
        query = query.where(is_behind(WebhookEndpoint.created_at, WebhookEndpoint.id, after.created_at, after.id))
    newest = query.order_by(WebhookEndpoint.created_at.desc(), WebhookEndpoint.id.desc())
    return session.scalars(newest.limit(limit)).all()


def that_listen(session: Session, scope: Scope, project: str) -> Sequence[WebhookEndpoint]:
    """Return the endpoints of a project that are not disabled. They cannot be deleted until the transaction ends."""
    is_on = (WebhookEndpoint.project == project, WebhookEndpoint.disabled_at.is_(None))
    query = select(WebhookEndpoint).where(*is_on, scope.permits(WebhookEndpoint.project))
    return session.scalars(query.with_for_update(read=True, key_share=True)).all()


def lock_all(session: Session, scope: Scope) -> Sequence[WebhookEndpoint]:
    """Return all endpoints, locked until the transaction ends, but not against new deliveries."""
    query = select(WebhookEndpoint).where(scope.permits(WebhookEndpoint.project)).order_by(WebhookEndpoint.id)
    return session.scalars(query.with_for_update(key_share=True)).all()


def remove(session: Session, scope: Scope, endpoint_id: str) -> bool:
    """Delete an endpoint with its deliveries, and return whether it existed."""
    is_named = (WebhookEndpoint.id == endpoint_id, scope.permits(WebhookEndpoint.project))
    return session.scalar(delete(WebhookEndpoint).where(*is_named).returning(WebhookEndpoint.id)) is not None


def of_endpoint(scope: Scope, endpoint_id: str) -> Select[WebhookDelivery]:
    return select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id, _is_permitted(scope))


def _is_permitted(scope: Scope) -> ColumnElement[bool]:
    if scope.projects is None:
        return true()
    of_delivery = (WebhookEndpoint.id == WebhookDelivery.endpoint_id, scope.permits(WebhookEndpoint.project))
    return select(WebhookEndpoint.id).where(*of_delivery).exists()


def delivery(session: Session, scope: Scope, endpoint_id: str, delivery_id: str) -> WebhookDelivery | None:
    return session.scalar(of_endpoint(scope, endpoint_id).where(WebhookDelivery.id == delivery_id))


def lock_delivery(session: Session, scope: Scope, endpoint_id: str, delivery_id: str) -> WebhookDelivery | None:
    """Return a delivery of an endpoint, locked until the transaction ends. Lock its endpoint first."""
    named = of_endpoint(scope, endpoint_id).where(WebhookDelivery.id == delivery_id)
    locked = named.with_for_update(of=WebhookDelivery)
    return session.scalar(locked.execution_options(populate_existing=True))


def deliveries(
    session: Session, scope: Scope, endpoint_id: str, *, after: WebhookDelivery | None, limit: int
) -> Sequence[WebhookDelivery]:
    """Return deliveries of an endpoint, newest first. `after` is the last one of the previous page."""
    query = of_endpoint(scope, endpoint_id)
    if after is not None:
        query = query.where(is_behind(WebhookDelivery.created_at, WebhookDelivery.id, after.created_at, after.id))
    newest = query.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
    return session.scalars(newest.limit(limit)).all()


def give_up_waiting(session: Session, scope: Scope, endpoint_id: str) -> None:
    """Give up all deliveries of an endpoint that wait."""
    waiting = of_endpoint(scope, endpoint_id).where(WebhookDelivery.next_attempt_at.is_not(None))
    ids = waiting.with_only_columns(WebhookDelivery.id)
    session.execute(update(WebhookDelivery).where(WebhookDelivery.id.in_(ids)).values(next_attempt_at=None))


def due(
    session: Session, scope: Scope, now: datetime, *, busy: Collection[str], of_one: int, limit: int
) -> Sequence[str]:
    """Return deliveries to send now, oldest first: at most `of_one` of an endpoint, and none of `busy` endpoints."""
    is_due = (WebhookDelivery.next_attempt_at.is_not(None), WebhookDelivery.next_attempt_at <= now)
    place = func.row_number().over(
        partition_by=WebhookDelivery.endpoint_id, order_by=(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
    )
    columns = (WebhookDelivery.id, WebhookDelivery.next_attempt_at.label("at"), place.label("place"))
    placed = select(*columns).where(*is_due, WebhookDelivery.endpoint_id.not_in(busy), _is_permitted(scope)).subquery()
    query = select(placed.c.id).where(placed.c.place <= of_one).order_by(placed.c.place, placed.c.at)
    return session.scalars(query.limit(limit)).all()


def claim(session: Session, scope: Scope, delivery_id: str, now: datetime, lease: timedelta) -> WebhookDelivery | None:
    """Count one more attempt, and let no other process begin one before the lease ends. None: another one was faster.

    The number of the attempt is the fence of what is stored about it.
    """
    is_due = (WebhookDelivery.next_attempt_at.is_not(None), WebhookDelivery.next_attempt_at <= now)
    statement = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, *is_due, _is_permitted(scope))
        .values(attempts=WebhookDelivery.attempts + 1, next_attempt_at=now + lease)
        .returning(WebhookDelivery)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def forget_old(session: Session, scope: Scope, before: datetime, limit: int) -> int:
    """Delete deliveries of before a moment that wait no more, and return how many."""
    is_old = (WebhookDelivery.created_at < before, WebhookDelivery.next_attempt_at.is_(None), _is_permitted(scope))
    old = select(WebhookDelivery.id).where(*is_old).order_by(WebhookDelivery.created_at).limit(limit)
    statement = delete(WebhookDelivery).where(WebhookDelivery.id.in_(old)).returning(WebhookDelivery.id)
    return len(session.scalars(statement).all())
