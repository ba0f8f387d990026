"""Where schemas are compiled that may take long: one at a time, in a process that can be ended, with a short queue."""

import json
import logging
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future

from app.environments import Process, for_child
from worker.inference.engine import Refusal
from worker.inference.schema_child import CompileTask, Unkept

MOST_WAITING = 8
MOST_SECONDS = 10
# By the clock: the kernel counts the computing time of the child, which may take longer where others use the cores.
LONGEST_SECONDS = 120.0
TOO_LONG = (-signal.SIGXCPU, -signal.SIGKILL)
CHILD = [sys.executable, "-m", "worker.inference.schema_child"]

log = logging.getLogger(__name__)


class Workshop:
    """A queue, and a thread that runs the children. The thread ends with the process, and its child with it."""

    def __init__(self, most_waiting: int = MOST_WAITING, most_seconds: int = MOST_SECONDS) -> None:
        self._pieces: queue.Queue[tuple[CompileTask, Future[str]]] = queue.Queue(most_waiting)
        self._most_seconds = most_seconds
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, tokenizer: str, schema: str) -> Future[str]:
        """The compiled grammar, once it is there; the future raises Unkept, or Refusal where it is not the schema's
        fault. Raises Refusal 429 `engine_busy` at once where the queue is full.
        """
        piece = CompileTask(tokenizer=tokenizer, schema_text=schema, most_seconds=self._most_seconds)
        made: Future[str] = Future()
        try:
            self._pieces.put_nowait((piece, made))
        except queue.Full:
            message = f"{self._pieces.maxsize} schemas wait to be prepared already; try again later"
            raise Refusal(429, "engine_busy", message) from None
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="schemas", daemon=True)
                self._thread.start()
        return made

    def _work(self) -> None:
        while True:
            piece, made = self._pieces.get()
            try:
                made.set_result(compile_apart(piece))
            except Exception as error:  # noqa: BLE001  the boundary of a piece: whoever waits for it has to hear of it
                made.set_exception(error)


def compile_apart(piece: CompileTask) -> str:
    """The grammar as text, made in a process of its own. Raises Unkept, Refusal 503 where the process fails."""
    environment = {**for_child(Process.GRAMMAR), "OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            CHILD,
            input=piece.model_dump_json(),
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failed(f"took longer than {LONGEST_SECONDS:g} seconds") from None
    if child.returncode in TOO_LONG:
        raise Unkept(f"preparing it takes more than {piece.most_seconds} seconds of computing: make it smaller")
    if child.returncode != 0:
        log.error("a schema could not be compiled: exit code %d: %s", child.returncode, child.stderr[-2000:])
        raise _failed(f"ended with code {child.returncode}")
    answer = json.loads(child.stdout)
    if "grammar" not in answer:
        raise Unkept(answer["reason"])
    return str(answer["grammar"])


def _failed(what: str) -> Refusal:
    return Refusal(503, "engine_unavailable", f"the process that prepares schemas {what}; try again later")
