"""`python -m tests.integration.engine.vllm_program <forker> serve <base> …`: the recorded protocol, started as vLLM is.

What answers is forked elsewhere, as its imports take seconds; this process has its port, and ends it with itself. It
has a process below it, as vLLM has one that computes, which nobody but its guardian ends.
"""

import asyncio
import os
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from pathlib import Path

from tests.support.forking import Forked

ANSWERING = "tests.integration.engine.vllm_server"
POLL_SECONDS = 0.02


def main() -> None:
    forker, words = Path(sys.argv[1]), sys.argv[2:]
    print(f"serves {words[1]}", flush=True)  # noqa: T201  the log is what a test reads
    subprocess.Popen(["sleep", "1000"])
    host, port = (words[words.index(name) + 1] for name in ("--host", "--port"))
    with socket.create_server((host, 0)) as free:
        behind = free.getsockname()[1]
    answering = Forked(forker, ANSWERING, [*words, "--port", str(behind)], os.environ)
    asyncio.run(_serve(answering, host, int(port), behind))


async def _serve(answering: Forked, host: str, port: int, behind: int) -> None:
    asyncio.get_running_loop().add_reader(answering, os._exit, 1)  # it ends only when it fails

    async def relay(reader: StreamReader, writer: StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(host, behind)
        await asyncio.gather(_pipe(reader, other_writer), _pipe(other_reader, writer))

    while not await _is_open(host, behind):
        await asyncio.sleep(POLL_SECONDS)
    async with await asyncio.start_server(relay, host, port) as server:
        await server.serve_forever()


async def _is_open(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def _pipe(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    main()
