"""A home that is a cache: what is in the store comes to a host when it is needed, and makes room again."""

import os
from pathlib import Path

import pytest

from app.config import Settings
from app.hashing import hash_folder
from app.ids import new_id
from app.store.copies import CachedHome
from app.store.faults import StoreAway
from tests.support.s3_server import S3Server, with_store


@pytest.fixture
def hosts(s3: S3Server, tmp_path: Path) -> tuple[Settings, Settings]:
    """Two hosts of one installation, each with a home of its own."""
    prefix = new_id("prefix")
    first, second = (with_store(s3, tmp_path / name, prefix, store_cache_bytes=10) for name in "ab")
    return first, second


def write(settings: Settings, key: str, text: str) -> Path:
    path = settings.root / key
    path.mkdir(parents=True, exist_ok=True)
    (path / "text").write_text(text)
    return path


def test_what_one_host_keeps_another_brings(hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    path = write(first, "jobs/job-a/data", "rows")
    first.files.keep(path, sha256=hash_folder(path))

    brought = second.files.bring(second.root / "jobs/job-a/data")

    assert (brought / "text").read_text() == "rows"
    assert [name.name for name in brought.parent.iterdir()] == ["data"]
    assert second.files.names(second.root / "jobs/job-a") == ["data"]


def test_a_single_file_comes_back_as_a_file(hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    path = write(first, "files", "x").with_name("files") / "file-a"
    path.write_text("uploaded")
    first.files.keep(path)

    assert second.files.bring(second.root / "files/file-a").read_text() == "uploaded"


def test_what_the_store_does_not_have_is_not_there(hosts: tuple[Settings, Settings]) -> None:
    _, second = hosts

    assert not second.files.bring(second.root / "jobs/job-a/data").exists()
    assert second.files.manifest(second.root / "jobs/job-a/data") is None
    with pytest.raises(FileNotFoundError):
        second.files.text(second.root / "adapters/adapter-a/v1", "adapter_config.json")


def test_an_entry_that_is_stored_again_replaces_the_copy(hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    path = write(first, "jobs/job-a/data", "old")
    first.files.keep(path, source=path)
    copy = second.files.bring(second.root / "jobs/job-a/data", is_replaced=True)
    write(first, "jobs/job-a/data", "new")
    first.files.keep(path, source=path)

    assert (copy / "text").read_text() == "old"
    assert (second.files.bring(copy, is_replaced=True) / "text").read_text() == "new"


def test_a_small_file_is_read_without_the_others(hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    first.files.keep(write(first, "adapters/adapter-a/v1", "config"))

    assert second.files.text(second.root / "adapters/adapter-a/v1", "text") == b"config"
    assert not (second.root / "adapters/adapter-a/v1").exists()


def test_what_is_forgotten_is_gone_with_all_below_it(hosts: tuple[Settings, Settings]) -> None:
    first, second = hosts
    for key in ("jobs/job-a/data", "jobs/job-a/checkpoints/step-1", "jobs/job-b/data"):
        first.files.keep(write(first, key, "x"))
    first.files.forget(first.root / "jobs/job-a")

    assert second.files.entries is not None
    assert [key for key, _ in second.files.entries.below()] == ["jobs/job-b/data"]


def test_the_least_recently_used_copy_goes_first(hosts: tuple[Settings, Settings]) -> None:
    first, _ = hosts
    files = first.files
    assert isinstance(files, CachedHome)
    paths = [write(first, f"adapters/adapter-{name}/v1", "six..6") for name in "abc"]
    for path, used_at in zip(paths, (3.0, 1.0, 2.0), strict=True):
        files.keep(path)
        os.utime(first.root / "store" / f"{path.relative_to(first.root)}.json", (used_at, used_at))

    assert files.evict() == [paths[1], paths[2]]
    assert paths[0].is_dir()
    assert (files.bring(paths[1]) / "text").read_text() == "six..6"


def test_what_is_not_in_the_store_or_was_used_just_now_is_not_evicted(hosts: tuple[Settings, Settings]) -> None:
    first, _ = hosts
    files = first.files
    assert isinstance(files, CachedHome)
    alone, kept = write(first, "adapters/adapter-a/v1", "x" * 100), write(first, "adapters/adapter-b/v1", "x" * 100)
    files.keep(kept)

    assert files.evict() == []
    os.utime(first.root / "store/adapters/adapter-b/v1.json", (1, 1))
    assert files.evict() == [kept]
    assert alone.is_dir()


def test_a_store_that_is_away_leaves_what_the_host_has(hosts: tuple[Settings, Settings], s3: S3Server) -> None:
    first, second = hosts
    path = write(first, "adapters/adapter-a/v1", "x")
    first.files.keep(path)
    s3.stop()
    try:
        assert (first.files.bring(path) / "text").read_text() == "x"
        with pytest.raises(StoreAway):
            second.files.bring(second.root / "adapters/adapter-a/v1")
    finally:
        s3.start()
