"""What every store of artifacts promises: an artifact is complete or absent, and is found by its key."""

import os
from pathlib import Path

import pytest

from app.artifacts.store import ArtifactMissing, ArtifactStore, store_of
from app.config import Settings
from app.hashing import hash_folder
from app.ids import new_id
from tests.support.s3_server import with_store

ID = f"artifact-{'a' * 24}-1"


@pytest.fixture(params=["home", "s3"])
def host(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """The settings of a host, without a store and with one."""
    if request.param == "home":
        return settings
    return with_store(request.getfixturevalue("s3"), settings.root, new_id("prefix"))


@pytest.fixture
def store(host: Settings) -> ArtifactStore:
    return store_of(host)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "1.bin").write_bytes(bytes(range(256)))
    (folder / "a.txt").write_text("a")
    return folder


def test_what_was_put_is_listed_read_and_materialised(store: ArtifactStore, made: Path) -> None:
    sha256 = hash_folder(made)

    key = store.put(ID, made, sha256)

    assert [(file.name, file.bytes) for file in store.files(key)] == [("a.txt", 1), ("b/1.bin", 256)]
    assert b"".join(store.open(key, "b/1.bin", 250, 999)) == bytes(range(250, 256))
    assert hash_folder(store.materialise(key)) == sha256
    assert not made.exists()


def test_a_put_can_be_repeated_after_it_was_cut_off(store: ArtifactStore, made: Path) -> None:
    sha256 = hash_folder(made)

    assert store.put(ID, made, sha256) == store.put(ID, made, sha256)


def test_what_an_earlier_attempt_put_and_did_not_publish_makes_room(store: ArtifactStore, made: Path) -> None:
    first = store.put(ID, made, hash_folder(made))
    made.mkdir()
    (made / "a.txt").write_text("another")

    second = store.put(ID, made, hash_folder(made))

    assert [file.bytes for file in store.files(second)] == [7]
    with pytest.raises(ArtifactMissing):
        store.files(first)


def test_what_was_changed_or_is_gone_is_not_stored(store: ArtifactStore, made: Path) -> None:
    for folder in (made, made / "gone"):
        with pytest.raises(ArtifactMissing, match="gone from"):
            store.put(ID, folder, "0" * 64)
    assert (made / "a.txt").exists()


def test_what_was_deleted_is_gone_and_can_be_deleted_again(store: ArtifactStore, made: Path) -> None:
    key = store.put(ID, made, hash_folder(made))
    store.delete(key)
    store.delete(key)

    with pytest.raises(ArtifactMissing):
        store.materialise(key)


def test_a_link_is_not_stored_and_leads_nowhere(store: ArtifactStore, made: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    sha256 = hash_folder(made)
    (made / "link").symlink_to(tmp_path / "key")
    (made / "folder").symlink_to(tmp_path)
    os.mkfifo(made / "pipe")

    with pytest.raises(ArtifactMissing, match="are links"):
        store.put(ID, made, hash_folder(made))
    assert [file.name for file in store.files(store.put(ID, made, sha256))] == ["a.txt", "b/1.bin"]


@pytest.mark.parametrize("key", ["", ".", "/", "adapters/adapter-a/v1", "artifacts", "artifacts/a-1", "artifacts/../x"])
def test_what_the_store_has_not_stored_is_not_deleted(store: ArtifactStore, settings: Settings, key: str) -> None:
    (settings.root / "adapters" / "adapter-a" / "v1").mkdir(parents=True)

    with pytest.raises(ValueError, match="no key"):
        store.delete(key)
    assert (settings.root / "adapters" / "adapter-a" / "v1").is_dir()


def test_a_file_that_was_replaced_is_hashed_again(settings: Settings, made: Path) -> None:
    store = store_of(settings)
    key = store.put(ID, made, hash_folder(made))
    before = store.files(key)[0].sha256
    path = store.materialise(key) / "a.txt"
    path.write_text("b")
    os.utime(path, ns=(0, 0))

    assert store.files(key)[0].sha256 != before
