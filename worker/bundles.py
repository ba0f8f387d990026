"""What tells one bundle of a trained adapter from another, without torch."""

import hashlib
from pathlib import Path


def hash_folder(folder: Path) -> str:
    """16 hex digits over names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
