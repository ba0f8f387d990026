"""The objects of a bucket: written whole or not at all, with bounded waits. The only module that uses boto.

Every request is tried up to three times by boto's standard retries. An upload sends the MD5 of each part, which the
server compares; a download goes on behind a broken connection.
"""

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.store.faults import Beat, ObjectMissing, StoreAway, no_beat
from app.store.place import StorePlace

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import MultipartUploadTypeDef

CONNECT_SECONDS, READ_SECONDS, MOST_TRIES = 3, 20, 3
CONNECTIONS = 16
# Amazon S3 takes at most 10,000 parts of an upload, each but the last of at least 5 MiB.
PART_BYTES, MOST_PARTS = 16 * 2**20, 10_000
CHUNK_BYTES = 2**20
MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchUpload", "InvalidRange", "416"})


@dataclass(frozen=True)
class Sent:
    """The bytes of an object as they were sent."""

    bytes: int
    sha256: str


@lru_cache(maxsize=4)
def bucket_of(place: StorePlace) -> "ObjectBucket":
    """Return the bucket, with one client for all threads of this process. Raises StoreAway if there can be none."""
    with _answering("opened"):
        client = boto3.session.Session(
            aws_access_key_id=place.key_id, aws_secret_access_key=place.secret_key, aws_session_token=place.token
        ).client("s3", endpoint_url=place.endpoint, config=_config(place))
    return ObjectBucket(client, place)


def _config(place: StorePlace) -> Config:
    """Checksums only where S3 demands them: several compatible servers do not know the newer, optional ones."""
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": MOST_TRIES},
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": place.addressing},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


class ObjectBucket:
    """Objects by their names below the prefix. Every method raises StoreAway, and can be called by several threads."""

    def __init__(self, client: "S3Client", place: StorePlace) -> None:
        self._client, self._bucket = client, place.bucket
        self._prefix = f"{place.prefix}/" if place.prefix else ""

    def write(self, name: str, content: bytes) -> None:
        with _answering("written"):
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + name, Body=content, ContentMD5=_md5_of(content)
            )

    def upload(self, name: str, file: BinaryIO, beat: Beat = no_beat) -> Sent:
        """Store the bytes of an open file. `beat` is called before each part, and may raise to end the upload.

        Nothing is left of an upload that was not completed.
        """
        part_bytes = max(PART_BYTES, -(-os.fstat(file.fileno()).st_size // (MOST_PARTS - 1)))
        beat()
        first = file.read(part_bytes)
        if len(first) < part_bytes:
            self.write(name, first)
            return Sent(len(first), hashlib.sha256(first).hexdigest())
        return self._upload_parts(self._prefix + name, first, file, part_bytes, beat)

    def _upload_parts(self, key: str, first: bytes, file: BinaryIO, part_bytes: int, beat: Beat) -> Sent:
        with _answering("written"):
            upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
        try:
            digest, size, tags = hashlib.sha256(), 0, list[str]()
            part = first
            while part:
                beat()
                digest.update(part)
                size += len(part)
                tags.append(self._send_part(key, upload, len(tags) + 1, part))
                part = file.read(part_bytes)
            self._complete(key, upload, tags)
        except BaseException:
            with suppress(StoreAway, ObjectMissing), _answering("aborted"):  # the sweep ends what is left
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
            raise
        return Sent(size, digest.hexdigest())

    def _send_part(self, key: str, upload: str, number: int, part: bytes) -> str:
        with _answering("written"):
            sent = self._client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload,
                PartNumber=number,
                Body=part,
                ContentMD5=_md5_of(part),
            )
        return sent["ETag"]

    def _complete(self, key: str, upload: str, tags: list[str]) -> None:
        with _answering("written"):
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]},
            )

    def read(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `end`, or up to the object's last one. Raises ObjectMissing.

        A connection that breaks is replaced by one that goes on, as long as each brings some bytes.
        """
        while start < end:
            began = start
            try:
                with _answering("read"):
                    wanted = f"bytes={start}-{end - 1}"
                    found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, Range=wanted)
                    for chunk in found["Body"].iter_chunks(CHUNK_BYTES):
                        start += len(chunk)
                        yield chunk
                    return
            except StoreAway:
                if start == began:
                    raise

    def content(self, name: str) -> bytes:
        """Return a whole small object. Raises ObjectMissing."""
        with _answering("read"):
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        with suppress(ObjectMissing), _answering("deleted"):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def names(self, below: str) -> Iterator[tuple[str, datetime]]:
        """Yield the names that begin with `below`, in their order, with the time at which each was written."""
        with _answering("listed"):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + below):
                for found in page.get("Contents", ()):
                    yield found["Key"].removeprefix(self._prefix), found["LastModified"]

    def check(self) -> None:
        """Ask the store for one name."""
        with _answering("listed"):
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def abort_uploads(self, begun_before: datetime) -> int:
        """End uploads that nobody completed, and return their number. Their parts cost room until then."""
        old = list["MultipartUploadTypeDef"]()
        with suppress(ObjectMissing), _answering("listed"):  # some servers answer so if there is none
            page = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix)
            old += [one for one in page.get("Uploads", ()) if one["Initiated"] < begun_before]
        for one in old:
            with suppress(ObjectMissing), _answering("aborted"):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=one["Key"], UploadId=one["UploadId"])
        return len(old)


def _md5_of(content: bytes) -> str:
    """As S3 wants it to find transmission errors. It protects against nothing else."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


@contextmanager
def _answering(verb: str) -> Iterator[None]:
    """Replace boto's errors. No message of a server is repeated, as it may hold a part of the request."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))[:40]
        if code in MISSING:
            raise ObjectMissing(code) from error
        raise StoreAway(f"the store answered {code!r} where something was to be {verb}") from error
    except BotoCoreError as error:
        raise StoreAway(f"the store cannot be used ({type(error).__name__}): nothing can be {verb}") from error
