"""Computes the token report from a file of rows, the same file that the trainer reads."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from app.contracts.rows import CUT, DIGEST, INPUT_IDS, RECORD, SUPERVISED
from app.contracts.tokens import Bucket, Overlap, RecordIssue, Spread, TokenReport
from app.datasets.report import NAMED
from worker.checking.pipeline import Outcome
from worker.checking.rows import ANSWER_CUT_AWAY, TOO_LONG
from worker.rendering.rows import FINDINGS

Numbers = NDArray[np.integer[Any]]
SMALLEST_BUCKET = 16
LEFT_OUT = {
    ANSWER_CUT_AWAY: "no token of the answer lies within max_seq_length",
    TOO_LONG: 'longer than max_seq_length, and dataset.on_long_row is "drop"',
}


@dataclass(frozen=True)
class Columns:
    """The columns of a file of rows without the tokens: 24 bytes per row."""

    record: Numbers
    length: Numbers
    cut: Numbers
    supervised: Numbers
    digest: Numbers


def read_columns(rows: Path) -> Columns:
    parts = [_small_columns(batch) for batch in batches(rows)]
    return Columns(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _small_columns(batch: pa.RecordBatch) -> list[Numbers]:
    """Copies the columns, because a view would keep the whole batch in memory."""
    length = pc.list_value_length(batch[INPUT_IDS])
    return [np.array(column) for column in (batch[RECORD], length, batch[CUT], batch[SUPERVISED], batch[DIGEST])]


def batches(rows: Path) -> Iterator[pa.RecordBatch]:
    """Yields the batches of a file of rows, one in memory at a time. (A mapped file would keep all read pages.)"""
    with pa.OSFile(str(rows)) as file, pa.ipc.open_stream(file) as reader:
        yield from reader


def token_report(rows: Path, outcome: Outcome, max_seq_length: int, *, has_dropped: bool) -> TokenReport:
    """`has_dropped`: whether this report includes the records of the source that are in no set."""
    columns = read_columns(rows)
    whole = columns.length + columns.cut
    longest = int(whole.argmax())
    row_tokens, supervised = spread(columns.length), spread(columns.supervised)
    dropped = {**outcome.left_out, **outcome.refused} if has_dropped else {}
    own = np.concatenate([columns.record, *(np.asarray(numbers, np.int64) for numbers in dropped.values())])
    named_long = [long for long in outcome.long_records if long.record in own]
    return TokenReport(
        rows=len(whole),
        tokens=row_tokens.total,
        supervised_tokens=supervised.total,
        max_seq_length=max_seq_length,
        longest_row_tokens=int(whole[longest]),
        longest_record=int(columns.record[longest]),
        mean_row_tokens=row_tokens.mean,
        row_tokens=row_tokens,
        supervised_row_tokens=supervised,
        truncated_rows=int(np.count_nonzero(columns.cut)),
        truncated_tokens=int(columns.cut.sum(dtype=np.int64)),
        long_records=named_long,
        left_out=_named(dropped, {**LEFT_OUT, **_reasons(outcome)}, own),
        findings=_named(outcome.findings, _explained(outcome.named), columns.record),
        duplicates=len(whole) - len(np.unique(columns.digest)),
    )


def _explained(named: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns the message of each finding, some with the texts that they are about."""
    return {code: f"{text}: {', '.join(named[code])}" if code in named else text for code, text in FINDINGS.items()}


def _reasons(outcome: Outcome) -> dict[str, str]:
    """Returns why the first record of each code was refused, or the code itself if no problem is listed for it."""
    first = {problem.code: f"found {problem.found}, expected {problem.expected}" for problem in outcome.problems[::-1]}
    return {code: first.get(code, code) for code in outcome.refused}


def spread(values: Numbers) -> Spread:
    """Returns the statistics of the values, which must not be empty."""
    values = np.sort(values)
    ends = [SMALLEST_BUCKET]
    while ends[-1] < values[-1]:
        ends.append(2 * ends[-1])
    counts = np.diff(np.searchsorted(values, ends, side="right"), prepend=0)
    p50, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99), method="higher")
    return Spread(
        total=int(values.sum(dtype=np.int64)),
        mean=round(float(values.mean()), 1),
        p50=int(p50),
        p90=int(p90),
        p99=int(p99),
        largest=int(values[-1]),
        histogram=[Bucket(up_to=end, rows=int(count)) for end, count in zip(ends, counts, strict=True) if count],
    )


def _named(found: Mapping[str, "array[int]"], messages: Mapping[str, str], among: Numbers) -> list[RecordIssue]:
    named = []
    for code, numbers in found.items():
        mine = np.asarray(numbers, np.int64)
        mine = mine[np.isin(mine, among)]
        if len(mine):
            named.append(RecordIssue(code=code, message=messages[code], count=len(mine), records=mine[:NAMED].tolist()))
    return named


def overlap(train: Path, evaluation: Path) -> Overlap:
    """Returns the evaluation rows that are equal to a training row."""
    columns = read_columns(evaluation)
    numbers = columns.record[np.isin(columns.digest, read_columns(train).digest)]
    return Overlap(count=len(numbers), records=numbers[:NAMED].tolist())
