"""What the adapter routes answer."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.adapters.models import Adapter
from app.contracts.variant import BaseVariant


class AdapterView(BaseModel):
    """A trained adapter. `name` is what `POST /generate` answers as its model; it never means another content."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["adapter"] = "adapter"
    id: str
    version: str
    name: str
    job_id: str
    kind: Literal["lora", "full"]
    base_model: str
    base_revision: str | None
    base_variant: BaseVariant | None
    base_scaled_to: int | None
    rank: int | None
    bytes: int
    created_at: datetime


class AdapterPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[AdapterView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, adapters: list[Adapter], has_more: bool) -> "AdapterPage":
        shown = [AdapterView.model_validate(adapter) for adapter in adapters]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)


class AdapterDeleted(BaseModel):
    id: str
    object: Literal["adapter"] = "adapter"
    deleted: bool = True
