"""Turns errors of the hub client into errors of the service: not found, no access, not reachable, too large."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from app.proxies import UNUSABLE, broken_proxy
from worker.downloads import NoRoomToDownload, TooLargeToDownload
from worker.failures import DISK_FULL, SystemFault, UserError

TOKEN_HINT = (
    'store a token that can read it with PUT /secrets/hf, and name it in the job: "token": "secret://hf"; the '
    "operator can set HF_TOKEN for all jobs"
)


@contextmanager
def hub_errors(repo: str, param: str) -> Iterator[None]:
    """Raises UserError or SystemFault for an exception of the hub client. No message contains a token."""
    try:
        with _size_errors(repo, param):
            yield
    except GatedRepoError as error:
        raise UserError(
            "gated", f"this server's account has no access to {repo} on the hub", hint=TOKEN_HINT, param=param
        ) from error
    except RevisionNotFoundError as error:
        raise UserError("unknown_revision", f"{repo} has no such revision", param=param) from error
    except RepositoryNotFoundError as error:
        raise _missing(repo, param, error) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError, ConnectionError) as error:
        hint = "does this host have a network? a model in the models folder and an uploaded file need none"
        raise SystemFault(
            "hub_unreachable", f"the hub could not be reached for {repo}", hint=hint, param=param
        ) from error
    except HfHubHTTPError as error:
        raise _refused(repo, param, error) from error
    except UNUSABLE as error:
        reason = broken_proxy()
        if reason is None:
            raise
        raise SystemFault(
            "hub_unreachable", f"the hub could not be reached for {repo}: {reason}", param=param
        ) from error


@contextmanager
def _size_errors(repo: str, param: str) -> Iterator[None]:
    try:
        yield
    except TooLargeToDownload as error:
        hint = "the operator's limit is TUNESMITH_MAX_HUB_BYTES"
        raise UserError("hub_too_large", f"{repo} {error}", hint=hint, param=param) from error
    except NoRoomToDownload as error:
        raise SystemFault(DISK_FULL, f"{repo} {error}", hint="free disk space there", param=param) from error


def _missing(repo: str, param: str, error: HfHubHTTPError) -> UserError:
    """Without a token, the hub answers 401 both for a private repository and for one that does not exist."""
    if error.response is not None and error.response.status_code == 401:
        message = f"the hub has no public {repo}: it is private, or it does not exist"
        return UserError("private_or_unknown", message, hint=TOKEN_HINT, param=param)
    return UserError(
        "unknown_repository", f"the hub has no {repo}", hint="check the spelling of owner/name", param=param
    )


def _refused(repo: str, param: str, error: HfHubHTTPError) -> UserError | SystemFault:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return UserError("not_authorised", f"the hub refused {repo} (HTTP {status})", hint=TOKEN_HINT, param=param)
    return SystemFault("hub_failed", f"the hub answered HTTP {status} for {repo}", param=param)
