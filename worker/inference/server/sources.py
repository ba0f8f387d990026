"""Finds the weights of a base model on this host. A model that is only on the hub is downloaded once, safetensors only.

The files of a folder may be replaced at any time, so every request checks them.
"""

import asyncio
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import httpx
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from starlette.concurrency import run_in_threadpool

from app.contracts.hub import MAX_BYTES_VARIABLE, MOST_BYTES
from app.contracts.order import BASE_REPLACED, BaseRef
from app.proxies import UNUSABLE, broken_proxy
from worker.base_files import BaseFiles, stamps
from worker.downloads import NoRoomToDownload, TooLargeToDownload, fetch_model
from worker.inference.engine import ModelFolder, Refusal

# Characters of a revision that a message shows: enough to distinguish two.
SHOWN = 19


class Sources:
    """Finds base models. A hub name keeps its revision until the process ends; a folder has the revision of its current
    files.
    """

    def __init__(self, cache: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        """`cache` is the folder for hashes of files, shared with other processes. `most_bytes` is the size limit of a
        model that is downloaded.
        """
        self._most_bytes = most_bytes
        self._fetched: dict[BaseRef, asyncio.Task[Path]] = {}
        self._base_files = BaseFiles(cache)
        self._looking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def find(self, base: BaseRef) -> ModelFolder:
        """The model's folder. Raises Refusal `model_unavailable` if it does not exist or the hub does not provide it,
        and 409 `base_replaced` if the folder has other weights than the requested ones.
        """
        if base.is_local:
            async with self._looking[base.source]:  # of simultaneous requests only one hashes the files
                found = await run_in_threadpool(self._look, Path(base.source))
            if base.revision is not None and found.revision not in (None, base.revision):
                raise replaced(found, base.revision)
            return replace(found, scaled_to=base.scaled_to)
        repository = base.model_copy(update={"scaled_to": None})
        task = self._fetched.get(repository)
        if task is None or (task.done() and not _is_there(task)):
            task = asyncio.create_task(asyncio.to_thread(_download, repository, self._most_bytes))
            self._fetched[repository] = task
        return ModelFolder(base.source, await asyncio.shield(task), scaled_to=base.scaled_to)

    def _look(self, folder: Path) -> ModelFolder:
        files = stamps(folder)
        return ModelFolder(folder.name, folder, revision=self._base_files.revision(folder), files=files)


def _is_there(task: asyncio.Task[Path]) -> bool:
    """Whether a download has succeeded and is still in the hub's cache, from which files may be deleted."""
    return not task.cancelled() and task.exception() is None and task.result().is_dir()


def replaced(base: ModelFolder, wanted: str) -> Refusal:
    """The refusal for an adapter whose base has different weights now."""
    message = f"the base model {base.name!r} has other files than the adapter was trained on"
    which = f"{wanted[:SHOWN]}… then, {(base.revision or '')[:SHOWN]}… now"
    help_ = "restore the old files under this name, or train a new adapter on the new ones"
    return Refusal(409, BASE_REPLACED, f"{message} ({which}): {help_}", "adapter")


def _download(base: BaseRef, most_bytes: int) -> Path:
    try:
        return fetch_model(base.source, base.revision, most_bytes)
    except (TooLargeToDownload, NoRoomToDownload) as error:
        status = 503 if isinstance(error, NoRoomToDownload) else 403
        raise unavailable(status, base.source, f"{error} ({MAX_BYTES_VARIABLE})") from None
    except GatedRepoError:
        raise unavailable(404, base.source, "is gated: this host's hub account has no access to it") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        where = f" at revision {base.revision!r}" if base.revision else ""
        raise unavailable(
            404, base.source, f"is not on the hub{where}, or this host's account has no access to it"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError):
        raise unavailable(503, base.source, "is not on this host, and the hub cannot be reached") from None
    except UNUSABLE:
        reason = broken_proxy()
        if reason is None:
            raise
        raise unavailable(503, base.source, f"cannot be fetched: {reason}") from None
    except OSError as error:
        raise unavailable(503, base.source, f"could not be stored on this host ({type(error).__name__})") from None


def unavailable(status: int, name: str, reason: str) -> Refusal:
    return Refusal(status, "model_unavailable", f"the model {name!r} {reason}", "model")
