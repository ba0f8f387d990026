"""Measures the GPUs of a worker every few seconds, in a thread: `nvidia-smi` may take long, or never answer."""

import logging
import subprocess
import threading

from app.contracts.gpu_readings import GpuReading
from worker.hardware import read_gpus

SECONDS_BETWEEN = 5.0
log = logging.getLogger(__name__)


class GpuReadings:
    """The newest readings: none before `keep_reading` has made some, and none while the GPUs do not answer."""

    def __init__(self) -> None:
        self._newest: list[GpuReading] = []

    def newest(self) -> list[GpuReading]:
        return self._newest

    def keep_reading(self, stopping: threading.Event) -> None:
        """Measure until the event is set, or there is no GPU."""
        has_failed = False
        while not stopping.is_set():
            try:
                self._newest, has_failed = read_gpus(), False
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                self._newest = []
                if not has_failed:
                    log.warning("the GPUs could not be measured: %s", type(error).__name__)
                has_failed = True
            if not self._newest and not has_failed:
                return
            stopping.wait(SECONDS_BETWEEN)
