"""`python -m worker.inference`: the engine process. SIGTERM ends its answers with an error and stops it."""

import worker.inference.models.cores  # noqa: F401  # isort: skip  # before torch

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, get_args

import uvicorn
from transformers.utils import logging as transformers_logging
from uvicorn.config import LOGGING_CONFIG

from app.contracts.engine_cache import VARIABLE as CACHE_VARIABLE
from app.contracts.engine_cache import read_bytes
from app.contracts.hub import MAX_BYTES_VARIABLE, MOST_BYTES
from app.contracts.vllm import COMMAND_VARIABLE, ONE_OF_BOTH, URL_VARIABLE, read_command, read_url
from app.known_hosts import HOSTS_VARIABLE, TRUST_VARIABLE, HostRules
from app.processes.engine_address import KEY_VARIABLE, check_privacy, read_key
from app.processes.environments import VLLM_KEY, own_secrets
from app.processes.garbage import exclude_from_collections
from app.processes.guardian_process import UMASK
from app.processes.logs import VARIABLE as FORMAT_VARIABLE
from app.processes.logs import LogFormat, set_up
from app.processes.secret_files import read_secret
from app.processes.traces import TracedRequests, start_tracing
from app.redaction import redact_logs
from app.slow_clients import TimedProtocol
from app.store.copies import home_files
from app.store.place import CACHE as STORE_CACHE
from app.store.place import CACHE_BYTES, place_in
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.engine import Engine
from worker.inference.models.bases import DTYPES, Placement
from worker.inference.server.app import create_app
from worker.inference.server.listening import NO_KEY, listen
from worker.inference.server.memory_lease import MemoryLeases
from worker.inference.server.roots import Roots
from worker.inference.vllm.engine import VllmEngine
from worker.inference.vllm.process import ManagedVllm, VllmProgram
from worker.inference.vllm.server import VllmServer

GRACE_SECONDS = 5
T = TypeVar("T")


class EngineServer(uvicorn.Server):
    """A server that closes the engine before it waits for the connections to end."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)


def main() -> None:
    os.umask(UMASK)
    options = read_options(sys.argv[1:])
    set_up(logging.INFO, options.log_format)
    redact_logs([*own_secrets(), *([] if options.key is None else [options.key])])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log a line for every token of a probe
    transformers_logging.disable_progress_bar()
    try:
        listener = None if options.socket is None else listen(options.socket)
    except (ValueError, OSError) as error:
        sys.exit(f"cannot listen: {error}")
    engine = _engine(options)
    leases = MemoryLeases(engine) if isinstance(engine, BatchingEngine) else None  # a vLLM server's memory is not ours
    bounds = (options.cache, options.max_hub_bytes)
    app = create_app(engine, options.roots, leases, _host_rules(), *bounds, key=options.key, files=options.files)
    if (tracing := start_tracing("tunesmith-engine")) is not None:
        app.add_middleware(TracedRequests, tracing=tracing)
    config = uvicorn.Config(
        app,
        **({} if options.host is None else {"host": options.host, "port": options.port}),
        loop="asyncio",  # the same whether or not another package has brought uvloop
        http=TimedProtocol,
        access_log=False,
        log_config=None if options.log_format == "json" else LOGGING_CONFIG,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))  # uvicorn raises the signal once more when it has shut down
    exclude_from_collections()  # a collection runs whenever a model is unloaded
    try:
        EngineServer(config, engine).run(None if listener is None else [listener])
    finally:
        if not engine.join(GRACE_SECONDS):
            os._exit(0)  # loading a model cannot be interrupted in another way


def _host_rules() -> HostRules:
    """The same rules as the API's. In a container network, variables give the engine's host name and say to trust the
    network.
    """
    return HostRules.of(os.environ.get(HOSTS_VARIABLE, ""), "", trusts_network=_trusts_network())


def _trusts_network() -> bool:
    return os.environ.get(TRUST_VARIABLE, "").lower() in ("1", "true", "yes", "on")


def _engine(options: argparse.Namespace) -> BatchingEngine | VllmEngine:
    if options.vllm_url is not None:
        return VllmEngine(VllmServer(options.vllm_url, options.vllm_key))
    if options.vllm_command is not None:
        return VllmEngine(ManagedVllm(VllmProgram(options.vllm_command, options.vllm_log)))
    placement = Placement.choose(options.device, options.dtype)
    limits = BatchLimits(cache_bytes=options.cache_bytes)
    return BatchingEngine(placement, limits=limits, on_broken_device=lambda: os.kill(os.getpid(), signal.SIGTERM))


def read_options(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises SystemExit 2 if an argument or an environment variable is invalid."""
    parser = argparse.ArgumentParser(prog="python -m worker.inference", description=__doc__)
    _add_places(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    parser.add_argument(
        "--cache-bytes",
        type=_read_by(read_bytes),
        default=os.environ.get(CACHE_VARIABLE),
        help=f"bytes of keys and values of all models in memory; default: ${CACHE_VARIABLE}, or by free memory",
    )
    parser.add_argument("--cache", type=Path, help="folder for the hashes of base models; default: cache in the home")
    parser.add_argument(
        "--max-hub-bytes",
        type=int,
        default=os.environ.get(MAX_BYTES_VARIABLE, MOST_BYTES),
        help=f"most bytes to download for one model of the hub; default: ${MAX_BYTES_VARIABLE}, or {MOST_BYTES}",
    )
    parser.add_argument(
        "--log-format",
        choices=get_args(LogFormat),
        default=os.environ.get(FORMAT_VARIABLE, "text"),
        help=f"json: one object a line; default: ${FORMAT_VARIABLE}, or text",
    )
    _add_vllm(parser)
    options = parser.parse_args(words)
    if options.vllm_url is not None and options.vllm_command is not None:
        parser.error(ONE_OF_BOTH)
    try:
        _settle(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _settle(options: argparse.Namespace) -> None:
    """Check options against each other, fill in defaults and read the secrets. Raises ValueError."""
    options.roots = Roots.of(options.home, options.models)
    store = place_in(os.environ, trusts_network=_trusts_network())
    options.files = home_files(options.roots.home, store, int(os.environ.get(STORE_CACHE) or CACHE_BYTES))
    options.cache = options.cache or options.roots.home / "cache"
    key = read_secret(KEY_VARIABLE, os.environ)
    options.key = None if key is None else read_key(key)
    if options.vllm_url is not None:
        check_privacy(options.vllm_url, URL_VARIABLE, trusts_network=_trusts_network())
    options.vllm_key = read_secret(VLLM_KEY, os.environ)
    if options.host is None and options.port is None:
        options.socket = options.socket or options.roots.home / "run" / "engine.sock"
        return
    if options.socket is not None:
        raise ValueError("--socket, or --host and --port: both were given")
    if options.key is None:
        raise ValueError(NO_KEY)
    options.host, options.port = options.host or "127.0.0.1", 8100 if options.port is None else options.port


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", type=Path, help="the unix socket to listen on; default: run/engine.sock in home")
    parser.add_argument(
        "--host", help=f"listen on a port instead, for clients that send {KEY_VARIABLE}; default: 127.0.0.1"
    )
    parser.add_argument("--port", type=int, help="default: 8100")
    home, models = os.environ.get("TUNESMITH_HOME", "~/.tunesmith"), os.environ.get("TUNESMITH_MODELS_DIR")
    parser.add_argument(
        "--home", type=Path, default=Path(home), help="home folder of the service; default: $TUNESMITH_HOME"
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(models) if models else None,
        help="the folder of base models; default: $TUNESMITH_MODELS_DIR, or models in the home",
    )


def _add_vllm(parser: argparse.ArgumentParser) -> None:
    """With these options vLLM chooses device, dtype and cache itself."""
    parser.add_argument(
        "--vllm-url",
        type=_read_by(read_url),
        default=os.environ.get(URL_VARIABLE),
        help=f"answer through the vLLM server at this URL, whose API key is in {VLLM_KEY}; default: ${URL_VARIABLE}",
    )
    parser.add_argument(
        "--vllm-command",
        type=_read_by(read_command),
        default=os.environ.get(COMMAND_VARIABLE),
        help="answer through a vLLM that is started with this command, such as 'vllm serve --max-lora-rank 64', for "
        f"the requested base; default: ${COMMAND_VARIABLE}",
    )
    parser.add_argument(
        "--vllm-log", type=Path, help="file to which the output of vLLM is appended; default: the engine's own output"
    )


def _read_by(read: Callable[[str], T]) -> Callable[[str], T]:
    """Wrap a parser so that argparse shows its message: it shows only those of its own error class."""

    def checked(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


if __name__ == "__main__":
    main()
