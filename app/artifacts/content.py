"""What is sent of an artifact: its files as others can use them, one by one, or all in a tar that is always the same.

An older bundle names the folder of its base on this server. What is sent names the base as the job's spec did; the
stored files, whose hash is the adapter's version, stay as they are.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from app.artifacts.schemas import ArtifactFile
from app.artifacts.store import ArtifactStore
from app.contracts.portable import MANIFEST, PortableBase, is_text
from app.hashing import hash_of_files

TAR_END = b"\0" * (2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Segment:
    """Bytes that can be read from any place. `read` takes the first byte and the one after the last."""

    size: int
    read: Callable[[int, int], Iterator[bytes]]

    @classmethod
    def of(cls, content: bytes) -> "Segment":
        return cls(len(content), lambda start, end: iter((content[start:end],)))


@dataclass(frozen=True)
class SentFile:
    """One file as it is sent."""

    described: ArtifactFile
    segment: Segment


@dataclass(frozen=True)
class Download:
    """The body of a response. `tag` identifies its bytes."""

    filename: str
    media_type: str
    tag: str
    segments: Sequence[Segment]

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        for segment in self.segments:
            if start < segment.size and end > 0:
                yield from segment.read(max(start, 0), min(end, segment.size))
            start, end = start - segment.size, end - segment.size


def files_to_send(store: ArtifactStore, key: str, stored: Sequence[ArtifactFile]) -> list[SentFile]:
    """Return the files of an artifact as they are sent, sorted by name. Raises `ArtifactMissing`."""
    base = _base_of(store, key, stored)
    return [_sent(store, key, file, base) for file in stored]


def as_file(file: SentFile) -> Download:
    name = file.described.name.rpartition("/")[2]
    return Download(name, "application/octet-stream", file.described.sha256, [file.segment])


def as_tar(artifact_id: str, files: Sequence[SentFile]) -> Download:
    """All files in a tar, below a folder with the artifact's id. It has no times and no owners."""
    segments: list[Segment] = []
    for file in files:
        padding = b"\0" * (-file.segment.size % tarfile.BLOCKSIZE)
        segments += [Segment.of(_header(artifact_id, file)), file.segment, Segment.of(padding)]
    tag = hash_of_files({file.described.name: file.described.sha256 for file in files})
    return Download(f"{artifact_id}.tar", "application/x-tar", f"{tag}.tar", [*segments, Segment.of(TAR_END)])


def _header(artifact_id: str, file: SentFile) -> bytes:
    entry = tarfile.TarInfo(f"{artifact_id}/{file.described.name}")
    entry.size = file.segment.size
    return entry.tobuf(tarfile.PAX_FORMAT)


def _base_of(store: ArtifactStore, key: str, stored: Sequence[ArtifactFile]) -> PortableBase | None:
    manifest = next((file for file in stored if file.name == MANIFEST and is_text(file.name, file.bytes)), None)
    return None if manifest is None else PortableBase.of_manifest(_whole(store, key, manifest))


def _sent(store: ArtifactStore, key: str, file: ArtifactFile, base: PortableBase | None) -> SentFile:
    if base is not None and is_text(file.name, file.bytes):
        text = base.rename(_whole(store, key, file))
        return SentFile(
            ArtifactFile(name=file.name, bytes=len(text), sha256=hashlib.sha256(text).hexdigest()), Segment.of(text)
        )
    return SentFile(file, Segment(file.bytes, partial(store.open, key, file.name)))


def _whole(store: ArtifactStore, key: str, file: ArtifactFile) -> bytes:
    return b"".join(store.open(key, file.name, 0, file.bytes))
