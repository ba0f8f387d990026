"""Entries in a real S3-compatible server: whole or absent, replaced at once, and nothing of them is left behind."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.hashing import hash_folder
from app.ids import new_id
from app.store import bucket
from app.store.bucket import ObjectBucket, bucket_of
from app.store.entries import EntryStore
from app.store.faults import EntryChanged, EntryMissing, StoreAway
from tests.support.s3_server import S3Server, with_store

KEY = "adapters/adapter-a/v1"
LATER = timedelta(days=30)


@pytest.fixture
def objects(s3: S3Server, tmp_path: Path) -> ObjectBucket:
    place = with_store(s3, tmp_path / "home", new_id("prefix")).store
    assert place is not None
    return bucket_of(place)


@pytest.fixture
def store(objects: ObjectBucket) -> EntryStore:
    return EntryStore(objects)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "1.bin").write_bytes(bytes(range(256)))
    (folder / "a.txt").write_text("a")
    (folder / "empty").touch()
    return folder


def names(objects: ObjectBucket) -> list[str]:
    return [name for name, _ in objects.names("")]


def test_a_folder_comes_back_as_it_was_stored(store: EntryStore, made: Path, tmp_path: Path) -> None:
    saved = store.save(KEY, made, hash_folder(made))
    (tmp_path / "back").mkdir()

    store.fetch(KEY, store.manifest(KEY), tmp_path / "back")

    assert hash_folder(tmp_path / "back") == hash_folder(made) == saved.sha256
    assert [key for key, _ in store.below("adapters/")] == [KEY]


def test_a_large_file_is_sent_in_parts_and_read_in_ranges(
    store: EntryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * 2**20)
    content = bytes(range(256)) * 2**16
    (tmp_path / "large").write_bytes(content + b"end")

    manifest = store.save("files/large", tmp_path / "large")

    assert (manifest.is_file, manifest.bytes) == (True, len(content) + 3)
    assert b"".join(store.read("files/large", manifest, "large", len(content) - 2, 10**9)) == content[-2:] + b"end"


def test_an_upload_that_is_given_up_leaves_nothing(
    store: EntryStore, objects: ObjectBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "PART_BYTES", 5 * 2**20)
    (tmp_path / "large").write_bytes(b"x" * 12 * 2**20)
    beats = iter([None, None, KeyError])

    def beat() -> None:
        if (error := next(beats)) is not None:
            raise error

    with pytest.raises(KeyError):
        store.save("files/large", tmp_path / "large", beat=beat)

    assert names(objects) == []
    assert objects.abort_uploads(datetime.now(UTC) + LATER) == 0


def test_what_has_another_hash_or_is_gone_is_not_stored(store: EntryStore, objects: ObjectBucket, made: Path) -> None:
    for path in (made, made / "gone"):
        with pytest.raises(EntryChanged, match="gone from"):
            store.save(KEY, path, "0" * 64)

    assert names(objects) == []


def test_links_are_not_followed(store: EntryStore, made: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (made / "link").symlink_to(tmp_path / "secret")

    assert "link" not in store.save(KEY, made).hashes
    with pytest.raises(EntryChanged, match="it is a link"):
        store.save("files/link", made / "link")


def test_bytes_that_were_changed_in_the_store_are_not_taken(
    store: EntryStore, objects: ObjectBucket, made: Path, tmp_path: Path
) -> None:
    manifest = store.save(KEY, made)
    objects.write(f"content/{KEY}/{manifest.number}/a.txt", b"b")
    (tmp_path / "back").mkdir()

    with pytest.raises(EntryMissing, match="its bytes were changed"):
        store.fetch(KEY, manifest, tmp_path / "back")


def test_an_entry_stored_again_is_replaced_at_once(store: EntryStore, objects: ObjectBucket, made: Path) -> None:
    first = store.save(KEY, made)
    (made / "a.txt").write_text("another")
    second = store.save(KEY, made)

    store.delete_old(KEY, second)

    assert store.manifest(KEY) == second
    assert not [name for name in names(objects) if first.number in name]


def test_a_deleted_entry_leaves_no_object(store: EntryStore, objects: ObjectBucket, made: Path) -> None:
    store.save(KEY, made)
    store.delete(KEY)
    store.delete(KEY)

    assert names(objects) == []
    with pytest.raises(EntryMissing):
        store.manifest(KEY)


def test_what_is_thrown_away_stays_for_a_week(store: EntryStore, objects: ObjectBucket, made: Path) -> None:
    store.save(KEY, made)
    now = datetime.now(UTC)
    store.throw(KEY, now.date())

    assert list(store.below()) == []
    assert store.sweep(now + timedelta(days=6)) == []
    assert len(names(objects)) == 4
    assert store.sweep(now + timedelta(days=9)) == [KEY, KEY]
    assert names(objects) == []


def test_what_cut_off_uploads_left_is_swept(store: EntryStore, objects: ObjectBucket, made: Path) -> None:
    manifest = store.save(KEY, made)
    objects.write("content/jobs/job-a/data/00000000000000000001-aaaaaaaa/x", b"cut off")
    objects.write(f"content/{KEY}/00000000000000000001-aaaaaaaa/x", b"cut off")

    swept = store.sweep(datetime.now(UTC) + LATER)

    assert swept == ["jobs/job-a/data"]
    assert sorted(names(objects)) == [
        *(f"content/{KEY}/{manifest.number}/{name}" for name in ("a.txt", "b/1.bin", "empty")),
        f"manifests/{KEY}.json",
    ]


def test_a_store_that_is_gone_says_so_and_names_no_secret(store: EntryStore, s3: S3Server, made: Path) -> None:
    s3.stop()
    try:
        with pytest.raises(StoreAway, match="cannot be used") as gone:
            store.save(KEY, made)
    finally:
        s3.start()
    assert s3.secret not in str(gone.value)
    assert store.save(KEY, made).files


def test_a_store_that_is_frozen_is_not_waited_for(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "READ_SECONDS", 0.3)
    monkeypatch.setattr(bucket, "MOST_TRIES", 2)
    place = with_store(s3, tmp_path, new_id("prefix")).store
    assert place is not None
    assert s3.process is not None
    s3.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreAway, match="ReadTimeoutError"):
            bucket_of(place).check()
    finally:
        s3.process.send_signal(signal.SIGCONT)


def test_a_wrong_key_is_named_as_a_fault_of_the_store(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    place = with_store(s3, tmp_path, new_id("prefix")).store
    assert place is not None

    with pytest.raises(StoreAway, match="SignatureDoesNotMatch"):
        bucket_of(place).check()
