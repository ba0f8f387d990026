"""The response of `POST /jobs/estimate`."""

from typing import Literal

from pydantic import BaseModel, Field

from app.jobs.schemas import JobError


class TrainingTokens(BaseModel):
    """What is trained on. Tokens are counted without padding, and what max_seq_length cuts off is not counted."""

    rows: int
    longest_row: int = Field(description="its tokens")
    mean_step: float = Field(description="tokens of an optimizer step")
    steps: int = Field(description="optimizer steps of the whole training")
    total: int = Field(description="tokens of all steps")


class MemoryParts(BaseModel):
    """The parts of a predicted peak in bytes, as `app/contracts/memory_model.py` counts them."""

    weights: int = Field(description="of the base")
    trained: int
    gradients: int
    optimizer: int
    fixed: int = Field(description="workspaces of libraries, and the tables of RoPE")
    activations: int
    temporary: int = Field(description="the larger of one layer's backward pass and the loss")


class LayoutView(BaseModel):
    """How the steps would be computed."""

    micro_batch_tokens: int = Field(description="the most tokens of a forward pass, padding included")
    recomputation: Literal["unsloth"] | bool = Field(description="as lora.use_gradient_checkpointing")
    bits: int = Field(description="of a weight of the base")


class WorkerEstimate(BaseModel):
    """The training on one of the known training workers. If it does not fit, the layout is the smallest one."""

    worker: str
    device: str
    device_bytes: int | None = Field(description="of its memory; null: not known, as on a CPU")
    fits: bool | None = Field(description="null: the memory of the device is not known")
    reason: str
    layout: LayoutView
    memory_bytes: int = Field(description="the predicted peak of the device's memory")
    memory_with_margin_bytes: int = Field(description="what the device has to have free")
    memory: MemoryParts
    correction: float = Field(description="share of activations and temporary memory that was measured")
    step_seconds: float | None = Field(description="of a mean step; null: the device's speed is not known")
    seconds: float | None = Field(description="of all steps, without loading, evaluations and checkpoints")


class Estimate(BaseModel):
    """What a training would need and take. If its check fails, the error says why and there is nothing else."""

    object: Literal["estimate"] = "estimate"
    valid: bool
    error: JobError | None
    tokens: TrainingTokens | None = None
    trained_parameters: int | None = Field(None, description="null: the base has an unknown form")
    adapter_bytes: int | None = Field(None, description="without its tokenizer")
    checkpoint_bytes: int | None = None
    least_memory_bytes: int | None = Field(
        None, description="with the smallest layout, its margin and what the libraries take of a GPU"
    )
    most_memory_bytes: int | None = Field(None, description="the same, if every step keeps all its activations")
    workers: list[WorkerEstimate] = []
