"""How a child process is started: its command line and its environment."""

import os
import sys
from pathlib import Path

from app.contracts.cores import sharing_cores
from app.jobs.states import Stage

TRAINER = "worker.training"


def command(stage: Stage, order: Path, trainer: str = TRAINER) -> list[str]:
    """`trainer` is the module that trains."""
    return [sys.executable, "-m", "worker.checking" if stage is Stage.CHECK else trainer, str(order)]


def environment(cache: Path, *, is_offline: bool) -> dict[str, str]:
    """The worker's own environment, and what keeps libraries from calling home or writing where they should not.

    `is_offline` for a training on a local model: nothing of it is on the hub.
    """
    return {
        **os.environ,
        **sharing_cores(os.environ),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        **({"HF_HUB_OFFLINE": "1"} if is_offline else {}),
    }
