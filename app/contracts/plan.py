"""The plan of a job: its spec with every default filled in, and with what its check has pinned.

Workers and their child processes read only the plan. What the client sent is kept beside it for display and for
idempotency, and what the libraries really used is kept as observed values.
"""

from collections.abc import Iterable

from pydantic import BaseModel, Field

from app.contracts.base import Whole
from app.contracts.spec import JobSpec, ModelSpec


class PlannedModel(ModelSpec):
    """The model group of a plan. The check pins `revision`, and may change `max_seq_length`."""

    rope_scaled_to: Whole | None = Field(
        None, ge=1, description="positions to which the check has the model's RoPE scaled; null: not scaled"
    )


class JobPlan(JobSpec):
    """A complete spec."""

    model: PlannedModel
    sent_fields: tuple[str, ...] = Field((), description="the fields that the client sent, such as training.optim")

    def is_sent(self, field: str) -> bool:
        return field in self.sent_fields

    def sent_in(self, group: str) -> set[str]:
        """Return the names of the fields of one group that the client sent."""
        return {name.partition(".")[2] for name in self.sent_fields if name.startswith(f"{group}.")}


def plan_of(spec: JobSpec) -> JobPlan:
    """Return the plan of a spec as it was sent. Nothing is pinned yet."""
    return JobPlan(**spec.model_dump(), sent_fields=tuple(sorted(_names(spec))))


def _names(sent: BaseModel, prefix: str = "") -> Iterable[str]:
    """Yield the sent fields of the spec and of its groups."""
    for name in sent.model_fields_set:
        value = getattr(sent, name)
        yield prefix + name
        if isinstance(value, BaseModel) and not prefix:
            yield from _names(value, f"{name}.")
