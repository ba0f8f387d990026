"""The HTTP routes of webhooks."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.web.dependencies import DatabaseDep, JobsCaller, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE
from app.webhooks import service
from app.webhooks.schemas import (
    DeliveryPage,
    DeliveryView,
    WebhookChange,
    WebhookCreate,
    WebhookDeleted,
    WebhookPage,
    WebhookRotation,
    WebhookView,
    WebhookWithSecret,
)

WebhookId = Annotated[str, "the id that POST /webhooks returned"]
DeliveryId = Annotated[str, "the id of a delivery, which is the header webhook-id"]
After = Annotated[str | None, Query(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=LONGEST_PAGE)]
router = APIRouter(prefix="/webhooks", tags=["webhooks"])


@router.post("", status_code=201)
def create_webhook(
    body: WebhookCreate, caller: JobsCaller, database: DatabaseDep, settings: SettingsDep
) -> WebhookWithSecret:
    """Tell a URL what happens in a project, by the Standard Webhooks scheme. The secret is shown only now."""
    with database.writer() as session:
        return WebhookWithSecret.with_secret(*service.create(session, caller.scope, settings, body))


@router.get("")
def list_webhooks(caller: ReadCaller, database: DatabaseDep, after: After = None, limit: Limit = 20) -> WebhookPage:
    """Webhooks, newest first."""
    with database.reader() as session:
        return WebhookPage.of(*service.page(session, caller.scope, after, limit))


@router.get("/{webhook_id}")
def get_webhook(webhook_id: WebhookId, caller: ReadCaller, database: DatabaseDep) -> WebhookView:
    """A webhook, and what became of its last delivery."""
    with database.reader() as session:
        return WebhookView.of(service.find(session, caller.scope, webhook_id))


@router.patch("/{webhook_id}")
def change_webhook(
    webhook_id: WebhookId, body: WebhookChange, caller: JobsCaller, database: DatabaseDep, settings: SettingsDep
) -> WebhookView:
    """Change URL or event types, or disable or enable it. What is left out stays as it is."""
    with database.writer() as session:
        return WebhookView.of(service.change(session, caller.scope, settings, webhook_id, body))


@router.delete("/{webhook_id}")
def delete_webhook(webhook_id: WebhookId, caller: JobsCaller, database: DatabaseDep) -> WebhookDeleted:
    """Remove a webhook with its deliveries."""
    with database.writer() as session:
        service.delete(session, caller.scope, webhook_id)
    return WebhookDeleted(id=webhook_id)


@router.post("/{webhook_id}/rotate_secret")
def rotate_secret(
    webhook_id: WebhookId,
    caller: JobsCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    body: WebhookRotation | None = None,
) -> WebhookWithSecret:
    """Give a webhook another secret, which is shown only now."""
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    with database.writer() as session:
        rotated = service.rotate(session, caller.scope, settings, webhook_id, keep_old=keep_old)
        return WebhookWithSecret.with_secret(*rotated)


@router.post("/{webhook_id}/test", status_code=202)
def test_webhook(webhook_id: WebhookId, caller: JobsCaller, database: DatabaseDep) -> DeliveryView:
    """Send an event of the type `webhook.test`. The list of deliveries says what became of it."""
    with database.writer() as session:
        return DeliveryView.of(service.send_test(session, caller.scope, webhook_id))


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: WebhookId, caller: ReadCaller, database: DatabaseDep, after: After = None, limit: Limit = 20
) -> DeliveryPage:
    """What was sent, or is to be sent, newest first. It is kept for a week."""
    with database.reader() as session:
        return DeliveryPage.of(*service.deliveries(session, caller.scope, webhook_id, after, limit))


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202)
def redeliver(
    webhook_id: WebhookId, delivery_id: DeliveryId, caller: JobsCaller, database: DatabaseDep
) -> DeliveryView:
    """Send a delivery again, under the same id."""
    with database.writer() as session:
        return DeliveryView.of(service.redeliver(session, caller.scope, webhook_id, delivery_id))
