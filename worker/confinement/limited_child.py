"""The child side of a limited process (`worker.confinement.limited_process`): it answers one request after another.

Requests and answers are JSON with a frame before it. The kernel kills the process if a request uses more CPU time than
its frame allows, and limits its memory to what the command line says.
"""

import json
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

# Before the JSON: the CPU seconds that a request may use, or that its answer used, and the number of bytes.
FRAME = struct.Struct("!dQ")
ENCODER = json.JSONEncoder(ensure_ascii=False)


def serve(answer: Callable[[Any], object]) -> None:
    """Answer requests from standard input, which is a socket, until the other end is closed."""
    _limit_memory(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and this process with it
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with open(0, "rb", closefd=False) as requests, open(0, "wb", closefd=False) as answers:
        while frame := requests.read(FRAME.size):
            seconds, length = FRAME.unpack(frame)
            _answer(answer, seconds, requests.read(length), answers)


def _answer(answer: Callable[[Any], object], seconds: float, request: bytes, answers: BinaryIO) -> None:
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    body = encoded(answer(json.loads(request.decode("utf-8", "surrogatepass"))))
    signal.setitimer(signal.ITIMER_PROF, 0)
    answers.write(FRAME.pack(time.process_time() - began, len(body)))
    answers.write(body)
    answers.flush()


def encoded(value: object) -> bytes:
    """JSON as bytes. A text may contain half of a surrogate pair."""
    return ENCODER.encode(value).encode("utf-8", "surrogatepass")


def _limit_memory(most_bytes: int) -> None:
    """Allow `most_bytes` of address space in addition to what the process and its libraries use already."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + most_bytes
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
