"""The bodies and responses of the webhook routes. No response but that of a new or rotated secret has a secret."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from app.contracts.base import Contract
from app.contracts.training_args import SafeName
from app.webhooks.event_types import EventType
from app.webhooks.urls import LONGEST_URL

if TYPE_CHECKING:
    from app.webhooks.models import WebhookDelivery, WebhookEndpoint

URL = "where events are sent, by https; by http only in networks that the operator allows"
TYPES = "which events are sent; an empty list: all, also those of later versions"


class WebhookCreate(Contract):
    url: str = Field(max_length=LONGEST_URL, description=URL)
    event_types: list[EventType] = Field([], max_length=len(EventType), description=TYPES)
    project: SafeName | None = Field(None, description="default: that of the key")


class WebhookChange(Contract):
    """What is left out stays as it is."""

    url: str | None = Field(None, max_length=LONGEST_URL, description=URL)
    event_types: list[EventType] | None = Field(None, max_length=len(EventType), description=TYPES)
    disabled: bool | None = Field(None, description="true: nothing more is sent, and what waits is given up")


class WebhookRotation(Contract):
    """The fields are those of OpenAI's API."""

    keep_old_secret_active_for_24_hours: bool = Field(
        False, description="whether messages are signed with both secrets for a day"
    )


class WebhookView(BaseModel):
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    id: str
    project: str
    url: str
    event_types: list[str] = Field(description=TYPES)
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None = Field(description="`user`, `failing` (for days), or `gone` (it answered 410)")
    failing_since: datetime | None = Field(description="the first failure since the last success")
    last_attempt_at: datetime | None
    last_status: int | None = Field(description="of HTTP; null: there was no answer")
    last_error: str | None = Field(description="null: the last attempt succeeded")

    @classmethod
    def of(cls, endpoint: "WebhookEndpoint") -> "WebhookView":
        return cls.model_validate(endpoint, from_attributes=True)


class WebhookWithSecret(WebhookView):
    signing_secret: str = Field(repr=False, description="signs what is sent; it is shown only now")

    @classmethod
    def with_secret(cls, endpoint: "WebhookEndpoint", secret: str) -> "WebhookWithSecret":
        return cls(**WebhookView.of(endpoint).model_dump(), signing_secret=secret)


class WebhookPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[WebhookView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, endpoints: "Sequence[WebhookEndpoint]", has_more: bool) -> "WebhookPage":
        shown = [WebhookView.of(endpoint) for endpoint in endpoints]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)


class WebhookDeleted(BaseModel):
    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    deleted: bool = True


class DeliveryView(BaseModel):
    """An event for one endpoint. `id` is the header webhook-id, the same in every attempt."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    id: str
    event_type: str
    payload: str = Field(description="the body as it is signed")
    status: Literal["waiting", "delivered", "given_up"]
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    last_status: int | None = Field(description="of HTTP; null: there was no answer")
    last_error: str | None

    @classmethod
    def of(cls, delivery: "WebhookDelivery") -> "DeliveryView":
        names = cls.model_fields.keys() - {"object", "status"}
        is_waiting = delivery.next_attempt_at is not None
        status = "waiting" if is_waiting else "delivered" if delivery.delivered_at is not None else "given_up"
        return cls.model_validate({**{name: getattr(delivery, name) for name in names}, "status": status})


class DeliveryPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[DeliveryView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, deliveries: "Sequence[WebhookDelivery]", has_more: bool) -> "DeliveryPage":
        shown = [DeliveryView.of(delivery) for delivery in deliveries]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)
