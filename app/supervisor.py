"""`tunesmith up`: runs the whole service on this host, under one process that Ctrl-C stops.

up ──> broker | engine | checker, trainer | api        each has a guardian, so no process outlives `up`
"""

import errno
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from alembic.util import CommandError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from app.access import repository
from app.access.keys import is_equal, read_key
from app.access.peppers import peppers
from app.access.permissions import Permission
from app.access.proxies import TrustedProxies
from app.accounts import commands
from app.config import IN_FILES, LOOPBACK, PREFIX, Settings, has_home
from app.contracts.vllm import COMMAND_VARIABLE, URL_VARIABLE, read_command
from app.database.connection import Database
from app.database.migrate import upgrade
from app.errors import Unavailable
from app.jobs.queue.orphans import AnotherInstallation, check_belongs
from app.processes.broker import Broker, open_broker
from app.processes.engine_address import EngineAddress
from app.processes.environments import Process, environment_of, read_names
from app.processes.guardian import Guarded, spawn
from app.processes.guardian_process import UMASK
from app.processes.lock import CannotStart, Interrupted, hold_lock
from app.processes.log_rotation import rotate
from app.processes.private_files import keep_private
from app.processes.process_group import POLL_SECONDS, ProcessGroup, Say, Service, is_asked_to_stop, signals_held_back
from app.processes.secret_files import IN_A_FILE
from app.proxies import needs_certificates
from app.scope import EVERY_PROJECT

HEALTHY_SECONDS = 60.0
ENGINE_SECONDS = 60.0
# With the broker's two seconds Ctrl-C takes at most fifteen. A worker needs the most, because its training ends first.
API_GRACE_SECONDS = 2.0
WORKER_GRACE_SECONDS = 9.0
ENGINE_GRACE_SECONDS = 2.0
# After `up` was killed, guardians need at most this time to end its processes.
LEFTOVER_SECONDS = WORKER_GRACE_SECONDS + 5
STAGES = {Process.CHECKER: "check", Process.TRAINER: "train"}
# Not passed on to the children, because the settings hold what these files contain.
OUR_FILES = frozenset(f"{PREFIX}{name.upper()}{IN_A_FILE}" for name in IN_FILES)
# One training at a time; several checks, so that one that waits for the hub does not delay the others.
THREADS = {Process.CHECKER: 4, Process.TRAINER: 1}


def up(settings: Settings, say: Say) -> None:
    """Run the service until SIGINT, SIGTERM or SIGHUP, then stop all of it; a second signal kills what is left.

    Once it is healthy and its engine is up, its URL is in `home/run/url`. Raises `CannotStart`, with nothing left
    running, if the home or a port is in use or the API does not start.
    """
    os.umask(UMASK)
    if not settings.root.exists():
        settle(settings)  # so that refused settings leave no empty home
    with signals_held_back(), ExitStack() as stack:
        _make_folders(settings, say)
        tree = _claim_home(settings.root, stack)
        settings = settle(settings)
        _migrate(settings.database, say)
        _warn_of_another_home(settings, say)
        _keep_local_key(settings)
        with ProcessGroup(_tiers(settings, tree, stack), say) as group:
            _wait_until_healthy(group, settings)
            _wait_for_engine(group, settings, say)
            _announce(settings, say)
            group.keep_running(lambda: _bound_logs(settings.root / "logs"))
            say("stopping")
            group.stop()
    say("stopped")


def url_file(home: Path) -> Path:
    """Return the file that holds the service's URL while it runs."""
    return home / "run" / "url"


def settle(settings: Settings) -> Settings:
    """Return the settings with concrete values that all children share: free ports and absolute paths.

    Raises `CannotStart` for a port in use, and a vLLM program that does not exist. Of the engines the first on this
    host is started.
    """
    try:
        TrustedProxies.of(settings)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    engines = _engines_of(settings)
    engine = next((each for each in engines if _is_here(each)), engines[0])
    vllm_command = _settle_vllm(settings, engine)
    port, settled = _free_ports(settings, engine)
    chosen = {
        "home": settings.root,
        "port": port,
        "engine_url": ",".join(settled.url if each == engine else each.url for each in engines),
        "engine_key": settled.key,
        "vllm_command": vllm_command,
        "database_url": _absolute(settings.database),
        "models_dir": settings.models,
        "datasets_dir": settings.datasets,
    }
    return Settings.model_validate({**settings.model_dump(exclude_unset=True), **chosen})


def _engines_of(settings: Settings) -> tuple[EngineAddress, ...]:
    """Raises `CannotStart` if the path of its socket would be too long."""
    try:
        return settings.engines
    except ValueError as error:
        raise CannotStart(str(error)) from error


def _settle_vllm(settings: Settings, engine: EngineAddress) -> str | None:
    """Return the command with the absolute path of its program, because the engine runs in another folder."""
    is_chosen = settings.vllm_url is not None or settings.vllm_command is not None
    if is_chosen and not _is_here(engine):
        raise CannotStart(
            f"{URL_VARIABLE} and {COMMAND_VARIABLE} are for an engine on this host: set them where the engine at "
            f"{engine.url} runs"
        )
    if settings.vllm_command is None:
        return None
    command = read_command(settings.vllm_command)
    program = shutil.which(command.program[0])
    if program is None:
        raise CannotStart(f"{COMMAND_VARIABLE}: there is no program {command.program[0]!r} on this host")
    return shlex.join([str(Path(program).absolute()), *command.program[1:], *command.options])


def _free_ports(settings: Settings, engine: EngineAddress) -> tuple[int, EngineAddress]:
    """Return free ports for the API and for an engine on this host that listens on one.

    Both are reserved at the same time, so that they differ.
    """
    with closing(_listen(settings.host, settings.port, f"{PREFIX}PORT")) as api:
        port: int = api.getsockname()[1]
        if engine.socket is not None or not _is_here(engine):
            return port, engine
        with closing(_listen(LOOPBACK, urlsplit(engine.url).port or 0, f"{PREFIX}ENGINE_URL")) as listener:
            url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
            return port, EngineAddress(url, engine.key or secrets.token_urlsafe(32))


def _listen(host: str, port: int, variable: str) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} of {host} is in use; choose another with {variable} (0: any free port)"
            raise CannotStart(message) from error
        raise CannotStart(f"cannot listen on port {port} of {host} ({variable}): {error.strerror}") from error


def _is_here(engine: EngineAddress) -> bool:
    """Return whether the engine runs on this host, so that `up` starts it."""
    return engine.socket is not None or urlsplit(engine.url).hostname in (LOOPBACK, "localhost")


def _absolute(database_url: str) -> str:
    """Make a relative SQLite path absolute, because the children run in another folder."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return url.render_as_string(hide_password=False)


def _make_folders(settings: Settings, say: Say) -> None:
    for name in ("run", "logs", "jobs", "files", "adapters"):
        (settings.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (settings.models, settings.datasets):
        folder.mkdir(parents=True, exist_ok=True)
    open_home = keep_private(settings.root, settings.database)
    if open_home is not None:
        say(open_home)


def _migrate(database_url: str, say: Say) -> None:
    try:
        upgrade(database_url, say=say)
    except (OperationalError, CommandError) as error:
        reason = error.orig if isinstance(error, OperationalError) else error
        raise CannotStart(f"the database {make_url(database_url)!r} cannot be brought up to date: {reason}") from error


def _warn_of_another_home(settings: Settings, say: Say) -> None:
    with closing(Database.open(settings.database)) as database:
        try:
            check_belongs(database, settings)
        except AnotherInstallation as error:
            say(str(error))


def _keep_local_key(settings: Settings) -> None:
    """Keep a key for the commands of this user in `run/key`. It is made anew if the database does not know it.

    Without a secret key there is none, and commands have none to send.
    """
    path = settings.root / "run" / "key"
    try:
        secrets_of_home = peppers(settings)
    except Unavailable:
        path.unlink(missing_ok=True)
        return
    with closing(Database.open(settings.database)) as database, database.reader() as session:
        known = read_key(path.read_text().strip()) if path.exists() else None
        row = None if known is None else repository.get(session, EVERY_PROJECT, known.key_id)
        if known and row and row.revoked_at is None and is_equal(known.secret, row.hash, secrets_of_home):
            return
    wanted = {"name": "tunesmith up", "scopes": [Permission.ADMIN], "expires_in_days": None}
    text = commands.create(settings, wanted).key
    draft = path.with_suffix(".tmp")
    draft.touch(mode=0o600)
    draft.write_text(text)
    draft.rename(path)


def _claim_home(home: Path, stack: ExitStack) -> int:
    """Allow one `up` for each home. Returns a lock that the children inherit, free once all of them have ended."""
    refusal = f"`tunesmith up` already runs on {home}; stop it or choose another home"
    stack.enter_context(hold_lock(home / "run" / "up.lock", refusal))
    refusal = f"processes of an earlier run on {home} are still ending; try again in a moment"
    tree = stack.enter_context(hold_lock(home / "run" / "tree.lock", refusal, LEFTOVER_SECONDS))
    stack.callback(url_file(home).unlink, missing_ok=True)
    url_file(home).unlink(missing_ok=True)
    return tree


def _bound_logs(folder: Path) -> None:
    """Keep only the newest part of each log, because a service runs for months."""
    for log in folder.glob("*.log"):
        rotate(log)


@dataclass(frozen=True)
class _Launcher:
    """Starts this project's programs in one folder, each with a log and the variables that it needs."""

    home: Path
    environment: Mapping[str, str]
    passed: Sequence[str]
    tree: int

    def service(self, process: Process, grace_seconds: float, module: str, *arguments: str) -> Service:
        argv = [sys.executable, "-m", module, *arguments]
        return Service(process.value, lambda: self._start(process, argv, grace_seconds))

    def environment_of(self, process: Process) -> dict[str, str]:
        return environment_of(process, self.environment, self.passed)

    def log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _start(self, process: Process, argv: Sequence[str], grace_seconds: float) -> Guarded:
        return spawn(
            argv,
            env=self.environment_of(process),
            cwd=self.home,
            output=self.log(process.value),
            grace_seconds=grace_seconds,
            pass_fds=[self.tree],
        )


def _tiers(settings: Settings, tree: int, stack: ExitStack) -> list[list[Service]]:
    """Return the services to run, in the order of starting."""
    passed = read_names(settings.pass_environment)
    launcher = _Launcher(settings.root, _child_environment(settings), passed, tree)
    tiers: list[list[Service]] = []
    if settings.broker_url is None:
        broker = stack.enter_context(open_broker(settings.broker_socket))
        tiers.append([_broker(broker, launcher)])
    here = next((engine for engine in settings.engines if _is_here(engine)), None)
    if here is not None:
        arguments = [*_engine_place(here), "--vllm-log", str(launcher.log("vllm"))]
        tiers.append([launcher.service(Process.ENGINE, ENGINE_GRACE_SECONDS, "worker.inference", *arguments)])
    workers = [(worker, _worker_arguments(worker, settings)) for worker in STAGES]
    tiers.append([launcher.service(worker, WORKER_GRACE_SECONDS, "celery", *words) for worker, words in workers])
    tiers.append([launcher.service(Process.API, API_GRACE_SECONDS, "app.serve")])
    return tiers


def _engine_place(engine: EngineAddress) -> list[str]:
    if engine.socket is not None:
        return ["--socket", str(engine.socket)]
    return ["--host", LOOPBACK, "--port", str(urlsplit(engine.url).port)]


def _broker(broker: Broker, launcher: _Launcher) -> Service:
    log, environment = launcher.log("broker"), launcher.environment_of(Process.BROKER)
    return Service("broker", lambda: broker.start(log, environment))


def _worker_arguments(worker: Process, settings: Settings) -> list[str]:
    node = ["-n", f"{worker}0@%h", "-Q", f"tunesmith.{STAGES[worker]}", "--loglevel", settings.log_level]
    concurrency = str(THREADS[worker])
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    quiet = ["--quiet"] if settings.log_format == "json" else []  # Celery begins with a banner
    return ["-A", "worker.supervising.celery_app", *quiet, "worker", "-P", "threads", "-c", concurrency, *node, *alone]


def _child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment from which each child gets what it needs.

    Raises `CannotStart` if the home's path is too long for the broker's socket.
    """
    try:
        broker_url = settings.broker
    except ValueError as error:
        raise CannotStart(str(error)) from error
    chosen = {**settings.model_dump(exclude_unset=True, exclude_none=True), "broker_url": broker_url}
    inherited = {name: value for name, value in os.environ.items() if name not in OUR_FILES}
    own = {} if has_home() else {"HOME": str(settings.root)}  # libraries of the children keep caches there
    return {**inherited, **own, **{PREFIX + name.upper(): str(value) for name, value in chosen.items()}}


def _wait_until_healthy(group: ProcessGroup, settings: Settings) -> None:
    """Raises `CannotStart` if the API ends or does not answer in time, and `Interrupted` at a signal."""
    deadline = time.monotonic() + HEALTHY_SECONDS
    while not _is_healthy(settings.local_url):
        if not group.is_alive("api") or time.monotonic() > deadline:
            raise CannotStart(f"the API did not start; see {settings.root / 'logs' / 'api.log'}")
        if is_asked_to_stop(POLL_SECONDS):
            raise Interrupted("stopped while the service was starting")


def _wait_for_engine(group: ProcessGroup, settings: Settings, say: Say) -> None:
    """Wait while the engine loads its libraries. Jobs can be submitted without it, so its failure is only reported."""
    if not group.has("engine"):
        return
    deadline = time.monotonic() + ENGINE_SECONDS
    while not _has_engine(settings.local_url):
        if not group.is_alive("engine") or time.monotonic() > deadline:
            log = settings.root / "logs" / "engine.log"
            say(f"the engine has not started, and /generate answers 503 until it has; see {log}")
            return
        if is_asked_to_stop(POLL_SECONDS):
            raise Interrupted("stopped while the service was starting")


def _is_healthy(url: str) -> bool:
    return _get(f"{url}/healthz").get("status") == "ok"


def _has_engine(url: str) -> bool:
    """Return whether the engine is up. It counts as up while it has unloaded its models for a training."""
    return _get(f"{url}/readyz").get("engine") is True


def _get(url: str) -> dict[str, object]:
    """Return the JSON of the response, or an empty dict if there is none."""
    try:
        answer: dict[str, object] = httpx.get(url, timeout=5.0, trust_env=False, verify=needs_certificates(url)).json()
    except (httpx.TransportError, ValueError):
        return {}
    return answer


def _announce(settings: Settings, say: Say) -> None:
    draft = url_file(settings.root).with_suffix(".tmp")
    draft.write_text(settings.local_url)
    draft.rename(url_file(settings.root))
    say(f"Tunesmith is at {settings.local_url}/ui, its API is described at {settings.local_url}/docs")
    say(f"state: {settings.root}, logs: {settings.root / 'logs'}, models: {settings.models}")
    say("Ctrl-C stops everything")
