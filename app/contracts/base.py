"""What every message between two processes has in common: frozen, bounded, and closed to unknown keys."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Contract(BaseModel):
    """A value that crosses a process boundary. Unknown keys, NaN and infinity are refused at every level."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number, not true or false")
    return value


# pydantic takes `true` for 1; a rank of `true` is a mistake and is refused.
Whole = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]
