"""A client of the REST API: what the `tunesmith` command and the demo talk through.

It reads only the fields that it shows and ignores all others, so it gets along with a newer service.
"""

import json
import math
import secrets
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from app.cli.client_views import (
    FINAL,
    AdapterList,
    CheckpointList,
    File,
    Job,
    JobDetail,
    JobList,
    Json,
    LogPage,
    Row,
    Validation,
)
from app.proxies import UNUSABLE, broken_proxy, is_this_host

__all__ = ["ApiError", "Client", "JobDetail", "JobEvent", "ServiceAbsent"]

# The service sends a ping every 15 seconds into a silent stream.
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
# The form of a large upload is checked before it is answered; a model may have to be loaded before its first token.
PATIENT = httpx.Timeout(600.0, connect=5.0)
# The service gives up a validation after 600 seconds, and says so.
VALIDATION = httpx.Timeout(630.0, connect=5.0)
RECONNECT_SECONDS = 60.0
PAUSE_SECONDS = 1.0
TRIES = 5
# The service, or the proxy before it, could not say what became of the request.
UNSURE = frozenset({502, 503, 504})
NEWEST = {"limit": 50}


@dataclass(frozen=True)
class JobEvent:
    """One event of a job's stream, its own fields in `fields`."""

    seq: int
    kind: str
    fields: Json


class ServiceAbsent(Exception):
    """Nothing answers at the URL, or it stopped in the middle of an answer."""


class AnswerLost(ServiceAbsent):
    """It stopped in the middle of an answer: what was asked for may have been done."""


class ApiError(Exception):
    """The service refused or failed. `details` places each problem: record, line, field, found, expected."""

    def __init__(self, status: int, code: str, message: str, details: list[Json]) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message, self.details = status, code, message, details

    @classmethod
    def of(cls, status: int, body: str | Json) -> Self:
        """From the one error form of the service; anything else that answered is quoted."""
        try:
            error = (json.loads(body) if isinstance(body, str) else body)["error"]
            return cls(status, error["code"], error["message"], error.get("details") or [])
        except (ValueError, KeyError, TypeError):
            return cls(status, f"http_{status}", str(body)[:200] or "an empty answer", [])


class Client:
    """Every method raises `ApiError` and `ServiceAbsent`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = _connected(self._url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """Whether jobs are taken and the engine answers."""
        with suppress(ApiError, ServiceAbsent):
            return bool(self._call("GET", "/readyz")["status"] == "ready")
        return False

    def submit(self, spec: Mapping[str, Any]) -> Job:
        """One job, however often the answer is lost on its way: the service knows the request again by its key."""
        key = {"Idempotency-Key": secrets.token_urlsafe(18)}
        return Job.model_validate(self._insist("POST", "/jobs", json=spec, headers=key, timeout=PATIENT))

    def job(self, job_id: str) -> JobDetail:
        return JobDetail.model_validate(self.raw_job(job_id))

    def raw_job(self, job_id: str) -> Json:
        """All that the service tells of a job."""
        return self._call("GET", f"/jobs/{job_id}")

    def jobs(self) -> JobList:
        """The newest ones, newest first."""
        return JobList.model_validate(self._call("GET", "/jobs", params=NEWEST))

    def validate(self, spec: Mapping[str, Any], preview: int) -> Validation:
        """What a check of the spec and all its rows finds, and its first rows as they would be learned."""
        answer = self._call("POST", "/jobs/validate", json=spec, params={"preview": preview}, timeout=VALIDATION)
        return Validation.model_validate(answer)

    def row(self, job_id: str, record: int, split: str | None) -> Row:
        """A record of a job's data, as it is learned."""
        asked = {"record": record} | ({"split": split} if split else {})
        return Row.model_validate(self._call("GET", f"/jobs/{job_id}/data", params=asked))

    def cancel(self, job_id: str) -> Job:
        return Job.model_validate(self._call("POST", f"/jobs/{job_id}/cancel"))

    def pause(self, job_id: str) -> Job:
        return Job.model_validate(self._call("POST", f"/jobs/{job_id}/pause"))

    def resume(self, job_id: str) -> Job:
        return Job.model_validate(self._call("POST", f"/jobs/{job_id}/resume"))

    def ask_for_checkpoint(self, job_id: str) -> None:
        self._call("POST", f"/jobs/{job_id}/checkpoint")

    def checkpoints(self, job_id: str) -> CheckpointList:
        """Those that are kept, newest first."""
        return CheckpointList.model_validate(self._call("GET", f"/jobs/{job_id}/checkpoints"))

    def delete(self, job_id: str) -> None:
        self._call("DELETE", f"/jobs/{job_id}")

    def log(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """What the newest attempt has printed so far; with `follow`, also what this one and later ones will print."""
        offset, attempt = 0, None
        while True:
            answer = self._call("GET", f"/jobs/{job_id}/logs", params={"offset": offset})
            page = LogPage.model_validate(answer)
            if page.attempt != attempt:
                attempt, offset = page.attempt, 0
                continue
            yield page.text
            offset = page.next_offset
            if page.is_complete or not (page.text or follow):
                return
            if not page.text:
                time.sleep(PAUSE_SECONDS)

    def upload(self, path: Path) -> File:
        with path.open("rb") as file:
            sent = {"file": (path.name, file)}
            return File.model_validate(self._call("POST", "/files", files=sent, timeout=PATIENT))

    def delete_file(self, file_id: str) -> None:
        self._call("DELETE", f"/files/{file_id}")

    def adapters(self) -> AdapterList:
        """The newest ones, newest first."""
        return AdapterList.model_validate(self._call("GET", "/adapters", params=NEWEST))

    def follow(self, job_id: str) -> Iterator[JobEvent]:
        """Every event of a job, from its first on until it has ended or was deleted.

        A broken stream is taken up where it broke.
        """
        after, failing_since = 0, math.inf
        while True:
            known = after
            try:
                for event in self._events(job_id, after):
                    after, failing_since = event.seq, math.inf
                    yield event
                    if event.kind == "deleted" or (event.kind == "status" and event.fields["status"] in FINAL):
                        return
                if after == known and self.job(job_id).is_final:
                    return
            except (ServiceAbsent, ApiError) as error:
                failing_since = min(failing_since, time.monotonic())
                is_lasting = isinstance(error, ApiError) and error.status < 500
                if is_lasting or time.monotonic() - failing_since > RECONNECT_SECONDS:
                    raise
            time.sleep(PAUSE_SECONDS)

    def generate(self, order: Mapping[str, Any]) -> Generator[str, None, str | None]:
        """The answer, piece by piece as it is made. Returns the name of the checkpoint, if one answered."""
        with self._stream("POST", "/generate", json={**order, "stream": True}, timeout=PATIENT) as chunks:
            for kind, fields in messages(chunks):
                if kind == "error":
                    raise ApiError.of(200, fields)
                if kind == "delta":
                    yield fields["text"]
                if kind == "finish" and fields["checkpoint"] is not None:
                    return str(fields["model"])
        return None

    def _events(self, job_id: str, after: int) -> Iterator[JobEvent]:
        with self._stream("GET", f"/jobs/{job_id}/stream", headers={"Last-Event-ID": str(after)}) as chunks:
            for kind, fields in messages(chunks):
                yield JobEvent(fields["seq"], kind, fields)

    def _insist(self, method: str, path: str, **options: Any) -> Json:
        """Repeat what is safe to repeat when its answer was lost. A service that never was there is said at once."""
        is_lost = False
        for _ in range(TRIES - 1):
            try:
                return self._call(method, path, **options)
            except ApiError as error:
                if error.status not in UNSURE:
                    raise
                is_lost = True
            except ServiceAbsent as error:
                is_lost = is_lost or isinstance(error, AnswerLost)
                if not is_lost:
                    raise
            time.sleep(PAUSE_SECONDS)
        return self._call(method, path, **options)

    def _call(self, method: str, path: str, **options: Any) -> Json:
        with self._as_our_errors():
            response = self._http.request(method, path, **options)
            if not response.is_success:
                raise ApiError.of(response.status_code, response.text)
            found: Json = response.json()
        return found

    @contextmanager
    def _stream(self, method: str, path: str, **options: Any) -> Iterator[Iterator[bytes]]:
        with self._as_our_errors(), self._http.stream(method, path, **options) as response:
            if not response.is_success:
                response.read()
                raise ApiError.of(response.status_code, response.text)
            yield response.iter_bytes()

    @contextmanager
    def _as_our_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServiceAbsent(f"no service at {self._url}; start one with `tunesmith up`") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ServiceAbsent(f"{self._url} did not answer: {error}") from error
        except httpx.TransportError as error:
            raise AnswerLost(f"{self._url} did not answer: {error or type(error).__name__}") from error
        except json.JSONDecodeError as error:
            raise ServiceAbsent(f"what answers at {self._url} is not Tunesmith") from error


def _connected(url: str) -> httpx.Client:
    try:
        return httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=not is_this_host(url))
    except UNUSABLE as error:
        raise ServiceAbsent(broken_proxy() or f"{url} cannot be asked: {error}") from error


def messages(chunks: Iterable[bytes]) -> Iterator[tuple[str, Json]]:
    """Server-sent events with JSON data, as (event, data); comments are left out.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    kind, data = "message", ""
    for line in _lines(chunks):
        name, _, value = line.partition(":")
        match name:
            case "event":
                kind = value.removeprefix(" ")
            case "data":
                data += value.removeprefix(" ") + "\n"
            case "" if not line:
                if data:
                    yield kind, json.loads(data)
                kind, data = "message", ""


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines that end in LF or CRLF. (`str.splitlines` would also cut inside JSON, at U+2028.)"""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()
