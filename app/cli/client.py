"""A client of the REST API, for the `tunesmith` command and its demo. It reads the service's own response models."""

import json
import math
import secrets
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from app.artifacts.schemas import ArtifactDetail, ArtifactFile, ArtifactList
from app.cli.answers import PING, Answer, JsonObject, parse, read_answer, server_sent_events
from app.cli.errors import AnswerLost, ApiError, ServiceAbsent
from app.files.schemas import FileView
from app.jobs.schemas import JobDetail, JobView, LogPage
from app.jobs.states import ENDED
from app.jobs.views.data_schemas import RowView, Validation
from app.jobs.views.estimate_schemas import Estimate
from app.proxies import UNUSABLE, broken_proxy, is_this_host, needs_certificates

# The service sends a ping every 15 seconds into a silent stream.
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
# A large upload is checked before it is answered, and a model may have to be loaded before its first token.
LONG_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
# The service ends a validation with an error after 600 seconds.
VALIDATION_TIMEOUT = httpx.Timeout(630.0, connect=5.0)
RECONNECT_SECONDS = 60.0
PAUSE_SECONDS = 1.0
TRIES = 5
# After these it is not known whether the request was carried out.
UNSURE = frozenset({502, 503, 504})
NEWEST = {"limit": 50}


@dataclass(frozen=True)
class StreamedEvent:
    """One event of a job's stream, its own fields in `fields`."""

    seq: int
    kind: str
    fields: dict[str, Any]


def in_project(project: str | None) -> dict[str, str]:
    return {} if project is None else {"project": project}


class Client:
    """Every method raises `ApiError`, `ServiceAbsent` and `UnreadableAnswer`."""

    def __init__(self, url: str, key: str | None = None, seconds: float | None = None) -> None:
        """`key` is sent with every request. `seconds` limits the wait for an answer that has no limit of its own."""
        self.url = url.rstrip("/")
        self._http = _connected(self.url, TIMEOUT if seconds is None else httpx.Timeout(seconds))
        if key is not None:
            self._http.headers["authorization"] = f"Bearer {key}"
        self._tagged: httpx.Response | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """Whether jobs are accepted and the engine answers."""
        with suppress(ApiError, ServiceAbsent):
            return bool(self._call("GET", "/readyz")["status"] == "ready")
        return False

    def submit(self, spec: Mapping[str, Any]) -> JobView:
        """Submit one job, even if the request has to be repeated: the service recognises it by its key."""
        key = {"Idempotency-Key": secrets.token_urlsafe(18)}
        return read_answer(JobView, self._retry("POST", "/jobs", json=spec, headers=key, timeout=LONG_TIMEOUT))

    def job(self, job_id: str) -> JobDetail:
        return self._read(JobDetail, "GET", f"/jobs/{job_id}")

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> JsonObject:
        """Return the whole answer, with the fields that only another version knows."""
        return self._call("GET", path, params=params)

    def pages(self, path: str, params: Mapping[str, Any]) -> Iterator[JsonObject]:
        """Every page of a list, newest first."""
        page = self.get(path, params)
        while page["has_more"]:
            yield page
            page = self.get(path, {**params, "after": page["last_id"]})
        yield page

    def jobs(self, **sought: Any) -> JsonObject:
        """The newest jobs that have all that is sought, newest first.

        The service looks at a part of the jobs for one request. A part without any such job is followed by the next.
        """
        return next(page for page in self.pages("/jobs", {**NEWEST, **sought}) if page["data"] or not page["has_more"])

    def validate(self, spec: Mapping[str, Any], preview: int) -> Validation:
        """Check the spec and all its rows. The first `preview` rows come back as they would be learned."""
        options: dict[str, Any] = {"json": spec, "params": {"preview": preview}, "timeout": VALIDATION_TIMEOUT}
        return self._read(Validation, "POST", "/jobs/validate", **options)

    def estimate(self, spec: Mapping[str, Any]) -> Estimate:
        """Check the spec and all its rows, and predict what a training of them needs and takes."""
        return self._read(Estimate, "POST", "/jobs/estimate", json=spec, timeout=VALIDATION_TIMEOUT)

    def row(self, job_id: str, record: int, split: str | None) -> RowView:
        """A record of a job's data, as it is learned."""
        place = {"record": record} | ({"split": split} if split else {})
        return self._read(RowView, "GET", f"/jobs/{job_id}/data", params=place)

    def request(self, job_id: str, action: Literal["cancel", "pause", "resume"]) -> JobView:
        """Request the action and return the job as it is then; a running job needs seconds to follow."""
        return self._read(JobView, "POST", f"/jobs/{job_id}/{action}")

    def request_checkpoint(self, job_id: str) -> None:
        self._call("POST", f"/jobs/{job_id}/checkpoint")

    def artifacts(self, job_id: str) -> ArtifactList:
        """What the job made, oldest first."""
        return self._read(ArtifactList, "GET", f"/jobs/{job_id}/artifacts")

    def artifact(self, artifact_id: str) -> ArtifactDetail:
        """An artifact with its files. The service reads all of them before its first answer."""
        return self._read(ArtifactDetail, "GET", f"/artifacts/{artifact_id}", timeout=LONG_TIMEOUT)

    @contextmanager
    def content(self, artifact_id: str, file: ArtifactFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file from `start` on, and where they begin: at 0 if the service has other bytes than these."""
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": f'"{file.sha256}"'}
        path, name = f"/artifacts/{artifact_id}/content", {"file": file.name}
        with self._stream("GET", path, params=name, headers=headers, timeout=LONG_TIMEOUT) as response:
            is_part = response.status_code == httpx.codes.PARTIAL_CONTENT
            yield start if is_part else 0, response.iter_bytes()

    def delete(self, job_id: str) -> None:
        self._call("DELETE", f"/jobs/{job_id}")

    def put_secret(self, name: str, value: str, project: str | None) -> None:
        self._call("PUT", f"/secrets/{quote(name, safe='')}", json={"value": value}, params=in_project(project))

    def delete_secret(self, name: str, project: str | None) -> None:
        self._call("DELETE", f"/secrets/{quote(name, safe='')}", params=in_project(project))

    def log(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """What the newest attempt has printed so far; with `follow`, also what this one and later ones will print."""
        offset, attempt = 0, None
        while True:
            page = self._read(LogPage, "GET", f"/jobs/{job_id}/logs", params={"offset": offset})
            if page.attempt != attempt:
                attempt, offset = page.attempt, 0
                continue
            yield page.text
            offset = page.next_offset
            if page.is_complete or not (page.text or follow):
                return
            if not page.text:
                time.sleep(PAUSE_SECONDS)

    def upload(self, path: Path) -> FileView:
        with path.open("rb") as file:
            return self._read(FileView, "POST", "/files", files={"file": (path.name, file)}, timeout=LONG_TIMEOUT)

    def delete_file(self, file_id: str) -> None:
        self._call("DELETE", f"/files/{file_id}")

    def delete_adapter(self, adapter_id: str) -> None:
        self._call("DELETE", f"/adapters/{adapter_id}")

    @contextmanager
    def file_content(self, file_id: str) -> Iterator[Iterator[bytes]]:
        """The bytes of an upload, exactly as they were sent."""
        headers = {"Accept-Encoding": "identity"}
        with self._stream("GET", f"/files/{file_id}/content", headers=headers, timeout=LONG_TIMEOUT) as response:
            yield response.iter_bytes()

    def follow(self, job_id: str) -> Iterator[StreamedEvent]:
        """Every event of a job, from its first one until the job has ended or was deleted. While none comes, PING does.

        A stream that breaks is continued after its last event.
        """
        after, failing_since = 0, math.inf
        while True:
            known = after
            try:
                for event in self._events(job_id, after):
                    after, failing_since = event.seq, math.inf
                    yield event
                    if event.kind == "deleted" or (event.kind == "status" and event.fields["status"] in ENDED):
                        return
                if after == known and self.job(job_id).status.is_final:
                    return
            except (ServiceAbsent, ApiError) as error:
                failing_since = min(failing_since, time.monotonic())
                is_lasting = isinstance(error, ApiError) and error.status < 500
                if is_lasting or time.monotonic() - failing_since > RECONNECT_SECONDS:
                    raise
            time.sleep(PAUSE_SECONDS)

    def generate(self, order: Mapping[str, Any]) -> Generator[str, None, str | None]:
        """Yield the answer piece by piece. Returns the name of the checkpoint, if a checkpoint answered."""
        with self._stream("POST", "/generate", json={**order, "stream": True}, timeout=LONG_TIMEOUT) as response:
            for kind, fields in server_sent_events(response.iter_bytes()):
                if kind == "error":
                    raise ApiError.of(200, fields)
                if kind == "delta":
                    yield fields["text"]
                if kind == "finish" and fields.get("checkpoint") is not None:
                    return str(fields["model"])
        return None

    def _events(self, job_id: str, after: int) -> Iterator[StreamedEvent]:
        with self._stream("GET", f"/jobs/{job_id}/stream", headers={"Last-Event-ID": str(after)}) as response:
            for kind, fields in server_sent_events(response.iter_bytes()):
                after = after if kind == PING else fields["seq"]
                yield StreamedEvent(after, kind, fields)

    def _read(self, model: type[Answer], method: str, path: str, **options: Any) -> Answer:
        return read_answer(model, self._call(method, path, **options))

    def _retry(self, method: str, path: str, **options: Any) -> JsonObject:
        """Repeat a request that is safe to repeat, while its answers are lost. A service that was never reached is an
        error at once."""
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

    def _call(self, method: str, path: str, **options: Any) -> JsonObject:
        with self._as_our_errors():
            response = self._send(self._http.build_request(method, path, **options))
            if not response.is_success:
                raise ApiError.of(response.status_code, response.text)
            answer: JsonObject = parse(response.content)
        return answer

    def _send(self, request: httpx.Request) -> httpx.Response:
        """Send the request; a repeated GET whose answer has not changed gets the earlier response."""
        known = self._tagged
        if known is not None and (known.request.method, known.request.url) == (request.method, request.url):
            request.headers["If-None-Match"] = known.headers["ETag"]
        response = self._http.send(request)
        if known is not None and response.status_code == httpx.codes.NOT_MODIFIED:
            return known
        if "ETag" in response.headers:
            self._tagged = response
        return response

    @contextmanager
    def _stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        with self._as_our_errors(), self._http.stream(method, path, **options) as response:
            if not response.is_success:
                response.read()
                raise ApiError.of(response.status_code, response.text)
            yield response

    @contextmanager
    def _as_our_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServiceAbsent(f"no service at {self.url}; start one with `tunesmith up`") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ServiceAbsent(f"{self.url} did not answer: {error}") from error
        except httpx.TransportError as error:
            raise AnswerLost(f"{self.url} did not answer: {error or type(error).__name__}") from error
        except json.JSONDecodeError as error:
            raise ServiceAbsent(f"what answers at {self.url} is not Tunesmith") from error


def _connected(url: str, timeout: httpx.Timeout) -> httpx.Client:
    try:
        return httpx.Client(
            base_url=url, timeout=timeout, trust_env=not is_this_host(url), verify=needs_certificates(url)
        )
    except UNUSABLE as error:
        raise ServiceAbsent(broken_proxy() or f"{url} cannot be used: {error}") from error


def requested_state(job: JobView) -> str | None:
    """What the user requested and the worker has not done yet."""
    return "cancelling" if job.cancel_requested else "pausing" if job.pause_requested else None
