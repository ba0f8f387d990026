"""Where the weights of a base model are on this host; what is only on the hub is downloaded, once, safetensors only."""

import asyncio
from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from app.contracts.order import BaseRef
from app.proxies import UNUSABLE, broken_proxy
from worker.inference.engine import ModelFolder, Refusal

# Weights, configuration and tokenizer of the top folder; never pickles, never code.
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
UNWANTED = ["*/*", "consolidated*"]


class Sources:
    """Finds base models. A hub name keeps its revision for the life of the process."""

    def __init__(self) -> None:
        self._fetched: dict[BaseRef, asyncio.Task[Path]] = {}

    async def find(self, base: BaseRef) -> ModelFolder:
        """The model's folder. Raises Refusal `model_unavailable` when there is none, or the hub does not give it."""
        if base.is_local:
            return ModelFolder(Path(base.source).name, Path(base.source))
        task = self._fetched.get(base)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(asyncio.to_thread(_download, base))
            self._fetched[base] = task
        return ModelFolder(base.source, await asyncio.shield(task))


def _download(base: BaseRef) -> Path:
    try:
        return Path(
            snapshot_download(base.source, revision=base.revision, allow_patterns=WANTED, ignore_patterns=UNWANTED)
        )
    except GatedRepoError:
        raise unavailable(404, base.source, "is gated: this host's hub account has no access to it") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        where = f" at revision {base.revision!r}" if base.revision else ""
        raise unavailable(404, base.source, f"is not on the hub{where}, or not for this host's account") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError):
        raise unavailable(503, base.source, "is not on this host and the hub cannot be reached") from None
    except UNUSABLE:
        reason = broken_proxy()
        if reason is None:
            raise
        raise unavailable(503, base.source, f"cannot be fetched: {reason}") from None
    except OSError as error:
        raise unavailable(503, base.source, f"could not be stored on this host ({type(error).__name__})") from None


def unavailable(status: int, name: str, reason: str) -> Refusal:
    return Refusal(status, "model_unavailable", f"the model {name!r} {reason}", "model")
