"""A checkpoint is complete or absent."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.contracts.checkpoints import MANIFEST
from tests.support import disks
from worker.checkpoints import DiskFullFault, drafting, newest, noticing_a_full_disk, prune, publish, sweep, verify

CONTENT = {"adapter.safetensors": b"weights" * 100, "inner/optimizer.pt": b"moments" * 50, "empty.json": b""}


def save(folder: Path, step: int, attempt: int = 1) -> Path:
    with drafting(folder, step=step, attempt=attempt) as draft:
        for name, content in CONTENT.items():
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_bytes(content)
        return publish(draft, folder, step=step, attempt=attempt).path


def flip_a_byte(path: Path) -> None:
    content = bytearray((path / "adapter.safetensors").read_bytes())
    content[5] ^= 1
    (path / "adapter.safetensors").write_bytes(content)


def claim_another_step(path: Path) -> None:
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"step": 7', '"step": 8'))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file is missing": lambda path: (path / "adapter.safetensors").unlink(),
    "a file is cut": lambda path: os.truncate(path / "inner/optimizer.pt", 10),
    "a byte is flipped": flip_a_byte,
    "a file was added": lambda path: (path / "inner/more.pt").write_bytes(b"x"),
    "the manifest is missing": lambda path: (path / MANIFEST).unlink(),
    "the manifest is cut": lambda path: os.truncate(path / MANIFEST, 40),
    "the manifest is another's": claim_another_step,
    "the folder has another name": lambda path: path.rename(path.with_name("step-00000009-attempt-1")),
    "all of it is gone": shutil.rmtree,
}


def test_a_published_checkpoint_is_whole_and_named_by_step_and_attempt(tmp_path: Path) -> None:
    path = save(tmp_path, 7, attempt=2)

    found = verify(path)

    assert found is not None
    assert (path.name, found.step, found.attempt) == ("step-00000007-attempt-2", 7, 2)
    assert found.bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert {file.path for file in found.files} == {*CONTENT}
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_none_and_is_skipped_by_name(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    older, path = save(tmp_path, 5), save(tmp_path, 7)

    damage(path)
    found = newest(tmp_path)

    assert verify(path) is None
    assert (found.step, found.path) == (5, older)
    assert len(found.skipped) == (0 if DAMAGES["all of it is gone"] is damage else 1)


def test_the_newest_is_that_of_the_highest_step_and_then_of_the_latest_attempt(tmp_path: Path) -> None:
    for step, attempt in ((100_000_000, 1), (9, 3), (100_000_000, 2), (99_999_999, 9)):
        save(tmp_path, step, attempt)

    found = newest(tmp_path)

    assert found.path is not None
    assert (found.step, found.path.name) == (100_000_000, "step-100000000-attempt-2")


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "none").path is None
    sweep(tmp_path / "none")
    assert prune(tmp_path / "none", 1) == []


def test_pruning_keeps_the_newest_complete_ones(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3, 4)]
    (paths[3] / "empty.json").unlink()

    removed = prune(tmp_path, 2)

    assert sorted(one.step for one in removed) == [1, 4]
    assert sorted(tmp_path.iterdir()) == paths[1:3]


def test_pruning_keeps_the_best_one_beside_the_newest(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3, 4)]

    removed = prune(tmp_path, 1, best_step=2)

    assert sorted(one.step for one in removed) == [1, 3]
    assert sorted(tmp_path.iterdir()) == [paths[1], paths[3]]


@pytest.mark.parametrize("cut_short", [".draft-step-00000009-attempt-1-77", ".removed-step-00000001-attempt-1"])
def test_what_a_dead_attempt_left_is_never_chosen_and_swept(tmp_path: Path, cut_short: str) -> None:
    kept = save(tmp_path, 3)
    shutil.copytree(kept, tmp_path / cut_short)

    found = newest(tmp_path)
    sweep(tmp_path)

    assert (found.path, found.skipped) == (kept, ())
    assert [*tmp_path.iterdir()] == [kept]


def test_a_draft_that_failed_leaves_nothing_and_its_error_as_it_was(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with drafting(tmp_path, step=1, attempt=1) as draft:
            (draft / "half").write_bytes(b"x")
            raise PermissionError("no")

    with pytest.raises(PermissionError):
        fail_half_way()

    assert [*tmp_path.iterdir()] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", 1) as folder:
        yield folder


def by_the_kernel(path: Path) -> None:
    path.write_bytes(b"x" * (2 << 20))


def by_a_library_that_loses_the_number(path: Path) -> None:
    try:
        path.write_bytes(b"x" * (2 << 20))
    except OSError:
        raise RuntimeError("PytorchStreamWriter failed writing file data/5: file write failed") from None


@pytest.mark.parametrize("write", [by_the_kernel, by_a_library_that_loses_the_number])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_no_draft(
    small_disk: Path, write: Callable[[Path], None]
) -> None:
    kept = save(small_disk, 3)

    with pytest.raises(DiskFullFault, match="step 4") as full, drafting(small_disk, step=4, attempt=1) as draft:
        write(draft / "optimizer.pt")

    assert full.value.failure.code == "disk_full"
    assert newest(small_disk).path == kept
    assert [*small_disk.iterdir()] == [kept]


def test_a_manifest_without_room_leaves_no_draft(small_disk: Path) -> None:
    draft = small_disk / ".draft-x"
    draft.mkdir()
    with pytest.raises(OSError, match="space"):
        (draft / "weights").write_bytes(b"x" * (2 << 20))

    with pytest.raises(DiskFullFault):
        publish(draft, small_disk, step=4, attempt=1)

    assert [*small_disk.iterdir()] == []


def test_another_error_beside_a_disk_with_room_is_not_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="other"), noticing_a_full_disk(tmp_path):
        raise RuntimeError("other")

    assert [*tmp_path.iterdir()] == []
