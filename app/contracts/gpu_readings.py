"""What a worker measures of a GPU, in the form in which it is stored and shown."""

from pydantic import Field

from app.contracts.base import Contract


class GpuReading(Contract):
    """One GPU at one moment. What the device does not tell is null."""

    gpu: str = Field(description="its UUID")
    name: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization: float | None = Field(None, description="share of the last moments in which it computed, 0 to 1")
    temperature_celsius: float | None = None
    power_watts: float | None = None
