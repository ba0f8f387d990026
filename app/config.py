"""The operator's settings: environment variables that start with TUNESMITH_. They are read only here.

The defaults suit a laptop: SQLite, a bundled Valkey and all state below one folder.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.contracts.engine_cache import LEAST_BYTES
from app.contracts.hub import MOST_BYTES
from app.contracts.rows import TOKENIZER
from app.contracts.trackers import read_hosts
from app.contracts.vllm import ONE_OF_BOTH, read_command, read_url
from app.known_hosts import NO_KEYS, HostRules, is_loopback, split_list
from app.processes.encryption_keys import read_keys
from app.processes.engine_address import LONGEST_SOCKET_PATH, EngineAddress, check_privacy, read_key, split_urls
from app.processes.environments import read_names
from app.processes.logs import LogFormat
from app.processes.secret_files import IN_A_FILE, read_secret
from app.public_addresses import read_networks
from app.store.copies import HomeFiles, home_files
from app.store.place import CACHE_BYTES, Addressing, StorePlace, check_endpoint, place_of

PREFIX = "TUNESMITH_"
LOOPBACK = "127.0.0.1"
# The folders of a home to which paths in rows lead.
ROWS_NAME = ("jobs", "adapters")
# Settings that may also be given in a file: TUNESMITH_DATABASE_URL_FILE, …
IN_FILES = ("database_url", "broker_url", "engine_key", "secret_key", "api_key")


def has_home() -> bool:
    """Return whether this user has a home folder. A container's user may have neither HOME nor an entry in passwd."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


class Address(BaseSettings):
    """Where the API is, for the commands that talk to it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    home: Path = Field(Path("~/.tunesmith"), description="all state of this host, or a folder that all hosts share")
    url: str | None = Field(None, description="where the commands find the service; default: host and port")
    api_key: str | None = Field(
        None,
        repr=False,
        description="the key that the commands send; default: run/key in home, to the service that runs on that home",
    )
    host: str = LOOPBACK
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")

    @cached_property
    def root(self) -> Path:
        return self.home.expanduser().resolve()

    @property
    def local_url(self) -> str:
        """The API's URL for clients on this host. For an address that means "any" it names the loopback address."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Settings(Address):
    """The settings, read once at start. Raises ValueError for unknown TUNESMITH_ variables, with their names."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: str | None = Field(None, repr=False, description="SQLAlchemy URL; default: SQLite below home")
    broker_url: str | None = Field(
        None, repr=False, description="Redis URL; default: the bundled Valkey of `tunesmith up`"
    )
    broker_prefix: str = Field("tunesmith:", description="what every key in the broker starts with")
    allowed_hosts: str = Field("", description="further names of this service in clients' URLs, separated by commas")
    allowed_origins: str = Field(
        "", description="origins of web pages that may use it, such as https://ui.example, separated by commas"
    )
    keys: Literal["auto", "required", "optional"] = Field(
        "auto",
        description="whether a request without a key is refused; auto: with TRUSTED_PROXIES, and unless HOST is "
        "loopback or TRUST_NETWORK is set",
    )
    trust_network: bool = Field(
        False, description="serve everybody who reaches an address that is not loopback, also without a key"
    )
    trusted_proxies: str = Field(
        "", description="addresses and networks of proxies that name people in headers, separated by commas"
    )
    proxy_user_header: str = Field("X-Forwarded-User", pattern=r"^[A-Za-z][A-Za-z0-9-]*$")
    proxy_groups_header: str = Field("X-Forwarded-Groups", pattern=r"^[A-Za-z][A-Za-z0-9-]*$")
    proxy_groups: str = Field(
        "",
        description="what people of a group may do: GROUP=PROJECT:SCOPE+SCOPE, separated by commas; * is every project",
    )
    api_processes: int = Field(
        1, ge=1, le=64, description="API processes on the one port; each takes a core under load"
    )
    max_streams: int = Field(1000, ge=1, description="open event streams (SSE) of one API process")
    engine_url: str | None = Field(
        None,
        description="unix:///path or http(s)://host:port, several with commas; default: run/engine.sock in home",
    )
    engine_key: str | None = Field(
        None, repr=False, description="the key of all engines that listen on a port instead of a unix socket"
    )
    engine_cache_bytes: int | None = Field(
        None,
        ge=LEAST_BYTES,
        description="size of the engine's key-value cache for all models in memory; default: a quarter of the memory "
        "that is free when a model is loaded, on a CPU at most 1 GiB",
    )
    vllm_url: str | None = Field(
        None, description="a vLLM server that the engine answers through; its key is in VLLM_API_KEY"
    )
    vllm_command: str | None = Field(
        None,
        description="or the command with which the engine starts vLLM, such as 'vllm serve --max-lora-rank 64'; the "
        "engine adds the requested base",
    )
    secret_key: str | None = Field(
        None,
        repr=False,
        description="encrypts stored secrets: 32 random bytes in base64, or several with commas, the newest first; "
        "default: run/secret.key in home, where the database is SQLite",
    )
    webhook_private_networks: str = Field(
        "",
        description="networks besides the public internet that webhooks may be sent to, also by http, such as "
        "10.1.0.0/16, separated by commas",
    )
    models_dir: Path | None = Field(None, description="local base models; default: home/models")
    datasets_dir: Path | None = Field(
        None, description="files that dataset.source.path may name; default: home/datasets"
    )
    max_body_bytes: int = Field(2 * 2**20, ge=1024, description="of any request but an upload")
    max_upload_bytes: int = Field(2 * 2**30, ge=1024)
    max_unpacked_bytes: int = Field(8 * 2**30, ge=1024, description="of a gzip upload, decompressed")
    max_hub_bytes: int = Field(MOST_BYTES, ge=0, description="of one dataset or model that is downloaded from the hub")
    max_cache_bytes: int = Field(20 * 2**30, ge=0, description="of prepared rows that are cached for later jobs")
    store_url: str | None = Field(
        None,
        description="s3://bucket/prefix of a store for all files, so that hosts share no home; its keys are in "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; default: the home has all files",
    )
    store_endpoint: str | None = Field(
        None, description="URL of the store's S3-compatible server; default: AWS_ENDPOINT_URL_S3, else Amazon's"
    )
    store_addressing: Addressing = Field(
        "auto", description="path: the bucket is named in the path, as many S3-compatible servers need; or virtual"
    )
    store_cache_bytes: int = Field(
        CACHE_BYTES, ge=0, description="of copies of the store in this home; the least recently used are removed first"
    )
    max_waiting_jobs: int = Field(
        1000, ge=1, description="jobs that are validating or queued; one more is refused with 429"
    )
    max_validations: int = Field(16, ge=1, description="concurrent POST /jobs/validate; one more is refused with 429")
    project_limits: str = Field(
        "", description="limits of projects that have none of their own, such as running_jobs=4, waiting_jobs=50"
    )
    keep_jobs_days: int | None = Field(
        None,
        ge=1,
        description="days after which an ended job is removed with its events, logs and checkpoints; its adapter "
        "stays; default: never",
    )
    slot: str | None = Field(
        None, max_length=64, description="what one training occupies; default: the GPU's UUID, or cpu"
    )
    lease_seconds: float = Field(
        180.0, gt=0, description="a worker on another host loses its job after this time without a heartbeat"
    )
    heartbeat_seconds: float = Field(1.0, gt=0, description="how often a worker stores what its child reported")
    reconcile_seconds: float = Field(2.0, gt=0, description="how often a worker looks for lost and waiting jobs")
    grace_seconds: float = Field(
        20.0, ge=0, description="time for a stopping training to save a checkpoint before it is killed"
    )
    silence_seconds: float = Field(
        3600.0, gt=0, description="a process without progress for this time is treated as hung"
    )
    max_attempts: int = Field(3, ge=1, le=100, description="failures in the same place before a job fails")
    warm_spare: bool | None = Field(
        None,
        description="whether a worker keeps one process that has a training's libraries imported, so that the next "
        "training starts at once; default: where there is a GPU, or 12 GiB of memory",
    )
    trainer_module: str = Field("worker.training", description="the Python module that runs a training attempt")
    verify: Literal["engine", "off"] = Field(
        "engine",
        description="engine: a job succeeds once the engine has verified its adapter; off, for hosts without an "
        "engine: adapters are not verified",
    )
    gpu_sharing: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether engine and training use one GPU at once; auto: if both fit by measured memory; never: the "
        "engine unloads its models for every training, and /generate answers 503 meanwhile; always: it keeps them",
    )
    confinement: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether processes that read models and datasets can open only what their job needs (the kernel "
        "must have Landlock); auto: all but those that run Unsloth on a GPU host, whose compilers may be anywhere; on: "
        "those too; off: none",
    )
    tracker_hosts: str = Field(
        "",
        description="servers to which trainings may report, as host:port separated by commas; default: none, so "
        "trackers only write files",
    )
    pass_environment: str = Field(
        "",
        description="further variables for every process, separated by commas; app.processes.environments lists what "
        "each process gets anyway",
    )
    plugins: str = Field(
        "", description="Python modules that add training methods and kinds of jobs, separated by commas (app.plugins)"
    )
    log_level: str = "INFO"
    log_format: LogFormat = Field("text", description="of the logs of API, workers and engine; json: one object a line")

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
        """A value that is passed to the constructor takes precedence over a file."""
        found = {name: read_secret(PREFIX + name.upper(), os.environ) for name in IN_FILES}
        return {**{name: secret for name, secret in found.items() if secret is not None}, **values}

    @field_validator("store_url", "store_endpoint")
    @classmethod
    def _unset_if_empty(cls, url: str | None) -> str | None:
        """Compose sets variables without a value to nothing."""
        return url or None

    @field_validator("database_url", "broker_url")
    @classmethod
    def _can_be_read(cls, url: str | None) -> str | None:
        """Checked here without showing the value: libraries' messages about a bad URL may hold its password."""
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
    def _are_places(cls, urls: str | None) -> str | None:
        return urls if urls is None else ",".join(split_urls(urls))

    @field_validator("engine_key")
    @classmethod
    def _is_a_key(cls, key: str | None) -> str | None:
        return key if key is None else read_key(key)

    @field_validator("secret_key")
    @classmethod
    def _are_keys(cls, keys: str | None) -> str | None:
        if keys:  # compose sets a variable without a value to nothing
            read_keys(keys)
        return keys or None

    @field_validator("webhook_private_networks")
    @classmethod
    def _are_networks(cls, networks: str) -> str:
        read_networks(networks)
        return networks

    @model_validator(mode="after")
    def _nothing_crosses_a_network_in_the_clear(self) -> Self:
        engines = [("ENGINE_URL", url) for url in self._engine_urls]
        for name, url in (*engines, ("VLLM_URL", self.vllm_url)):
            if url is not None:
                check_privacy(url, PREFIX + name, trusts_network=self.trust_network)
        return self

    @model_validator(mode="after")
    def _has_a_store_that_can_be_used(self) -> Self:
        if self.store_endpoint is not None:
            check_endpoint(self.store_endpoint, trusts_network=self.trust_network)
        _ = self.store
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

    @field_validator("tracker_hosts")
    @classmethod
    def _are_hosts(cls, hosts: str) -> str:
        read_hosts(hosts)
        return hosts

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
    def _has_keys_off_loopback(self) -> Self:
        if self.keys == "optional" and not (self.trust_network or is_loopback(self.host)):
            raise ValueError(f"{PREFIX}HOST: found {self.host}, expected 127.0.0.1: {NO_KEYS}")
        return self

    @model_validator(mode="after")
    def _lease_outlives_heartbeat(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(f"{PREFIX}LEASE_SECONDS should be at least three times {PREFIX}HEARTBEAT_SECONDS")
        return self

    @property
    def needs_key(self) -> bool:
        """Whether a request without a key is refused."""
        if self.keys == "auto":
            # Whoever comes through a proxy that names people, but is not named, must not count as a user of this host.
            return bool(split_list(self.trusted_proxies)) or not (self.trust_network or is_loopback(self.host))
        return self.keys == "required"

    @property
    def host_rules(self) -> HostRules:
        """The rules by which the API accepts requests."""
        is_served = self.trust_network or self.needs_key
        return HostRules.of(self.allowed_hosts, self.allowed_origins, trusts_network=is_served)

    @property
    def term_after_seconds(self) -> float:
        """After this many seconds without a renewed lease a training must save a checkpoint and stop."""
        return self.lease_seconds / 2

    @property
    def kill_after_seconds(self) -> float:
        """After this many seconds without a renewed lease its guardian kills the trainer."""
        return self.lease_seconds * 2 / 3

    @property
    def alarm_after_seconds(self) -> float:
        """After this many seconds without a renewed lease a kernel timer kills the trainer, even if its guardian is
        frozen. The reconciler takes the job over only later."""
        return self.lease_seconds * 5 / 6

    @cached_property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.root / 'tunesmith.db'}"

    @cached_property
    def broker(self) -> str:
        return self.broker_url or f"redis+socket://{self.broker_socket}"

    @cached_property
    def engines(self) -> tuple[EngineAddress, ...]:
        """How to reach each engine. Raises ValueError for several without a key, which not every process has, and if
        the path of the default socket would be too long."""
        urls = self._engine_urls or [f"unix://{self._socket('engine.sock')}"]
        if len(urls) > 1 and self.engine_key is None:
            raise ValueError(f"{PREFIX}ENGINE_URL names {len(urls)} engines: {PREFIX}ENGINE_KEY has to be set")
        return tuple(EngineAddress(url, self.engine_key) for url in urls)

    @property
    def _engine_urls(self) -> list[str]:
        return [] if self.engine_url is None else split_urls(self.engine_url)

    @property
    def secret_values(self) -> list[str]:
        """The secrets among the settings, which no log may show."""
        urls = [urlsplit(url) for url in (self.database_url, self.broker_url) if url is not None]
        keys = [self.engine_key or "", *(self.secret_key or "").split(",")]
        return [value for value in (*(unquote(url.password or "") for url in urls), *map(str.strip, keys)) if value]

    @property
    def secret_key_path(self) -> Path:
        """The file of the key for secrets, where `secret_key` is not set."""
        return self.root / "run" / "secret.key"

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
        """Return the present path of a path in a row. Relative paths are below the home.

        Older versions stored absolute paths. Of those only the part below the home is used, so the home may have been
        moved since.
        """
        path = Path(stored)
        begins = [place for place, part in enumerate(path.parts) if part in ROWS_NAME]
        return self.root.joinpath(*path.parts[begins[-1] :]) if begins else self.root / path

    def locate_model(self, stored: str, named: str) -> Path:
        """Return the present folder of a local base model.

        `stored` is relative to the models folder, or absolute in older rows. If it does not exist, the folder is that
        of the name in the job's spec.
        """
        path = self.models / stored
        return path if path.is_dir() else self.models / named

    def job_dir(self, job_id: str) -> Path:
        return self.root / "jobs" / job_id

    def data_dir(self, job_id: str) -> Path:
        """The folder of a job's prepared rows, described in `app.contracts.rows`."""
        return self.job_dir(job_id) / "data"

    def tokenizer_dir(self, job_id: str) -> Path:
        """The folder of a job's tokenizer. The store has it as an entry of its own, because the rows may be large."""
        return self.data_dir(job_id) / TOKENIZER if self.store is None else self.job_dir(job_id) / TOKENIZER

    def checkpoints_dir(self, job_id: str) -> Path:
        return self.job_dir(job_id) / "checkpoints"

    @cached_property
    def store(self) -> StorePlace | None:
        """The place of the store with its keys, or None without one. Raises ValueError for keys that cannot be read."""
        return place_of(self.store_url, self.store_endpoint, self.store_addressing, os.environ)

    @property
    def files(self) -> HomeFiles:
        """The files of the home, which is a cache if there is a store. Raises StoreAway."""
        return home_files(self.root, self.store, self.store_cache_bytes)

    def reference(self, path: Path) -> str:
        """Return the name of a path in the home for the engine. With a store the engine may have another home."""
        return str(path) if self.store is None else path.relative_to(self.root).as_posix()

    @cached_property
    def slots(self) -> Path:
        """The folder of the lock files. They are named by host, because hosts may share a home."""
        return self.root / "run" / "slots"

    def file_path(self, file_id: str) -> Path:
        return self.root / "files" / file_id

    def adapter_dir(self, adapter_id: str, version: str) -> Path:
        return self.root / "adapters" / adapter_id / version
