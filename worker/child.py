"""How a child process is started: its command line and its environment."""

import sys
from pathlib import Path

from app.contracts.cores import sharing_cores
from app.processes.environments import Process, for_child

CHECKER = "worker.checking"
TRAINER = "worker.training"
FETCHER = "worker.fetching"
# With these the hub's client opens no connection and looks for no token in files.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def command(module: str, order: Path) -> list[str]:
    """The command line of a child process: a Python module and its order."""
    return [sys.executable, "-m", module, str(order)]


def environment(process: Process, cache: Path) -> dict[str, str]:
    """The child's environment: what it needs of the worker's (`app.processes.environments`), and settings that keep
    libraries from sending statistics and from writing outside `cache`.

    A training opens no connection: whatever it needs from the hub was downloaded before.
    """
    inherited = for_child(process)
    return {
        **inherited,
        **sharing_cores(inherited),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_PADDING_CHOICE": "padding_free",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        **(OFFLINE if process is Process.TRAIN else {}),
    }
