"""Finds this host's GPU through `nvidia-smi`, without importing torch."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from app.contracts.devices import CPU


@dataclass(frozen=True)
class Gpu:
    """The GPU that a training of this process uses, and its free memory."""

    uuid: str
    free_bytes: int


@cache
def describe_device() -> str:
    """`NVIDIA H100 80GB HBM3, 81559 MiB` of the first GPU, or `cpu (x86_64)`."""
    return _query("name,memory.total") or f"{CPU} ({platform.machine()})"


def find_slot() -> str:
    """The name of the slot that a training of this process uses: the UUID of the first visible GPU, or `cpu`."""
    return _query("uuid") or CPU


def measure_gpu() -> Gpu | None:
    """The first visible GPU. Returns None if there is none."""
    response = _query("uuid,memory.free")
    if response is None:
        return None
    uuid, free = response.split(", ")
    return Gpu(uuid, int(free.removesuffix(" MiB")) * 2**20)


def _query(fields: str) -> str | None:
    """These properties of the first GPU in CUDA_VISIBLE_DEVICES. Returns None if there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    chosen = ["-i", visible] if visible else []
    query = ["nvidia-smi", *chosen, f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None
