"""Reads the figures of every step from the device without making the device wait.

On a GPU the values of a step are copied while the next step is computed, and read after that one. On a CPU they are
available at once.
"""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

Value: TypeAlias = float | torch.Tensor


@dataclass(frozen=True)
class StepFigures:
    """One optimizer step. `loss` and `grad_norm` may be NaN or infinite; `tokens` counts from the first step on.

    `is_logged`: whether it is a point of the metrics.
    """

    step: int
    epoch: float
    learning_rate: float | None
    loss: float
    grad_norm: float | None
    tokens: int
    is_logged: bool = False


@dataclass
class _Copied:
    """Values that are being copied to the CPU. `done`: the event after the copy; None on a CPU.

    `figures` lacks them. `has_grad_norm`: whether the second value means anything.
    """

    figures: StepFigures
    has_grad_norm: bool
    values: torch.Tensor
    done: torch.cuda.Event | None

    def read(self) -> StepFigures:
        if self.done is not None:
            self.done.synchronize()
        loss, grad_norm, tokens = self.values.tolist()
        return replace(self.figures, loss=loss, grad_norm=grad_norm if self.has_grad_norm else None, tokens=int(tokens))


@dataclass
class StepReader:
    """Adds up the micro-batches of a step on their device. `tokens`: the count up to the checkpoint, if any."""

    tokens: int | torch.Tensor = 0
    _loss: Value = 0.0
    _pending: _Copied | None = field(default=None, repr=False)

    def add(self, loss: torch.Tensor, tokens: int | torch.Tensor) -> None:
        """Add a micro-batch: its part of the step's loss, and its number of tokens without padding."""
        self._loss = self._loss + loss.detach().float()
        self.tokens = self.tokens + tokens

    def end_step(self, known: StepFigures, grad_norm: Value | None) -> StepFigures | None:
        """Close the step and return the newest available figures: this step's on a CPU, the previous one's on a GPU.

        `known`: what is known of the step without reading from the device.
        """
        values = (self._loss, 0.0 if grad_norm is None else grad_norm, self.tokens)
        copied, done = _copy(values)
        self._loss = 0.0
        before = self.read_last()
        self._pending = _Copied(known, grad_norm is not None, copied, done)
        return before if done is not None else self.read_last()

    def read_last(self) -> StepFigures | None:
        """The figures of the last step, or None if they were returned before. Waits for the device."""
        pending, self._pending = self._pending, None
        return pending.read() if pending is not None else None


def _copy(values: tuple[Value, ...]) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Copy values to the CPU as float64, which is exact for every count of tokens. If they come from a GPU, they are
    valid only after the returned event."""
    device = next((value.device for value in values if isinstance(value, torch.Tensor) and value.is_cuda), None)
    if device is None:
        return torch.tensor([float(value) for value in values], dtype=torch.float64), None
    on_device = torch.stack([_on(device, value) for value in values])
    copied = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
    copied.copy_(on_device, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return copied, done


def _on(device: torch.device, value: Value) -> torch.Tensor:
    """A float64 scalar on the device. A number is filled in by a kernel: copying it would wait for the GPU's queue."""
    if isinstance(value, torch.Tensor) and value.is_cuda:
        return value.to(torch.float64)
    return torch.full((), float(value), dtype=torch.float64, device=device)
