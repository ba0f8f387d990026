"""The figures of every step, read off the device without making it wait.

On a GPU the values of a step are copied while the next step is computed and read behind that one; on a CPU they are
there at once.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import torch

Value: TypeAlias = float | torch.Tensor


@dataclass(frozen=True)
class StepFigures:
    """One optimizer step. `loss` and `grad_norm` may be no finite numbers; `tokens` counts since the first step."""

    step: int
    epoch: float
    learning_rate: float | None
    loss: float
    grad_norm: float | None
    tokens: int


@dataclass
class _Copied:
    """Values on their way to the CPU; `done` is set behind the copy on a GPU."""

    step: int
    epoch: float
    learning_rate: float | None
    has_grad_norm: bool
    values: torch.Tensor
    done: torch.cuda.Event | None

    def read(self) -> StepFigures:
        if self.done is not None:
            self.done.synchronize()
        loss, grad_norm, tokens = self.values.tolist()
        return StepFigures(
            step=self.step,
            epoch=self.epoch,
            learning_rate=self.learning_rate,
            loss=loss,
            grad_norm=grad_norm if self.has_grad_norm else None,
            tokens=int(tokens),
        )


@dataclass
class StepReader:
    """Adds up the micro-batches of a step on their device. `tokens` goes on counting behind a checkpoint."""

    tokens: int | torch.Tensor = 0
    _loss: Value = 0.0
    _waiting: _Copied | None = field(default=None, repr=False)

    def add(self, loss: torch.Tensor, tokens: int | torch.Tensor) -> None:
        """A micro-batch: its part of the step's loss, and its tokens, padding left out."""
        self._loss = self._loss + loss.detach().float()
        self.tokens = self.tokens + tokens

    def end_step(
        self, step: int, epoch: float, learning_rate: float | None, grad_norm: Value | None
    ) -> StepFigures | None:
        """The newest figures that are there: on a CPU of this step, on a GPU of the step before."""
        values = (self._loss, 0.0 if grad_norm is None else grad_norm, self.tokens)
        copied, done = _copy(values)
        self._loss = 0.0
        before = self.read_last()
        self._waiting = _Copied(step, epoch, learning_rate, grad_norm is not None, copied, done)
        return before if done is not None else self.read_last()

    def read_last(self) -> StepFigures | None:
        """The figures of the last step, once; waits for the device."""
        waiting, self._waiting = self._waiting, None
        return waiting.read() if waiting is not None else None


def _copy(values: tuple[Value, ...]) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """On the CPU as float64, which holds every count of tokens; behind the event where they come from a GPU."""
    device = next((value.device for value in values if isinstance(value, torch.Tensor) and value.is_cuda), None)
    if device is None:
        return torch.tensor([float(value) for value in values], dtype=torch.float64), None
    there = torch.stack([_on(device, value) for value in values])
    copied = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
    copied.copy_(there, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return copied, done


def _on(device: torch.device, value: Value) -> torch.Tensor:
    """A number is written by a kernel: a copy from the CPU would wait for all that the GPU has to do."""
    if isinstance(value, torch.Tensor) and value.is_cuda:
        return value.to(torch.float64)
    return torch.full((), float(value), dtype=torch.float64, device=device)
