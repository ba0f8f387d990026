"""Measures how a training starts: imports, load, first step, and how much of that step was compiling."""

import time
from typing import Any

import torch
from transformers import TrainerCallback

from app.contracts.events import TrainingStarted
from worker.events import EventWriter
from worker.training.start import StartMoment

# The first step, and two that show how long a step takes once its kernels are compiled.
MEASURED_STEPS = 3


class StartTimer(TrainerCallback):  # type: ignore[misc]
    """Writes one event about the first steps. It is made when the imports are done."""

    def __init__(self, start: StartMoment, events: EventWriter) -> None:
        self._start, self._events = start, events
        self._imported = self._step_began = time.monotonic()
        self._loaded: float | None = None
        self._steps: list[float] = []
        self._is_written = False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if len(self._steps) < MEASURED_STEPS:
            self._step_began = time.monotonic()
            self._loaded = self._loaded or self._step_began

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if len(self._steps) < MEASURED_STEPS:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._steps.append(time.monotonic() - self._step_began)
        if len(self._steps) == MEASURED_STEPS:
            self._write()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._write()

    def _write(self) -> None:
        if self._is_written or self._loaded is None or not self._steps:
            return
        self._is_written = True
        first, *later = self._steps
        self._events.write(
            TrainingStarted(
                began_at=self._start.at,
                is_warm=self._start.is_warm,
                import_seconds=round(self._imported - self._start.began, 3),
                load_seconds=round(self._loaded - self._imported, 3),
                first_step_seconds=round(first, 3),
                compile_seconds=round(max(0.0, first - min(later)), 3) if later else None,
            )
        )
