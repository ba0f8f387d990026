"""Compiles slow schemas one at a time in a process that can be killed, with a short queue.

The process is kept for the next schema: its imports take seconds.
"""

import logging
import queue
import threading
from concurrent.futures import Future
from contextlib import closing, suppress

from app.processes.environments import Process
from worker.confinement.limited_process import CallFailed, LimitedProcess
from worker.inference.engine import Refusal
from worker.inference.text.schema_child import Unkept

MOST_WAITING = 8
MOST_SECONDS = 10
# Wall-clock limit. The kernel limits CPU time; wall-clock time may be longer if others use the cores.
LONGEST_SECONDS = 120.0
# A process that has nothing to do for so long is ended.
IDLE_SECONDS = 60.0
CHILD = "worker.inference.text.schema_child"

log = logging.getLogger(__name__)


class SchemaCompilerPool:
    """A queue, and a thread that runs the child processes. The thread, and its child, end with the process."""

    def __init__(
        self, most_waiting: int = MOST_WAITING, most_seconds: float = MOST_SECONDS, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self._waiting: queue.Queue[tuple[str, str, Future[str]]] = queue.Queue(most_waiting)
        self._most_seconds = most_seconds
        self._idle_seconds = idle_seconds
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
            first = self._waiting.get()
            with closing(SchemaCompiler(self._most_seconds)) as compiler, suppress(queue.Empty):
                _compile(compiler, *first)
                while True:
                    _compile(compiler, *self._waiting.get(timeout=self._idle_seconds))


def _compile(compiler: "SchemaCompiler", tokenizer: str, schema: str, made: Future[str]) -> None:
    try:
        made.set_result(compiler.compile(tokenizer, schema))
    except Exception as error:  # noqa: BLE001  the waiting requests must get the error
        made.set_exception(error)


class SchemaCompiler:
    """Compiles one schema after another in a process, which starts with the first one, until it is closed."""

    def __init__(self, most_seconds: float) -> None:
        """`most_seconds`: of CPU time for one schema."""
        self._most_seconds = most_seconds
        self._child: LimitedProcess | None = None

    def compile(self, tokenizer: str, schema: str) -> str:
        """Return the grammar as text. Raises Unkept, and Refusal 503 if the process fails."""
        if self._child is None or not self._child.is_usable:
            self.close()
            self._child = LimitedProcess(CHILD, Process.GRAMMAR, longest_seconds=LONGEST_SECONDS)
        try:
            answer, _ = self._child.call({"tokenizer": tokenizer, "schema": schema}, self._most_seconds)
        except CallFailed as failed:
            if failed.computed_too_long:
                message = f"compiling it takes more than {self._most_seconds:g} seconds of CPU time: make it smaller"
                raise Unkept(message) from None
            log.error("a schema could not be compiled: its process %s", failed)
            raise _failed(str(failed)) from None
        if "grammar" not in answer:
            self.close()  # what it tried may have left it with less memory
            raise Unkept(answer["reason"])
        return str(answer["grammar"])

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _failed(what: str) -> Refusal:
    return Refusal(503, "engine_unavailable", f"the process that compiles schemas {what}; try again later")
