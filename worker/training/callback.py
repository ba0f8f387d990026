"""Reports each logging step and evaluation as an event, and ends a run whose loss is no number."""

import math
import resource
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from app.contracts.events import Evaluated, Phase, StepLogged
from worker.events import EventWriter
from worker.failures import UserError
from worker.training.progress import Progress

# Loss scaling in fp16 may skip a step or two; more in a row and nothing is learned.
NON_FINITE_STEPS = 3


class EventCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps the last figures for the attempt's closing event."""

    def __init__(self, events: EventWriter) -> None:
        self._events = events
        self._started = 0.0
        self._step_before: tuple[float, int] | None = None
        self.bad_steps = 0
        self._counted: int | torch.Tensor = 0
        self._seconds_before = 0.0
        self.final_loss: float | None = None

    @property
    def tokens(self) -> int:
        """All that went through the model, over all attempts; waits for the device."""
        return int(self._counted)

    @property
    def seconds(self) -> float:
        """Of training, over all attempts."""
        return self._seconds_before + time.monotonic() - self._started

    def restore(self, progress: Progress) -> None:
        """Go on counting behind a checkpoint."""
        self._counted = progress.tokens
        self._seconds_before = progress.seconds
        self.final_loss = progress.final_loss
        self.bad_steps = progress.bad_steps

    def count(self, tokens: int | torch.Tensor) -> None:
        """Add the tokens of a micro-batch, padding left out; a tensor stays on its device until a step is logged."""
        self._counted = self._counted + tokens

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._events.enter(Phase.TRAIN)
        self._started = time.monotonic()
        self._step_before = (self._started, self.tokens)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs or self._step_before is None:
            return
        now = time.monotonic()
        then, tokens_then = self._step_before
        tokens = self.tokens
        self._step_before = (now, tokens)
        self.final_loss = finite(logs["loss"])
        self._events.write(
            StepLogged(
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=round(float(state.epoch or 0.0), 4),
                loss=self.final_loss,
                learning_rate=finite(logs.get("learning_rate")),
                grad_norm=finite(logs.get("grad_norm")),
                tokens=tokens,
                tokens_per_second=round((tokens - tokens_then) / max(now - then, 1e-9), 1),
                seconds=round(self.seconds, 3),
                memory_bytes=peak_memory(),
                gpu_memory_bytes=peak_gpu_memory(),
            )
        )
        self._stop_if_lost(state.global_step, logs)

    def _stop_if_lost(self, step: int, logs: dict[str, Any]) -> None:
        is_lost = self.final_loss is None or ("grad_norm" in logs and finite(logs["grad_norm"]) is None)
        self.bad_steps = self.bad_steps + 1 if is_lost else 0
        if self.bad_steps >= NON_FINITE_STEPS:
            raise UserError(
                "loss_not_finite",
                f"loss or gradient norm was not finite in {NON_FINITE_STEPS} logged steps in a row, up to step {step}",
                hint="a lower learning_rate, or bf16 in place of fp16, usually helps",
                param="training.learning_rate",
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_evaluate:
            self._events.enter(Phase.EVAL)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        metrics = metrics or {}
        loss, seconds = finite(metrics.get("eval_loss")), metrics.get("eval_runtime", 0.0)
        self._events.write(Evaluated(step=state.global_step, eval_loss=loss, eval_seconds=round(seconds, 3)))
        if state.global_step < state.max_steps:
            self._events.enter(Phase.TRAIN)


def finite(value: Any) -> float | None:
    """The number, or None where there is none: JSON knows neither NaN nor infinity."""
    return float(value) if value is not None and math.isfinite(float(value)) else None


def peak_memory() -> int:
    """Bytes: the most that the GPU held for this process, or that the process was resident with."""
    return peak_gpu_memory() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_gpu_memory() -> int | None:
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
