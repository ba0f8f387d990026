"""Tokenises records in chunks, which can be sent to other processes."""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Literal

import pyarrow as pa
from pydantic import TypeAdapter

from app.contracts.methods import TrainingMethod
from app.contracts.records import Record
from app.contracts.rows import CUT, DIGEST, INPUT_IDS, LABELS, RECORD, SUPERVISED
from app.contracts.tokens import LongRecord
from app.datasets.report import NAMED
from app.datasets.rows import Place
from app.errors import Problem
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer
from worker.rendering.rows import Learned, TokenRow
from worker.rendering.work import Work

IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        (RECORD, pa.int32()),
        (INPUT_IDS, IDS),
        (LABELS, IDS),
        (CUT, pa.int32()),
        (SUPERVISED, pa.int32()),
        (DIGEST, pa.int64()),
    ]
)
ANY_RECORD: TypeAdapter[Record] = TypeAdapter(Record)
OnLongRow = Literal["cut", "drop", "fail"]
# Why a good record may be dropped.
ANSWER_CUT_AWAY, TOO_LONG = "answer_cut_away", "too_long"


@dataclass
class RecordChunk:
    """Records as JSON, and the place of each in its source. `size` is in bytes."""

    places: list[Place] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, record: Record, place: Place) -> None:
        text = record.model_dump_json(exclude_none=True).encode()
        self.places.append(place)
        self.records.append(text)
        self.size += len(text)


@dataclass
class Tokenised:
    """The result for a chunk. `rows` is an Arrow batch in IPC form with the kept records.

    `named`: the texts that each finding is about. `overdrawn`: the seconds of template work above the budget of the
    records up to `last_record`. `is_stopped`: whether the work was stopped at that record.
    """

    rows: bytes
    largest_id: int
    problems: list[Problem]
    left_out: dict[str, list[int]]
    findings: dict[str, list[int]]
    named: dict[str, list[str]]
    long_records: list[LongRecord]
    overdrawn: float = 0.0
    last_record: int = 0
    is_stopped: bool = False


def schema_of(method: TrainingMethod) -> pa.Schema:
    """Returns the columns of the rows that are made for a training method."""
    return pa.schema([*SCHEMA, *((name, pa.type_for_alias(kind)) for name, kind in method.columns.items())])


@dataclass(frozen=True)
class Tokeniser:
    """Turns chunks into rows according to the spec."""

    renderer: Renderer
    learned: Learned
    max_seq_length: int
    on_long_row: OnLongRow
    method: TrainingMethod

    def __call__(self, chunk: RecordChunk) -> Tokenised:
        columns, work, tokenise = _ChunkColumns(self), Work(), resolve_name(self.method.tokenise)
        for place, text in zip(chunk.places, chunk.records, strict=True):
            try:
                columns.add(tokenise(ANY_RECORD.validate_json(text), self.renderer, self.learned, work), place)
            except RowRefused as refused:
                columns.refuse(refused, place)
            if work.is_done:
                break
        return columns.finish(work, place)


class _ChunkColumns:
    """Collects the columns and the findings of one chunk."""

    def __init__(self, tokeniser: Tokeniser) -> None:
        self._limit, self._on_long_row = tokeniser.max_seq_length, tokeniser.on_long_row
        self._schema = schema_of(tokeniser.method)
        self._columns: dict[str, list[object]] = {name: [] for name in self._schema.names}
        self._largest = 0
        self._problems: list[Problem] = []
        self._left_out: dict[str, list[int]] = defaultdict(list)
        self._findings: dict[str, list[int]] = defaultdict(list)
        self._named: dict[str, list[str]] = {}
        self._long: list[LongRecord] = []

    def add(self, row: TokenRow, place: Place) -> None:
        tokens, supervised = len(row.input_ids), row.supervised
        kept = TokenRow(row.input_ids[: self._limit], row.labels[: self._limit], row.columns)
        if tokens > self._limit:
            cut = supervised - kept.supervised
            self._long.append(LongRecord(record=place.number, tokens=tokens, learned_tokens_cut=cut))
            if self._drop_if_required(kept, tokens, place):
                return
        for code in row.findings | row.named.keys():
            self._findings[code].append(place.number)
        add_names(self._named, row.named)
        self._largest = max(self._largest, *kept.input_ids)
        values = (place.number, kept.input_ids, kept.labels, tokens - len(kept.input_ids), kept.supervised)
        named = dict(zip(SCHEMA.names, (*values, digest_of(kept.input_ids)), strict=True))
        for name in self._columns:
            self._columns[name].append(named[name] if name in named else kept.columns[name])

    def _drop_if_required(self, kept: TokenRow, tokens: int, place: Place) -> bool:
        """Drops or refuses a row that is too long, if the spec says so. Returns whether it did."""
        if self._on_long_row == "fail":
            found, expected = f"{tokens} tokens", f"at most max_seq_length, {self._limit}"
            self.refuse(RowRefused(TOO_LONG, found=found, expected=expected), place)
            return True
        if self._on_long_row == "drop":
            self._left_out[TOO_LONG].append(place.number)
        elif kept.supervised == 0:
            self._left_out[ANSWER_CUT_AWAY].append(place.number)
        return self._on_long_row == "drop" or kept.supervised == 0

    def refuse(self, refused: RowRefused, place: Place) -> None:
        self._problems.append(
            Problem(
                record=place.number,
                line=place.line,
                field=refused.field,
                code=refused.code,
                found=refused.found[:500],
                expected=refused.expected[:500],
            )
        )

    def finish(self, work: Work, last: Place) -> Tokenised:
        arrays = [pa.array(self._columns[field.name], field.type) for field in self._schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return Tokenised(
            rows=batch.serialize().to_pybytes(),
            largest_id=self._largest,
            problems=self._problems,
            left_out=dict(self._left_out),
            findings=dict(self._findings),
            named=self._named,
            overdrawn=work.overdrawn,
            last_record=last.number,
            is_stopped=work.is_done,
            long_records=self._long,
        )


def add_names(names: dict[str, list[str]], more: Mapping[str, Sequence[str]]) -> None:
    """Adds texts to those of each finding, up to the number that a report lists."""
    for code, texts in more.items():
        names[code] = list(dict.fromkeys([*names.get(code, []), *texts]))[:NAMED]


def digest_of(ids: Sequence[int]) -> int:
    """Returns a signed 64-bit hash of token ids."""
    packed = array("i", ids).tobytes()
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little", signed=True)
