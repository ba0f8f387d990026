"""What a worker measures of its GPUs, as far as `nvidia-smi` tells, and how it reaches the worker's row."""

import threading
from pathlib import Path

import pytest

from app.database.connection import Database
from app.jobs import repository
from tests.support.gpus import pretend_gpu
from tests.support.waiting import wait_for
from tests.support.workers import a_context, settings_of
from worker.hardware import read_gpus
from worker.supervising.gpu_readings import GpuReadings
from worker.supervising.reconciler import Reconciler

LINE = "GPU-1, NVIDIA H200, 1024 MiB, 2048 MiB, 50 %, 61, 312.50 W"
GIB = 2**30


def test_a_gpu_tells_memory_use_heat_and_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(tmp_path / "bin", monkeypatch, LINE)

    (found,) = read_gpus()

    assert (found.gpu, found.name) == ("GPU-1", "NVIDIA H200")
    assert (found.memory_used_bytes, found.memory_total_bytes) == (GIB, 2 * GIB)
    assert (found.utilization, found.temperature_celsius, found.power_watts) == (0.5, 61, 312.5)


def test_what_a_device_does_not_have_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(tmp_path / "bin", monkeypatch, "GPU-1, A, 1024 MiB, 2048 MiB, [N/A], 61, [Not Supported]")

    (found,) = read_gpus()

    assert (found.utilization, found.temperature_celsius, found.power_watts) == (None, 61, None)


def test_readings_are_kept_with_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    pretend_gpu(tmp_path / "bin", monkeypatch, LINE)
    context = a_context(settings_of(tmp_path / "home"), database)
    measure = threading.Thread(target=context.gpu_readings.keep_reading, args=(context.stopping,))
    measure.start()
    wait_for("it has measured", context.gpu_readings.newest)

    Reconciler(context).round()
    context.stopping.set()
    measure.join()

    with database.reader() as session:
        (worker,) = repository.workers(session)
    assert worker.gpu_readings == [read_gpus()[0].model_dump()]


def test_a_host_without_a_gpu_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    readings = GpuReadings()
    readings.keep_reading(threading.Event())

    assert readings.newest() == []


def test_gpus_that_fail_are_asked_again_and_have_no_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(tmp_path / "bin", monkeypatch, "Unable to determine the device handle")
    readings, stopping = GpuReadings(), threading.Event()
    measure = threading.Thread(target=readings.keep_reading, args=(stopping,))

    measure.start()
    stopping.set()
    measure.join()

    assert readings.newest() == []
