"""What device this host has, found without importing torch."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass

from app.jobs.models import CPU


@dataclass(frozen=True)
class Gpu:
    """The GPU that a training of this process uses, and the memory of it that nobody has."""

    uuid: str
    free_bytes: int


def describe_device() -> str:
    """`NVIDIA H100 80GB HBM3, 81559 MiB` of the first GPU, or `cpu (x86_64)`."""
    return _ask("name,memory.total") or f"{CPU} ({platform.machine()})"


def find_slot() -> str:
    """What one training of this process occupies: the UUID of the GPU that it sees first, or `cpu`."""
    return _ask("uuid") or CPU


def measure_gpu() -> Gpu | None:
    """None where there is none."""
    answer = _ask("uuid,memory.free")
    if answer is None:
        return None
    uuid, free = answer.split(", ")
    return Gpu(uuid, int(free.removesuffix(" MiB")) * 2**20)


def _ask(fields: str) -> str | None:
    """The answer for the first GPU that CUDA_VISIBLE_DEVICES leaves; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    chosen = ["-i", visible] if visible else []
    query = ["nvidia-smi", *chosen, f"--query-gpu={fields}", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout.strip() else None
