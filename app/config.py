"""What an operator chooses: environment variables that start with TUNESMITH_, read in this one place.

Defaults suit a laptop: SQLite, a bundled Valkey and all state below one folder.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "TUNESMITH_"
# A unix socket's path has to fit in 107 bytes (`man 7 unix`).
LONGEST_SOCKET_PATH = 107


class Settings(BaseSettings):
    """Read once at start; unknown TUNESMITH_ variables are refused by name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(
        Path.home() / ".tunesmith", description="all state of this host, or a folder that all hosts share"
    )
    database_url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite below home")
    broker_url: str | None = Field(None, description="Redis URL; default: the bundled Valkey of `tunesmith up`")
    broker_prefix: str = Field("tunesmith:", description="what every key in the broker starts with")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")
    engine_url: str = "http://127.0.0.1:8100"
    models_dir: Path | None = Field(None, description="local base models; default: home/models")
    datasets_dir: Path | None = Field(
        None, description="files that dataset.source.path may name; default: home/datasets"
    )
    max_body_bytes: int = Field(2 * 2**20, ge=1024, description="of any request but an upload")
    max_upload_bytes: int = Field(2 * 2**30, ge=1024)
    max_unpacked_bytes: int = Field(8 * 2**30, ge=1024, description="of a gzip upload, unpacked")
    max_cache_bytes: int = Field(20 * 2**30, ge=0, description="of prepared rows that are kept for later jobs")
    lease_seconds: float = Field(60.0, gt=0, description="a worker that is silent for so long has lost its job")
    heartbeat_seconds: float = Field(1.0, gt=0, description="how often a worker stores what its child reported")
    max_attempts: int = Field(3, ge=1, le=100)
    log_level: str = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_variable(cls, values: dict[str, object]) -> dict[str, object]:
        known = {PREFIX + name.upper() for name in cls.model_fields}
        unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
        if unknown:
            raise ValueError(f"unknown variables {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return values

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("lease_seconds should be at least three times heartbeat_seconds")
        return self

    @cached_property
    def root(self) -> Path:
        return self.home.expanduser().resolve()

    @cached_property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.root / 'tunesmith.db'}"

    @cached_property
    def broker(self) -> str:
        return self.broker_url or f"redis+socket://{self.broker_socket}"

    @cached_property
    def broker_socket(self) -> Path:
        path = self.root / "run" / "broker.sock"
        if len(bytes(path)) > LONGEST_SOCKET_PATH:
            raise ValueError(
                f"TUNESMITH_HOME is too long for a unix socket: {path} should have at most {LONGEST_SOCKET_PATH} bytes"
            )
        return path

    @cached_property
    def models(self) -> Path:
        return (self.models_dir or self.root / "models").expanduser().resolve()

    @cached_property
    def datasets(self) -> Path:
        return (self.datasets_dir or self.root / "datasets").expanduser().resolve()

    def job_dir(self, job_id: str) -> Path:
        return self.root / "jobs" / job_id

    def data_dir(self, job_id: str) -> Path:
        """Where a checker leaves the rows of a job: `app.contracts.rows`."""
        return self.job_dir(job_id) / "data"

    def file_path(self, file_id: str) -> Path:
        return self.root / "files" / file_id

    def adapter_dir(self, adapter_id: str, version: str) -> Path:
        return self.root / "adapters" / adapter_id / version
