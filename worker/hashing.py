"""SHA-256 hashes that identify the content of files and folders, computed without torch."""

import hashlib
from pathlib import Path

VERSION_DIGITS = 16


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """The hash over the names and contents of all files in the folder, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + bytes.fromhex(hash_file(path)))
    return digest.hexdigest()


def bundle_version(folder: Path) -> str:
    """The version of a trained adapter: the first VERSION_DIGITS digits of the hash of its bundle."""
    return hash_folder(folder)[:VERSION_DIGITS]
