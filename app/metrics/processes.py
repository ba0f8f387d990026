"""Lets several API processes count together: each writes to files of its own in one folder.

prometheus-client chooses this mode by a variable when it is imported, so `app.serve` sets it before that.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "tunesmith-metrics-"


@contextmanager
def counting_together(processes: int) -> Iterator[None]:
    """Make the folder of the files, for the processes that this one starts. One process alone needs none."""
    os.environ.pop(VARIABLE, None)
    if processes == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:  # it is no part of the home, which hosts may share
        os.environ[VARIABLE] = folder
        yield


def shared_folder() -> Path | None:
    """Return the folder in which the processes count, or None if this one counts alone."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else None


def remove_shared_folder() -> None:
    """Remove the folder. What processes that still run count from then on is lost."""
    folder = shared_folder()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def forget_dead(folder: Path) -> None:
    """Remove what processes that have ended counted as open. All else that they counted is kept."""
    for file in folder.glob("gauge_live*_*.db"):
        if not Path("/proc", file.stem.rpartition("_")[2]).exists():
            file.unlink(missing_ok=True)
