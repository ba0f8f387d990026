"""The responses of the adapter routes."""

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from app.contracts.variant import BaseVariant
from app.database.stored_fields import UNREADABLE, StoredView, show

if TYPE_CHECKING:  # the command line uses this module without SQLAlchemy
    from app.adapters.models import Adapter


class AdapterView(StoredView):
    """A trained adapter. `name` is the model in responses of `POST /generate`; it never names different content."""

    object: Literal["adapter"] = "adapter"
    id: str
    version: str
    name: str
    job_id: str
    kind: Literal["lora", "full", "unknown"] = Field(
        "unknown", description="unknown: a kind that only another version knows; this version cannot serve it"
    )
    base_model: str
    base_revision: str | None
    base_variant: BaseVariant | None = None
    base_scaled_to: int | None
    rank: int | None
    bytes: int
    created_at: datetime
    unreadable: list[str] = Field([], description=UNREADABLE)

    @classmethod
    def of(cls, adapter: "Adapter") -> "AdapterView":
        own = {"object", "unreadable"}
        return show(cls, {name: getattr(adapter, name) for name in cls.model_fields if name not in own})


class AdapterPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[AdapterView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, adapters: "list[Adapter]", has_more: bool) -> "AdapterPage":
        shown = [AdapterView.of(adapter) for adapter in adapters]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)


class AdapterDeleted(BaseModel):
    id: str
    object: Literal["adapter"] = "adapter"
    deleted: bool = True
