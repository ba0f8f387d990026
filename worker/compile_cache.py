"""Where the kernels that trainings compile are kept for later ones: a folder for each set of libraries and each device.

Another version of a library, or another device, begins with an empty folder. Two trainings may use one folder at once:
torch and Triton write a file beside its place and rename it, and Unsloth runs the text that it has made itself.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from worker.confinement.process import CACHE_VARIABLES

LIBRARIES = ("torch", "triton", "unsloth", "unsloth_zoo", "transformers", "trl")
# A folder with which no training has begun for so long is removed: longer than a training may take that still uses it.
KEPT_SECONDS = 30 * 86_400.0
CPU_PROPERTIES = ("model name", "flags", "CPU part", "Features")


def compile_folder(cache_folder: Path, device: str) -> Path:
    """The folder for the installed libraries and a device, by the name that `describe_device` gives it."""
    libraries = {library: _version(library) for library in LIBRARIES}
    text = json.dumps([sys.version, libraries, device, _processor()], sort_keys=True)
    return cache_folder / "compiled" / hashlib.sha256(text.encode()).hexdigest()[:16]


def compile_variables(folder: Path) -> dict[str, str]:
    """The variables that let libraries keep what they compile in the folder, and nowhere else.

    Unsloth's own cache would put pickles into the user's home, with copies of what torch keeps already.
    """
    return {**{variable: str(folder / name) for variable, name in CACHE_VARIABLES.items()}, "UNSLOTH_MEGA_CACHE": "0"}


def keep_only(folder: Path, now: float | None = None) -> None:
    """Make the folder, mark it as used, and remove those beside it that were not marked for KEPT_SECONDS."""
    oldest = (time.time() if now is None else now) - KEPT_SECONDS
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in folder.parent.iterdir():
        with suppress(FileNotFoundError):  # another worker removes it too
            if other != folder and other.stat().st_mtime < oldest:
                shutil.rmtree(other, ignore_errors=True)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cache
def _processor() -> list[str]:
    """What this host's first processor is and can do. Kernels for a CPU are made for exactly that."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        return [line for line in first.splitlines() if line.startswith(CPU_PROPERTIES)]
    return []
