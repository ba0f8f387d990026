"""Tokenises any number of records in bounded memory and writes the rows in order.

reader (this process) ──chunks──> tokenisers (one per core) ──Arrow batches──> file (this process)

A small source is tokenised in this process, because starting others would take longer.
"""

import multiprocessing
from array import array
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from app.contracts.cores import count_cores
from app.contracts.records import Record
from app.contracts.tokens import LongRecord
from app.datasets.problems import Problems
from app.datasets.report import NAMED
from app.datasets.rows import Place
from app.errors import Problem
from worker.checking.computing import computing_at_most
from worker.checking.rows import RecordChunk, Tokenised, Tokeniser, add_names, schema_of
from worker.failures import TOO_MUCH_COMPUTING, TokenizerPanic, UserError, is_panic
from worker.rendering.work import SPARE

CHUNK_RECORDS = 256
CHUNK_BYTES = 2**20
# Per process: chunks that wait for a process, or for an earlier chunk to be written.
CHUNKS_IN_FLIGHT_EACH = 2
MOST_PROCESSES = 16


@dataclass
class Outcome:
    """The result for all records of a source. The arrays hold record numbers by code.

    `refused`: records with a problem. `left_out`: good records that are not trained on. `named`: the texts that each
    finding is about. `overdrawn`: the seconds of template work above the budget of the records.
    """

    kept: int = 0
    largest_id: int = 0
    problem_count: int = 0
    refused: dict[str, "array[int]"] = field(default_factory=lambda: defaultdict(lambda: array("i")))
    left_out: dict[str, "array[int]"] = field(default_factory=lambda: defaultdict(lambda: array("i")))
    findings: dict[str, "array[int]"] = field(default_factory=lambda: defaultdict(lambda: array("i")))
    named: dict[str, list[str]] = field(default_factory=dict)
    long_records: list[LongRecord] = field(default_factory=list)
    overdrawn: float = 0.0
    _problems: Problems = field(default_factory=Problems)

    @property
    def problems(self) -> list[Problem]:
        """The problems that the report lists."""
        return self._problems.named

    def add(self, chunk: Tokenised, rows: int) -> None:
        self.kept += rows
        self.largest_id = max(self.largest_id, chunk.largest_id)
        self.problem_count += len(chunk.problems)
        self._problems.add(chunk.problems)
        for problem in chunk.problems:
            self.refused[problem.code].append(problem.record or 0)
        add_names(self.named, chunk.named)
        self.long_records += chunk.long_records[: NAMED - len(self.long_records)]
        for mine, theirs in ((self.left_out, chunk.left_out), (self.findings, chunk.findings)):
            for code, numbers in theirs.items():
                mine[code].extend(numbers)


class Pipeline:
    """A context. Call `add` for each record in the order of the source, then `finish`; leaving it closes the file."""

    def __init__(self, tokeniser: Tokeniser, target: Path, *, processes: int) -> None:
        self.outcome = Outcome()
        self._tokeniser = tokeniser
        self._schema = schema_of(tokeniser.method)
        self._file = pa.OSFile(str(target), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)
        self._chunk = RecordChunk()
        self._waiting: deque[Future[Tokenised]] = deque()
        self._most_waiting = CHUNKS_IN_FLIGHT_EACH * processes
        self._pool = _pool(tokeniser, processes) if processes > 1 else None

    def add(self, record: Record, place: Place) -> None:
        self._chunk.add(record, place)
        if len(self._chunk.places) >= CHUNK_RECORDS or self._chunk.size >= CHUNK_BYTES:
            self._send()

    def _send(self) -> None:
        chunk, self._chunk = self._chunk, RecordChunk()
        if self._pool is None:
            self._write(_tokenise_bounded(self._tokeniser, chunk))
            return
        self._waiting.append(self._pool.submit(_tokenise, chunk))
        while self._waiting and (len(self._waiting) > self._most_waiting or self._waiting[0].done()):
            self._write(self._next())

    def _next(self) -> Tokenised:
        try:
            return self._waiting.popleft().result()
        except BrokenProcessPool:
            message = "the tokenizer needs more computing time or memory than records of this size should take"
            hint = "use the model's own tokenizer files, or another model"
            raise UserError(TOO_MUCH_COMPUTING, message, hint=hint, param="model.model_name") from None

    def _write(self, chunk: Tokenised) -> None:
        batch = pa.ipc.read_record_batch(pa.py_buffer(chunk.rows), self._schema)
        self.outcome.add(chunk, batch.num_rows)
        self._check_work(chunk)
        if batch.num_rows:
            self._writer.write_batch(batch)

    def _check_work(self, chunk: Tokenised) -> None:
        """Raises UserError if the template exceeds the work budget of all records so far."""
        self.outcome.overdrawn += chunk.overdrawn
        if chunk.is_stopped or self.outcome.overdrawn > SPARE:
            raise template_too_expensive(f"it was stopped at record {chunk.last_record}")

    def finish(self) -> Outcome:
        """Tokenises and writes the remaining records, and returns the outcome."""
        if self._chunk.places:
            self._send()
        while self._waiting:
            self._write(self._next())
        return self.outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._writer.close()
        self._file.close()


def template_too_expensive(where: str) -> UserError:
    return UserError(
        "template_too_expensive",
        f"the chat template does more work than chats of this size need: {where}",
        hint="use another chat_template, or one without loops over all messages or characters",
        param="model.chat_template",
    )


# The tokeniser of the pool's processes. They inherit it by fork, so that a large tokenizer is in memory once.
_inherited: list[Callable[[RecordChunk], Tokenised]] = []


def _pool(tokeniser: Tokeniser, processes: int) -> ProcessPoolExecutor:
    """Returns a pool whose processes are forked at the first chunk, before this process starts threads."""
    _inherited[:] = [tokeniser]
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork"))


def _tokenise(chunk: RecordChunk) -> Tokenised:
    return _tokenise_bounded(_inherited[0], chunk)


def _tokenise_bounded(tokeniser: Callable[[RecordChunk], Tokenised], chunk: RecordChunk) -> Tokenised:
    with computing_at_most():
        try:
            return tokeniser(chunk)
        except BaseException as error:
            if is_panic(error):
                raise TokenizerPanic(str(error)) from None
            raise


def useful_processes(requested: int | None) -> int:
    """Returns the spec's `dataset_num_proc`, or the number of cores that this process may use, up to a limit."""
    return requested or min(MOST_PROCESSES, count_cores())
