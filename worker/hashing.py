"""The version of a trained adapter."""

from pathlib import Path

from app.hashing import hash_folder

VERSION_DIGITS = 16


def bundle_version(folder: Path) -> str:
    """The version of a trained adapter: the first VERSION_DIGITS digits of the hash of its bundle."""
    return version_of(hash_folder(folder))


def version_of(sha256: str) -> str:
    return sha256[:VERSION_DIGITS]
