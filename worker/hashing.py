"""SHA-256 over files and folders: what tells one content from another, without torch."""

import hashlib
from pathlib import Path

VERSION_DIGITS = 16


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """Over the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + bytes.fromhex(hash_file(path)))
    return digest.hexdigest()


def bundle_version(folder: Path) -> str:
    """The version of a trained adapter: the first digits of the hash over its bundle's files."""
    return hash_folder(folder)[:VERSION_DIGITS]
