"""Finds this host's GPU through `nvidia-smi`, without importing torch."""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from app.contracts.devices import CPU
from app.contracts.gpu_readings import GpuReading

READINGS = "uuid,name,memory.used,memory.total,utilization.gpu,temperature.gpu,power.draw"


@dataclass(frozen=True)
class Gpu:
    """The GPU that a training of this process uses, and its free memory."""

    uuid: str
    free_bytes: int


@cache
def describe_device() -> str:
    """`NVIDIA H100 80GB HBM3, 81559 MiB` of the first GPU, or `cpu (x86_64)`."""
    return _query("name,memory.total") or f"{CPU} ({platform.machine()})"


def find_slots() -> dict[str, str]:
    """The slots that trainings of this process may use, by the names of their GPUs in CUDA_VISIBLE_DEVICES.

    A slot's name is the UUID of its GPU, or `cpu`; the first one is that of a training on one GPU.
    """
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        return {uuid: uuid for uuid in _ask("uuid", ())} or {CPU: CPU}
    found = {name: _ask("uuid", ("-i", name)) for name in visible_gpus()}
    return {name: uuids[0] for name, uuids in found.items() if uuids} or {CPU: CPU}


def visible_gpus() -> tuple[str, ...]:
    """The names in CUDA_VISIBLE_DEVICES. Empty: it does not restrict which GPUs are visible."""
    return tuple(filter(None, (name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))))


def measure_gpu(name: str | None = None) -> Gpu | None:
    """The GPU of that name, or the first visible one. Returns None if there is none."""
    response = _query("uuid,memory.free", name)
    if response is None:
        return None
    uuid, free = response.split(", ")
    return Gpu(uuid, int(free.removesuffix(" MiB")) * 2**20)


def read_gpus() -> list[GpuReading]:
    """What each visible GPU measures now. Empty if there is none."""
    visible = visible_gpus()
    return [_reading(line) for line in _ask(READINGS, ("-i", ",".join(visible)) if visible else ())]


def _reading(line: str) -> GpuReading:
    """Read one line of `nvidia-smi`. What a device does not have is `[N/A]` there."""
    uuid, name, *values = line.split(", ")
    used, total, busy, temperature, power = map(_number, values)
    return GpuReading(
        gpu=uuid,
        name=name,
        memory_used_bytes=int(used * 2**20) if used is not None else None,
        memory_total_bytes=int(total * 2**20) if total is not None else None,
        utilization=busy / 100 if busy is not None else None,
        temperature_celsius=temperature,
        power_watts=power,
    )


def _number(value: str) -> float | None:
    """Return the number before a unit, as in `1234 MiB`."""
    try:
        return float(value.split()[0])
    except (ValueError, IndexError):
        return None


def _query(fields: str, name: str | None = None) -> str | None:
    """These properties of the GPU of that name, or of the first one in CUDA_VISIBLE_DEVICES. None: there is none."""
    chosen = (name,) if name is not None else visible_gpus()[:1]
    return next(iter(_ask(fields, ("-i", *chosen) if chosen else ())), None)


def _ask(fields: str, chosen: Sequence[str]) -> list[str]:
    """These properties of the chosen GPUs, one a line."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", *chosen, f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
