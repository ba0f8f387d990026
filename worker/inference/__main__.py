"""`python -m worker.inference`: the engine process. SIGTERM ends its answers with an error and stops it."""

import argparse
import logging
import os
import signal
import socket
import sys

import uvicorn
from transformers.utils import logging as transformers_logging

from worker.inference.bases import DTYPES, Placement
from worker.inference.batching.engine import BatchingEngine
from worker.inference.batching.host import BatchLimits
from worker.inference.engine import Engine
from worker.inference.server import create_app

GRACE_SECONDS = 5


class EngineServer(uvicorn.Server):
    """A server that tells the engine before it waits for the connections to end."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    transformers_logging.disable_progress_bar()
    placement = Placement.choose(options.device, options.dtype)
    limits = BatchLimits(cache_tokens=options.cache_tokens)
    engine = BatchingEngine(placement, limits=limits, on_broken_device=lambda: os.kill(os.getpid(), signal.SIGTERM))
    config = uvicorn.Config(
        create_app(engine),
        host=options.host,
        port=options.port,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: sys.exit(0))  # uvicorn raises the signal once more when it has shut down
    try:
        EngineServer(config, engine).run()
    finally:
        if not engine.join(GRACE_SECONDS):
            os._exit(0)  # a model that is being loaded cannot be interrupted otherwise


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.inference", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    parser.add_argument(
        "--cache-tokens", type=int, help="tokens whose keys and values are held; default: by free memory"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
