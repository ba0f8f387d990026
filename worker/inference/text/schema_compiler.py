"""Compiles slow schemas one at a time in a process that can be killed, with a short queue."""

import logging
import queue
import threading
from concurrent.futures import Future
from contextlib import closing

from app.processes.environments import Process
from worker.confinement.limited_process import CallFailed, LimitedProcess
from worker.inference.engine import Refusal
from worker.inference.text.schema_child import Unkept

MOST_WAITING = 8
MOST_SECONDS = 10
# Wall-clock limit. The kernel limits CPU time; wall-clock time may be longer if others use the cores.
LONGEST_SECONDS = 120.0
CHILD = "worker.inference.text.schema_child"

log = logging.getLogger(__name__)


class SchemaCompilerPool:
    """A queue, and a thread that runs the child processes. The thread, and its child, end with the process."""

    def __init__(self, most_waiting: int = MOST_WAITING, most_seconds: int = MOST_SECONDS) -> None:
        self._waiting: queue.Queue[tuple[str, str, Future[str]]] = queue.Queue(most_waiting)
        self._most_seconds = most_seconds
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, tokenizer: str, schema: str) -> Future[str]:
        """The future of a compiled grammar. It raises Unkept, or Refusal if the schema is not the reason.

        Raises Refusal 429 `engine_busy` at once if the queue is full.
        """
        made: Future[str] = Future()
        try:
            self._waiting.put_nowait((tokenizer, schema, made))
        except queue.Full:
            message = f"{self._waiting.maxsize} schemas are waiting to be compiled already; try again later"
            raise Refusal(429, "engine_busy", message) from None
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="schemas", daemon=True)
                self._thread.start()
        return made

    def _work(self) -> None:
        while True:
            tokenizer, schema, made = self._waiting.get()
            try:
                made.set_result(compile_apart(tokenizer, schema, self._most_seconds))
            except Exception as error:  # noqa: BLE001  the waiting requests must get the error
                made.set_exception(error)


def compile_apart(tokenizer: str, schema: str, most_seconds: float) -> str:
    """Compile a schema in a process of its own; returns the grammar as text. Raises Unkept, and Refusal 503 if the
    process fails.
    """
    try:
        with closing(LimitedProcess(CHILD, Process.GRAMMAR, longest_seconds=LONGEST_SECONDS)) as child:
            answer, _ = child.call({"tokenizer": tokenizer, "schema": schema}, most_seconds)
    except CallFailed as failed:
        if failed.computed_too_long:
            message = f"compiling it takes more than {most_seconds:g} seconds of CPU time: make it smaller"
            raise Unkept(message) from None
        log.error("a schema could not be compiled: its process %s", failed)
        raise _failed(str(failed)) from None
    if "grammar" not in answer:
        raise Unkept(answer["reason"])
    return str(answer["grammar"])


def _failed(what: str) -> Refusal:
    return Refusal(503, "engine_unavailable", f"the process that compiles schemas {what}; try again later")
