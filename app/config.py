"""What an operator chooses: environment variables that start with TUNESMITH_, read in this one place.

Defaults suit a laptop: SQLite, a bundled Valkey and all state below one folder.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.contracts.engine_cache import LEAST_BYTES
from app.contracts.hub import MOST_BYTES
from app.contracts.vllm import ONE_OF_BOTH, read_command, read_url
from app.known_hosts import HostRules
from app.processes.engine_address import LONGEST_SOCKET_PATH, EngineAddress, check_privacy, read_engine_url, read_key
from app.processes.environments import read_names
from app.processes.secret_files import IN_A_FILE, read_secret

PREFIX = "TUNESMITH_"
LOOPBACK = "127.0.0.1"
# The folders of a home whose paths rows hold.
ROWS_NAME = ("jobs", "adapters")
# What may be given as the path of a file too: TUNESMITH_DATABASE_URL_FILE, …
IN_FILES = ("database_url", "broker_url", "engine_key")


def has_home() -> bool:
    """Whether `~` stands for a folder: a user of a container may have neither HOME nor an entry in passwd."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


class Address(BaseSettings):
    """Where the API is, as the commands see it that talk to it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    url: str | None = Field(None, description="where the commands find the service; default: host and port")
    host: str = LOOPBACK
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")

    @property
    def local_url(self) -> str:
        """Where a client of this host reaches the API; an address that means "any" is none to connect to."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Settings(Address):
    """Read once at start; unknown TUNESMITH_ variables are refused by name."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    home: Path = Field(Path("~/.tunesmith"), description="all state of this host, or a folder that all hosts share")
    database_url: str | None = Field(None, repr=False, description="SQLAlchemy URL; default: SQLite below home")
    broker_url: str | None = Field(
        None, repr=False, description="Redis URL; default: the bundled Valkey of `tunesmith up`"
    )
    broker_prefix: str = Field("tunesmith:", description="what every key in the broker starts with")
    allowed_hosts: str = Field("", description="further names under which clients reach this service, with commas")
    allowed_origins: str = Field(
        "", description="web pages of other origins that may use it, such as https://ui.example, with commas"
    )
    trust_network: bool = Field(
        False, description="answer on other addresses than loopback, to everybody who reaches them: there are no keys"
    )
    api_processes: int = Field(1, ge=1, le=64, description="that answer on the one port; each takes a core under load")
    max_streams: int = Field(1000, ge=1, description="of events of jobs that one API process sends at once")
    engine_url: str | None = Field(
        None, description="unix:///path or http(s)://host:port; default: run/engine.sock in home"
    )
    engine_key: str | None = Field(
        None, repr=False, description="what an engine that listens on a port, not on a unix socket, has to be told"
    )
    engine_cache_bytes: int | None = Field(
        None,
        ge=LEAST_BYTES,
        description="of keys and values that the engine holds, for all models in memory together; default: 1 GiB on a "
        "CPU and at most a quarter of what is free, on a GPU a quarter of what is free when a model is loaded",
    )
    vllm_url: str | None = Field(
        None, description="a vLLM server that the engine answers through; its key is in VLLM_API_KEY"
    )
    vllm_command: str | None = Field(
        None,
        description="or how the engine starts one, such as 'vllm serve --max-lora-rank 64': for the base that is asked",
    )
    models_dir: Path | None = Field(None, description="local base models; default: home/models")
    datasets_dir: Path | None = Field(
        None, description="files that dataset.source.path may name; default: home/datasets"
    )
    max_body_bytes: int = Field(2 * 2**20, ge=1024, description="of any request but an upload")
    max_upload_bytes: int = Field(2 * 2**30, ge=1024)
    max_unpacked_bytes: int = Field(8 * 2**30, ge=1024, description="of a gzip upload, unpacked")
    max_hub_bytes: int = Field(
        MOST_BYTES, ge=0, description="of one dataset, or of one model, that is downloaded from the hub"
    )
    max_cache_bytes: int = Field(20 * 2**30, ge=0, description="of prepared rows that are kept for later jobs")
    max_waiting_jobs: int = Field(1000, ge=1, description="jobs that are checked or queued; one more is a 429")
    max_validations: int = Field(16, ge=1, description="POST /jobs/validate at once; one more is a 429")
    keep_jobs_days: int | None = Field(
        None,
        ge=1,
        description="an ended job is removed so long after its end, with its events, logs and checkpoints; its adapter "
        "stays; default: never",
    )
    slot: str | None = Field(
        None, max_length=64, description="what one training occupies; default: the GPU's UUID, or cpu"
    )
    lease_seconds: float = Field(
        180.0, gt=0, description="a worker of another host that is silent for so long has lost its job"
    )
    heartbeat_seconds: float = Field(1.0, gt=0, description="how often a worker stores what its child reported")
    reconcile_seconds: float = Field(2.0, gt=0, description="how often a worker looks for what was lost or waits")
    grace_seconds: float = Field(
        20.0, ge=0, description="what a training that is told to stop has for its checkpoint before it is killed"
    )
    silence_seconds: float = Field(3600.0, gt=0, description="a process that does nothing for so long is hung")
    max_attempts: int = Field(3, ge=1, le=100, description="failures in the same place before a job fails")
    trainer_module: str = Field("worker.training", description="the program of an attempt: it is given an order")
    verify: Literal["engine", "off"] = Field(
        "engine",
        description="engine: a job succeeds once the engine has proved its adapter; off, for hosts without an engine: "
        "adapters are served unproved",
    )
    gpu_sharing: Literal["auto", "always", "never"] = Field(
        "auto",
        description="the engine and a training on one GPU; auto: at once where both fit, by what is measured; never: "
        "the engine steps aside for every training, and /generate is a 503 meanwhile; always: it stays",
    )
    confinement: Literal["auto", "on", "off"] = Field(
        "auto",
        description="processes that read models and datasets open only what their job needs, where the kernel has "
        "Landlock; auto: all but those that run Unsloth on a GPU host, whose compilers may lie anywhere; on: those "
        "too; off: none",
    )
    pass_environment: str = Field(
        "",
        description="further variables that every process is given, with commas; what each gets is in "
        "app.processes.environments",
    )
    log_level: str = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_variable(cls, values: dict[str, object]) -> dict[str, object]:
        known = {PREFIX + name.upper() for name in cls.model_fields}
        known |= {PREFIX + name.upper() + IN_A_FILE for name in IN_FILES}
        unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
        if unknown:
            raise ValueError(f"unknown variables {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _secrets_of_files(cls, values: dict[str, object]) -> dict[str, object]:
        """What is given to the call itself goes before a file."""
        found = {name: read_secret(PREFIX + name.upper(), os.environ) for name in IN_FILES}
        return {**{name: secret for name, secret in found.items() if secret is not None}, **values}

    @field_validator("database_url", "broker_url")
    @classmethod
    def _can_be_read(cls, url: str | None) -> str | None:
        """Here, where no value is shown: what libraries say of a URL that they cannot read may hold its password."""
        try:
            parts = urlsplit(url or "")
            is_clear = parts.port is None or "@" not in parts.path + parts.fragment
        except ValueError:
            is_clear = False
        if not is_clear:
            raise ValueError("should be a URL whose user name and password are percent-encoded")
        return url

    @field_validator("engine_url")
    @classmethod
    def _is_a_place(cls, url: str | None) -> str | None:
        return url if url is None else read_engine_url(url)

    @field_validator("engine_key")
    @classmethod
    def _is_a_key(cls, key: str | None) -> str | None:
        return key if key is None else read_key(key)

    @model_validator(mode="after")
    def _nothing_crosses_a_network_in_the_clear(self) -> Self:
        for name, url in (("ENGINE_URL", self.engine_url), ("VLLM_URL", self.vllm_url)):
            if url is not None:
                check_privacy(url, PREFIX + name, trusts_network=self.trust_network)
        return self

    @field_validator("home")
    @classmethod
    def _can_be_found(cls, home: Path) -> Path:
        if home.parts[:1] == ("~",) and not has_home():
            raise ValueError("should be a folder for all state: this user has no home folder")
        return home

    @field_validator("vllm_url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        return url if url is None else read_url(url)

    @field_validator("vllm_command")
    @classmethod
    def _is_a_command(cls, command: str | None) -> str | None:
        if command is not None:
            read_command(command)
        return command

    @field_validator("pass_environment")
    @classmethod
    def _are_names(cls, names: str) -> str:
        read_names(names)
        return names

    @model_validator(mode="after")
    def _one_vllm(self) -> Self:
        if self.vllm_url is not None and self.vllm_command is not None:
            raise ValueError(ONE_OF_BOTH)
        return self

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(f"{PREFIX}LEASE_SECONDS should be at least three times {PREFIX}HEARTBEAT_SECONDS")
        return self

    @property
    def host_rules(self) -> HostRules:
        """Whose requests the API answers."""
        return HostRules.of(self.allowed_hosts, self.allowed_origins, trusts_network=self.trust_network)

    @property
    def term_after_seconds(self) -> float:
        """Without a heartbeat in the database: a training is told to stop with a checkpoint."""
        return self.lease_seconds / 2

    @property
    def kill_after_seconds(self) -> float:
        """… and is killed by its guardian."""
        return self.lease_seconds * 2 / 3

    @property
    def alarm_after_seconds(self) -> float:
        """… and by the kernel, in case its guardian is frozen too; its lease is taken only after that."""
        return self.lease_seconds * 5 / 6

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
    def engine(self) -> EngineAddress:
        """How to reach it. Raises ValueError where its socket would have too long a path."""
        return EngineAddress(self.engine_url or f"unix://{self._socket('engine.sock')}", self.engine_key)

    @cached_property
    def broker_socket(self) -> Path:
        return self._socket("broker.sock")

    def _socket(self, name: str) -> Path:
        path = self.root / "run" / name
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

    def locate(self, stored: str) -> Path:
        """Where a path is now that a row holds: relative ones lie below the home.

        Older versions stored absolute ones. Of those counts what stands behind the home that they were below, so that
        a home which was moved is as good as one that was not.
        """
        path = Path(stored)
        begins = [place for place, part in enumerate(path.parts) if part in ROWS_NAME]
        return self.root.joinpath(*path.parts[begins[-1] :]) if begins else self.root / path

    def locate_model(self, stored: str, named: str) -> Path:
        """Where a local base model is now: `stored` is relative to the models folder, or absolute in older rows; where
        that is gone, the model of the name that the job gave."""
        path = self.models / stored
        return path if path.is_dir() else self.models / named

    def job_dir(self, job_id: str) -> Path:
        return self.root / "jobs" / job_id

    def data_dir(self, job_id: str) -> Path:
        """Where a checker leaves the rows of a job: `app.contracts.rows`."""
        return self.job_dir(job_id) / "data"

    def checkpoints_dir(self, job_id: str) -> Path:
        return self.job_dir(job_id) / "checkpoints"

    @cached_property
    def slots(self) -> Path:
        """Lock files, named by host: a home may be shared."""
        return self.root / "run" / "slots"

    def file_path(self, file_id: str) -> Path:
        return self.root / "files" / file_id

    def adapter_dir(self, adapter_id: str, version: str) -> Path:
        return self.root / "adapters" / adapter_id / version
