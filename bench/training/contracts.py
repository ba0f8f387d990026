"""What `bench.train` tells a rival's process, and what that process reports, as JSON files."""

from pathlib import Path
from typing import Any, Literal

from app.contracts.base import Contract

# The rank of LoRA, as on the page.
RANK = 16
Runner = Literal["page_script", "stock_script", "own_job"]
# What a micro-batch is: as the page has it, or all rows of a step at once without recomputation.
Batching = Literal["page", "wide"]


class Rival(Contract):
    """One way to train. `runner` is the module of this package that does it."""

    name: str
    runner: Runner
    bits: Literal[4, 16]
    batching: Batching = "page"
    has_liger: bool = False
    has_fused_head: bool = True
    layout: Literal["auto", "as_given"] | None = None


class Workload(Contract):
    """What every rival trains on. `model` has its tokenizer too.

    A step has `micro_batch` times `accumulation` rows, as the page counts them.
    """

    model: Path
    rows: Path
    max_tokens: int
    micro_batch: int
    accumulation: int
    steps: int


class RunOrder(Contract):
    """One run of a rival. `has_profile`: whether its last step is profiled. `devices`: of each rank; none on a CPU."""

    rival: Rival
    workload: Workload
    folder: Path
    cache: Path
    has_profile: bool = False
    gpus: int = 1
    devices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.rival.name if self.gpus == 1 else f"{self.rival.name}-x{self.gpus}"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def micro_batch(self) -> int:
        rows = self.workload.micro_batch * self.workload.accumulation
        return rows if self.rival.batching == "wide" else self.workload.micro_batch

    @property
    def accumulation(self) -> int:
        return 1 if self.rival.batching == "wide" else self.workload.accumulation


class MeasuredStep(Contract):
    """An optimizer step. `seconds`: since the end of the step before it; `tokens`: without padding."""

    seconds: float
    tokens: int
    loss: float | None


class StepProfile(Contract):
    """What the device computed in one step. `top_kernels`: name, milliseconds and count of those that took longest."""

    is_gpu: bool
    busy_seconds: float
    kernel_count: int
    top_kernels: list[tuple[str, float, int]]


class RunResult(Contract):
    """What a run measured. `first_step`: seconds from the beginning of the training to its first optimizer step.

    `steps` has the second step and all later ones. Bytes are the peaks of PyTorch's allocator up to the last step;
    null without a GPU. `reports`: what a job reported of its own choices. `failed` is null unless the run has failed.
    """

    import_seconds: float = 0.0
    load_seconds: float = 0.0
    first_step_seconds: float = 0.0
    first_step_tokens: int = 0
    first_loss: float | None = None
    steps: list[MeasuredStep] = []
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    host_bytes: int = 0
    profile: StepProfile | None = None
    reports: list[dict[str, Any]] = []
    failed: str | None = None
