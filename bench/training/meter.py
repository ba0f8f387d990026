"""Measures the optimizer steps of this process, whoever trains, by the hook that torch calls behind each of them.

On a GPU it records an event behind each step, so that no step waits for a measurement.
"""

import time
from itertools import pairwise
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile

from bench.training.contracts import StepProfile

LISTED_KERNELS = 12


class StepMeter:
    """Times and peaks of a training of `steps` steps. The last step is profiled if `has_profile`."""

    def __init__(self, steps: int, *, has_profile: bool) -> None:
        self._steps, self._has_profile = steps, has_profile
        self._is_gpu = torch.cuda.is_available()
        self._moments: list[Any] = []
        self._profiler: profile | None = None
        self.first_step_at = 0.0
        self.allocated_bytes = self.reserved_bytes = 0
        register_optimizer_step_post_hook(self._end_step)

    @property
    def seconds(self) -> list[float]:
        """The seconds from the end of each step to the end of the next one: one less than steps."""
        if not self._is_gpu:
            return [later - sooner for sooner, later in pairwise(self._moments)]
        torch.cuda.synchronize()
        return [sooner.elapsed_time(later) / 1000 for sooner, later in pairwise(self._moments)]

    def profile(self) -> StepProfile | None:
        """The profile of the last step, if there is one."""
        if self._profiler is None:
            return None
        found = _device_events(self._profiler) if self._is_gpu else _cpu_events(self._profiler)
        found.sort(key=lambda each: -each[1])
        return StepProfile(
            is_gpu=self._is_gpu,
            busy_seconds=sum(microseconds for _, microseconds, _ in found) / 1e6,
            kernel_count=sum(count for *_, count in found),
            top_kernels=[(name[:80], round(us / 1000, 3), count) for name, us, count in found[:LISTED_KERNELS]],
        )

    def _end_step(self, *_: Any) -> None:
        self._moments.append(self._now())
        done = len(self._moments)
        if done == 1:
            self.first_step_at = time.time()
        if self._is_gpu:
            self.allocated_bytes = max(self.allocated_bytes, torch.cuda.max_memory_allocated())
            self.reserved_bytes = max(self.reserved_bytes, torch.cuda.max_memory_reserved())
        if self._has_profile and done == self._steps - 1:
            self._begin_profile()
        elif self._profiler is not None and done == self._steps:
            self._wait()
            self._profiler.stop()

    def _begin_profile(self) -> None:
        activities = [ProfilerActivity.CUDA if self._is_gpu else ProfilerActivity.CPU]
        self._wait()
        self._profiler = profile(activities=activities)
        self._profiler.start()

    def _now(self) -> Any:
        if not self._is_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _wait(self) -> None:
        if self._is_gpu:
            torch.cuda.synchronize()


def _device_events(profiler: profile) -> list[tuple[str, float, int]]:
    """Kernels and copies: name, microseconds and count. Ranges that a program has named would count them twice."""
    return [
        (event.key, event.self_device_time_total, event.count)
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]


def _cpu_events(profiler: profile) -> list[tuple[str, float, int]]:
    return [(event.key, event.self_cpu_time_total, event.count) for event in profiler.key_averages()]
