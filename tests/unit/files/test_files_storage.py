"""What a killed upload leaves on the disk is swept, and nothing else."""

import os
import time
from pathlib import Path

from app.files.storage import partial_path, sweep_partials


def a_file(path: Path, age_seconds: float) -> Path:
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def test_only_old_partial_files_are_swept(tmp_path: Path) -> None:
    old = a_file(partial_path(tmp_path / "file-a"), age_seconds=100)
    young = a_file(partial_path(tmp_path / "file-b"), age_seconds=10)
    whole = a_file(tmp_path / "file-c", age_seconds=100)

    assert sweep_partials(tmp_path, older_than_seconds=50) == 1
    assert [path.exists() for path in (old, young, whole)] == [False, True, True]


def test_a_folder_that_is_not_there_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep_partials(tmp_path / "files", older_than_seconds=0) == 0
