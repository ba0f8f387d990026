"""Reports steps and evaluations as events, and ends a training whose loss is not finite."""

import math
import resource
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from app.contracts.events import Evaluated, Phase, StepLogged, StepTaken
from worker.events import EventWriter
from worker.failures import UserError
from worker.training.progress import StepCounters
from worker.training.steps import StepFigures, StepReader
from worker.training.tracking import Trackers

# Loss scaling in fp16 may skip a step or two; if more in a row are not finite, the model learns nothing.
NON_FINITE_STEPS = 3
SECONDS_BETWEEN_EVENTS = 1.0
# What trackers are told of a point of the metrics, besides the figures of the method.
TRACKED = {"loss", "learning_rate", "grad_norm", "epoch", "tokens", "tokens_per_second"}
# The first steps compile; a speed is measured over as many as these at least.
STEPS_TO_WARM_UP, FEWEST_STEPS_FOR_SPEED = 5, 25


@dataclass(frozen=True)
class Window:
    """The steps since the last point of the metrics: the sum of their losses, and how many they are."""

    loss: float = 0.0
    steps: int = 0

    def with_step(self, loss: float) -> "Window":
        return Window(self.loss + loss, self.steps + 1)

    @property
    def mean(self) -> float:
        return self.loss / max(1, self.steps)


class EventCallback(TrainerCallback):  # type: ignore[misc]
    """Writes the events of a training, and keeps the last figures for the attempt's closing event.

    On a GPU the events of a step are written after the next one has been launched, so that the GPU never waits.
    """

    def __init__(self, events: EventWriter, metrics: Collection[str] = (), trackers: Trackers | None = None) -> None:
        self._events, self._metrics, self._trackers = events, metrics, trackers
        self._started = 0.0
        self._logged: tuple[float, int] = (0.0, 0)
        self._reported_at = 0.0
        self._steps = StepReader()
        self._last_step: StepFigures | None = None
        self._window = Window()
        self._warm: tuple[float, int] | None = None
        self._recorded = self._total_steps = 0
        self.bad_steps = 0
        self._seconds_before = 0.0
        self.final_loss: float | None = None
        # Whether the trainer logs its points by itself: its method may have metrics of its own.
        self.awaits_logs = True

    @property
    def tokens(self) -> int:
        """The number of trained tokens over all attempts. Reading it waits for the device."""
        return int(self._steps.tokens)

    @property
    def seconds(self) -> float:
        """The seconds of training over all attempts."""
        return self._seconds_before + time.monotonic() - self._started

    @property
    def warm_speed(self) -> tuple[int, float] | None:
        """The tokens and the seconds of this attempt's steps after the first ones. None: it took too few steps."""
        if self._warm is None or self._recorded < FEWEST_STEPS_FOR_SPEED:
            return None
        began, tokens = self._warm
        return self.tokens - tokens, time.monotonic() - began

    @property
    def window_loss(self) -> float:
        """The sum of the losses since the last point of the metrics."""
        return self._window.loss

    def restore(self, progress: StepCounters) -> None:
        """Continue counting from the counters of a checkpoint."""
        self._steps = StepReader(tokens=progress.tokens)
        self._seconds_before = progress.seconds
        self.final_loss = progress.final_loss
        self.bad_steps = progress.bad_steps
        self._window = Window(progress.window_loss, progress.step - progress.logged_step)

    def count(self, loss: torch.Tensor, tokens: int | torch.Tensor) -> None:
        """Add a micro-batch: its loss and its number of tokens without padding. Tensors stay on their device."""
        self._steps.add(loss, tokens)

    def end_step(
        self,
        state: TrainerState,
        learning_rate: float | None,
        grad_norm: float | torch.Tensor | None,
        *,
        is_logged: bool,
    ) -> None:
        """Record a step, and report the newest one whose figures are known.

        Raises UserError if loss or gradient norm was not finite in NON_FINITE_STEPS steps in a row.
        """
        self._total_steps = state.max_steps
        known = StepFigures(
            step=state.global_step,
            epoch=float(state.epoch or 0.0),
            learning_rate=learning_rate,
            loss=math.nan,
            grad_norm=None,
            tokens=0,
            is_logged=is_logged,
        )
        self._record(self._steps.end_step(known, grad_norm))
        if not (is_logged and self.awaits_logs):
            self._stop_if_lost()

    def end_early(self, state: TrainerState) -> None:
        """Report the last step once more: now it is known to be the last one."""
        self._record(self._steps.read_last())
        self._total_steps = state.max_steps
        now_last = self._last_step or StepFigures(
            step=state.global_step,
            epoch=float(state.epoch or 0.0),
            learning_rate=None,
            loss=math.nan if self.final_loss is None else self.final_loss,
            grad_norm=None,
            tokens=self.tokens,
        )
        self._events.write(StepTaken(**self._event_fields(now_last)))

    def catch_up(self) -> None:
        """Wait for the figures of all steps, record and report them. Raises UserError as `end_step` does."""
        self._record(self._steps.read_last())
        self._stop_if_lost()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._events.enter(Phase.EVAL if args.eval_on_start else Phase.TRAIN)
        self._started = time.monotonic()
        self._logged = (self._started, self.tokens)
        if self._trackers is not None:
            self._trackers.begin(args, state, control)

    def on_train_end(self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        self.catch_up()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs or not self.awaits_logs:
            return
        self._record(self._steps.read_last())
        if self._last_step is not None:
            self._log_point(self._last_step, self._metrics_of(logs))
        self._stop_if_lost()

    def _log_point(self, figures: StepFigures, metrics: dict[str, float]) -> None:
        """Report a point of the metrics: the mean loss of the steps since the last one."""
        mean = replace(figures, loss=self._window.mean)
        self._window = Window()
        event = StepLogged(**self._event_fields(mean), metrics=metrics)
        self._events.write(event)
        if self._trackers is not None:
            self._trackers.log(event.step, event.model_dump(include=TRACKED) | metrics)
        if figures.loss != mean.loss:  # progress shows the last step, not a mean
            self._events.write(StepTaken(**self._event_fields(figures)))
        self._logged = (time.monotonic(), figures.tokens)

    def _event_fields(self, figures: StepFigures) -> dict[str, Any]:
        """The fields of a step event. The speed is an average since the last logged step."""
        then, tokens_then = self._logged
        now = self._reported_at = time.monotonic()
        return {
            "step": figures.step,
            "total_steps": self._total_steps,
            "epoch": round(figures.epoch, 4),
            "loss": finite(figures.loss),
            "learning_rate": finite(figures.learning_rate),
            "grad_norm": finite(figures.grad_norm),
            "tokens": figures.tokens,
            "tokens_per_second": round((figures.tokens - tokens_then) / max(now - then, 1e-9), 1),
            "seconds": round(self.seconds, 3),
            "memory_bytes": peak_memory(),
            "gpu_memory_bytes": peak_gpu_memory(),
        }

    def _metrics_of(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """The figures of the training method that the trainer logged, without those that are not finite."""
        found = {name: finite(logs[name]) for name in self._metrics if name in logs}
        return {name: value for name, value in found.items() if value is not None}

    def _record(self, figures: StepFigures | None) -> None:
        """Take in a step, and report it unless `on_log` will do so."""
        if figures is None:
            return
        self._last_step = figures
        self._recorded += 1
        if self._recorded == STEPS_TO_WARM_UP:
            self._warm = (time.monotonic(), figures.tokens)
        self._window = self._window.with_step(figures.loss)
        self.final_loss = finite(figures.loss)
        is_lost = self.final_loss is None or (figures.grad_norm is not None and finite(figures.grad_norm) is None)
        self.bad_steps = self.bad_steps + 1 if is_lost else 0
        if figures.is_logged:
            if not self.awaits_logs:
                self._log_point(figures, {})
        elif time.monotonic() >= self._reported_at + SECONDS_BETWEEN_EVENTS:
            self._events.write(StepTaken(**self._event_fields(figures)))

    def _stop_if_lost(self) -> None:
        if self.bad_steps >= NON_FINITE_STEPS:
            step = 0 if self._last_step is None else self._last_step.step
            raise UserError(
                "loss_not_finite",
                f"loss or gradient norm was not finite in {NON_FINITE_STEPS} steps in a row, up to step {step}",
                hint="a lower learning_rate, or bf16 in place of fp16, usually helps",
                param="training.learning_rate",
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last step is logged whatever the interval is
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
        own = self._metrics_of({name.removeprefix("eval_"): value for name, value in metrics.items()})
        event = Evaluated(step=state.global_step, eval_loss=loss, eval_seconds=round(seconds, 3), metrics=own)
        self._events.write(event)
        if self._trackers is not None:
            of_method = {f"eval_{name}": value for name, value in own.items()}
            self._trackers.log(event.step, {"eval_loss": event.eval_loss, "eval_runtime": seconds, **of_method})
        if state.global_step < state.max_steps:
            self._events.enter(Phase.TRAIN)


def finite(value: Any) -> float | None:
    """The number, or None if it is missing or not finite, since JSON has neither NaN nor infinity."""
    return float(value) if value is not None and math.isfinite(float(value)) else None


def peak_memory() -> int:
    """The peak memory of this process in bytes: reserved on the GPU, or resident on a host without one."""
    return peak_gpu_memory() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_gpu_memory() -> int | None:
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
