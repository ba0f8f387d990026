"""The experiment trackers to which a training may report, under the names of transformers' `TrainingArguments`.

A tracker writes files, which become an artifact of the job. Only a tracker with a URL sends what it is told to a
server, and only to one that the operator allows (TUNESMITH_TRACKER_HOSTS).
"""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from app.contracts.base import Contract

Tracker = Literal["wandb", "tensorboard", "mlflow", "trackio"]
# Those that can report to a server of the user's.
TrackerWithServer = Literal["wandb", "mlflow"]
RunName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,128}$")]
TrackerUrl = Annotated[str, StringConstraints(max_length=300)]
DEFAULT_PORTS = {"http": 80, "https": 443}
EXPECTED_URL = "should be http(s)://host or http(s)://host:port with a path, without a user name, query or fragment"


class TrackingArgs(Contract):
    """The part of `TrainingArgs` about trackers."""

    report_to: list[Tracker] = Field(
        [], max_length=4, description="trackers that also get the points of the metrics; a name, a list, or none"
    )
    run_name: RunName | None = Field(None, description="of the run in the trackers; null: the job's id")
    tracker_urls: dict[TrackerWithServer, TrackerUrl] = Field(
        {}, description="servers of trackers, which the operator has to allow; without one a tracker writes files only"
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _as_transformers_takes_it(cls, value: Any) -> Any:
        """One name is a list of one, and "none" is no tracker."""
        if value is None or value in ("none", ["none"]):
            return []
        return [value] if isinstance(value, str) else value

    @field_validator("report_to")
    @classmethod
    def _each_once(cls, names: list[Tracker]) -> list[Tracker]:
        if len(set(names)) < len(names):
            raise ValueError("should name each tracker once")
        return names

    @field_validator("tracker_urls")
    @classmethod
    def _are_urls(cls, urls: dict[TrackerWithServer, str]) -> dict[TrackerWithServer, str]:
        for url in urls.values():
            host_of(url)
        return urls

    @model_validator(mode="after")
    def _only_of_those_that_report(self) -> Self:
        for name in self.tracker_urls:
            if name not in self.report_to:
                raise ValueError(f"tracker_urls.{name} should be left out where report_to does not name {name}")
        return self


def host_of(url: str) -> str:
    """Return `host:port` of a tracker's URL. Raises ValueError, without the URL's text, if it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise ValueError(EXPECTED_URL) from None
    if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(EXPECTED_URL)
    return f"{parts.hostname}:{port}"


def read_hosts(text: str) -> frozenset[str]:
    """Return the entries of TUNESMITH_TRACKER_HOSTS, which are separated by commas. Raises ValueError."""
    hosts = [one.strip().lower() for one in text.split(",") if one.strip()]
    for host in hosts:
        name, _, port = host.rpartition(":")
        if not name or not port.isdigit() or not 0 < int(port) < 2**16 or "/" in name:
            raise ValueError(f"found {host!r}, expected host:port, such as mlflow.example:5000 or api.wandb.ai:443")
    return frozenset(hosts)
