"""Downloads from the hub: the sizes are asked first, only what is read is fetched, and only where there is room for it.

A file that turns out to be longer than the hub has said is cut off.
"""

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

# Configuration and tokenizer, of the top folder; never pickles, never code.
TEXTS = (".json", ".jinja", ".model", ".txt")
TEMPLATES = "additional_chat_templates"
# What is left to other processes of the host.
RESERVE_BYTES = 2**30
AWAY = (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError)


class TooLargeToDownload(Exception):
    """The files are larger than the operator lets be downloaded, or than the hub has said."""


class NoRoomToDownload(Exception):
    """The disk of the hub's cache has no room for the files."""


@dataclass(frozen=True)
class Repository:
    """One commit of the hub, with the sizes of its files."""

    name: str
    kind: str
    sha: str | None
    sizes: Mapping[str, int]

    def download(self, file: str) -> Path:
        """The file in the hub's cache. Raises TooLargeToDownload, and what the hub's client raises."""
        bar = _bounded(self.sizes[file])
        return Path(hf_hub_download(self.name, file, repo_type=self.kind, revision=self.sha, tqdm_class=bar))

    def check(self, files: Collection[str], most_bytes: int) -> None:
        """Whether these files may be downloaded, together. Raises TooLargeToDownload and NoRoomToDownload."""
        size = sum(self.sizes[file] for file in files)
        if size > most_bytes:
            raise TooLargeToDownload(f"has {size:,} bytes to download, at most {most_bytes:,} are")
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
    """Those that are read of a model: its weights in safetensors form, once, its config and its tokenizer.

    The index is downloaded for it, where there is one.
    """
    sizes = repository.sizes
    texts = [file for file in sizes if _is_text(PurePath(file))]
    if SINGLE in sizes or INDEX not in sizes:
        return [*texts, *({SINGLE} & sizes.keys())]
    parts = parts_of(read_json(repository.download(INDEX)))
    return [*texts, *sorted(set(parts.values()) & sizes.keys())]


def fetch_model(name: str, revision: str | None, most_bytes: int) -> Path:
    """The folder of a model with all that is read of it; one that is here whole needs no hub.

    Raises TooLargeToDownload, NoRoomToDownload, and what the hub's client raises.
    """
    try:
        repository = look_at_model(name, revision)
        files = files_of_model(repository)
        repository.check(files, most_bytes)
        for file in files:
            repository.download(file)
        return repository.download(CONFIG).parent
    except AWAY:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if not all((folder / file).is_file() for file in (CONFIG, *_weights(folder))):
            raise
        return folder


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
    """A progress bar, which the hub's client tells of every piece, that breaks a download off behind `size` bytes."""

    class Bounded(tqdm):
        seen = 0.0

        def update(self, n: float | None = 1) -> Any:
            self.seen += n or 0
            if self.seen > size:
                raise TooLargeToDownload(f"is longer than the {size:,} bytes that the hub has said")
            return super().update(n)

    return Bounded
