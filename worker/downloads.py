"""Downloads from the hub: only files that are read, and only after their sizes were checked against limit and disk.

A download that gets longer than the hub announced is aborted.
"""

import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils.tqdm import tqdm

from app.contracts.model_card import CONFIG, INDEX, SINGLE
from worker.base_files import UNREADABLE, weight_files
from worker.model_card import parts_of, read_json

# Configuration and tokenizer files in the top folder; never pickles, never code.
TEXTS = (".json", ".jinja", ".model", ".txt")
TEMPLATES = "additional_chat_templates"
# Disk space that is left for other processes of the host.
RESERVE_BYTES = 2**30
COMMIT = re.compile(r"[0-9a-f]{40}")
AWAY = (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError)


class TooLargeToDownload(Exception):
    """The files are larger than the operator's limit, or than the hub announced."""


class NoRoomToDownload(Exception):
    """The disk of the hub's cache has too little free space for the files."""


@dataclass(frozen=True)
class Repository:
    """One commit of a repository on the hub. `sizes`: bytes of each file; `kind`: "model" or "dataset"."""

    name: str
    kind: str
    sha: str | None
    sizes: Mapping[str, int]

    def download(self, file: str) -> Path:
        """Download the file and return its path in the hub's cache.

        Raises TooLargeToDownload and the errors of the hub's client.
        """
        bar = _bounded(self.sizes[file])
        return Path(hf_hub_download(self.name, file, repo_type=self.kind, revision=self.sha, tqdm_class=bar))

    def check(self, files: Collection[str], most_bytes: int) -> None:
        """Raises TooLargeToDownload or NoRoomToDownload if these files together may not be downloaded."""
        size = sum(self.sizes[file] for file in files)
        if size > most_bytes:
            raise TooLargeToDownload(f"has {size:,} bytes to download, at most {most_bytes:,} are allowed")
        missing = sum(self.sizes[file] for file in files if not self._is_cached(file))
        if missing and shutil.disk_usage(_existing(Path(constants.HF_HUB_CACHE))).free < missing + RESERVE_BYTES:
            raise NoRoomToDownload(
                f"has {missing:,} bytes to download, for which the disk of the hub's cache has no room"
            )

    def _is_cached(self, file: str) -> bool:
        found = try_to_load_from_cache(self.name, file, repo_type=self.kind, revision=self.sha)
        return isinstance(found, str)


def look_at_model(name: str, revision: str | None) -> Repository:
    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    return Repository(name, "model", info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})


def files_of_model(repository: Repository) -> list[str]:
    """The files of a model that are read: its config, its tokenizer, and its weights in one safetensors form.

    This downloads the index of the weights if they are split.
    """
    sizes = repository.sizes
    texts = [file for file in sizes if _is_text(PurePath(file))]
    if SINGLE in sizes or INDEX not in sizes:
        return [*texts, *({SINGLE} & sizes.keys())]
    parts = parts_of(read_json(repository.download(INDEX)))
    return [*texts, *sorted(set(parts.values()) & sizes.keys())]


def fetch_model(name: str, revision: str | None, most_bytes: int) -> Path:
    """Download a model and return its folder in the hub's cache.

    A complete cached model is returned without the hub if the revision is a commit, or if the hub cannot be reached. So
    the engine needs no token for the base of an adapter whose job had one: only a check, which asks the hub, makes a
    revision of a plan or an adapter a commit. Raises TooLargeToDownload, NoRoomToDownload and the errors of the hub's
    client.
    """
    if revision is not None and COMMIT.fullmatch(revision) and (cached := _cached_model(name, revision)) is not None:
        return cached
    try:
        repository = look_at_model(name, revision)
        files = files_of_model(repository)
        repository.check(files, most_bytes)
        for file in files:
            repository.download(file)
        return repository.download(CONFIG).parent
    except AWAY:
        if (cached := _cached_model(name, revision)) is None:
            raise
        return cached


def _cached_model(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model whose weights are all in the hub's cache, or None."""
    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if all((folder / file).is_file() for file in (CONFIG, *_weights(folder))) else None


def _weights(folder: Path) -> list[str]:
    try:
        return weight_files(folder)
    except UNREADABLE:
        return [SINGLE]


def _is_text(path: PurePath) -> bool:
    folder = str(path.parent)
    is_ours = folder == "." or (folder == TEMPLATES and path.suffix == ".jinja")
    return is_ours and path.name.endswith(TEXTS) and not path.name.startswith("consolidated")


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


def _bounded(size: int) -> type[Any]:
    """A progress bar class that aborts a download after `size` bytes: the hub's client updates it for every chunk."""

    class Bounded(tqdm):
        seen = 0.0

        def update(self, n: float | None = 1) -> Any:
            self.seen += n or 0
            if self.seen > size:
                raise TooLargeToDownload(f"is longer than the {size:,} bytes that the hub announced")
            return super().update(n)

    return Bounded
