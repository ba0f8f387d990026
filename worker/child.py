"""How a child process is started: its command line and its environment."""

import sys
from pathlib import Path

from app.contracts.cores import sharing_cores
from app.processes.environments import Process, for_child
from worker.compile_cache import compile_folder, compile_variables
from worker.hardware import describe_device, find_slots

CHECKER = "worker.checking"
TRAINER = "worker.training"
SPARE = "worker.training.spare"
FETCHER = "worker.fetching"
# With these the hub's client opens no connection and looks for no token in files.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
# With these numpy's, scipy's and pyarrow's libraries start no threads when they are imported: only a process with one
# thread can be confined (`worker.confinement.process`), and a warm spare is confined after its imports.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


def command(module: str, order: Path) -> list[str]:
    """The command line of a child process: a Python module and its order."""
    return [sys.executable, "-m", module, str(order)]


def environment(process: Process, cache: Path) -> dict[str, str]:
    """The child's environment: what it needs of the worker's (`app.processes.environments`), and settings that keep
    libraries from sending statistics and from writing outside `cache`.

    A training opens no connection: whatever it needs from the hub was downloaded before. What it compiles is kept for
    later trainings.
    """
    inherited = for_child(process)
    return {
        **inherited,
        **sharing_cores(inherited),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_PADDING_CHOICE": "padding_free",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        **(_of_training(cache) if process is Process.TRAIN else {}),
    }


def _of_training(cache: Path) -> dict[str, str]:
    """Libraries see one GPU, because some of them spread a model over all that they see."""
    slots = [*find_slots()]
    first = {"CUDA_VISIBLE_DEVICES": slots[0]} if len(slots) > 1 else {}
    return {**OFFLINE, **ONE_THREAD, **first, **compile_variables(compile_folder(cache, describe_device()))}
