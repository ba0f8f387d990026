"""What device this host has, found without importing torch."""

import platform
import shutil
import subprocess

from app.jobs.models import CPU

QUERY = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]


def describe_device() -> str:
    """`NVIDIA H100 80GB HBM3, 81559 MiB` of the first GPU, or `cpu (x86_64)`."""
    if shutil.which(QUERY[0]) is not None:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=False)
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.splitlines()[0].strip()
    return f"{CPU} ({platform.machine()})"
