"""SHA-256 hashes that identify the content of files and folders."""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """The hash over the names and contents of all files in the folder, as 64 hexadecimal digits."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return hash_of_files({path.relative_to(folder).as_posix(): hash_file(path) for path in files})


def hash_of_files(hashes: Mapping[str, str]) -> str:
    """The hash of a folder, from the hashes of its files by their names."""
    digest = hashlib.sha256()
    for name in sorted(hashes, key=PurePosixPath):
        digest.update(name.encode() + b"\0" + bytes.fromhex(hashes[name]))
    return digest.hexdigest()
