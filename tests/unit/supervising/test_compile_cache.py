"""Where compiled kernels are kept: apart for each set of libraries and each device, and not for ever."""

import os
from importlib.metadata import version
from pathlib import Path

import pytest

from worker.compile_cache import KEPT_SECONDS, compile_folder, compile_variables, keep_only


def test_the_same_libraries_and_device_have_the_same_folder(tmp_path: Path) -> None:
    assert compile_folder(tmp_path, "H200") == compile_folder(tmp_path, "H200")
    assert compile_folder(tmp_path, "H200") != compile_folder(tmp_path, "H100")


def test_another_version_of_a_library_begins_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compile_folder(tmp_path, "H200")
    monkeypatch.setattr("worker.compile_cache.version", lambda name: "99" if name == "triton" else version(name))

    assert compile_folder(tmp_path, "H200") != before


def test_everything_is_kept_inside_the_folder(tmp_path: Path) -> None:
    folders = [value for name, value in compile_variables(tmp_path).items() if name != "UNSLOTH_MEGA_CACHE"]

    assert len({*folders}) == len(folders) == 5
    assert all(Path(folder).parent == tmp_path for folder in folders)


def test_folders_that_nobody_used_for_a_month_are_removed(tmp_path: Path) -> None:
    old, recent, own = (tmp_path / name for name in ("old", "recent", "own"))
    for folder, age in ((old, KEPT_SECONDS + 60), (recent, KEPT_SECONDS - 60)):
        (folder / "inductor").mkdir(parents=True)
        used = folder.stat().st_mtime - age
        os.utime(folder, (used, used))

    keep_only(own)

    assert {path.name for path in tmp_path.iterdir()} == {"recent", "own"}
