"""What became of the rows of a dataset: counted, named by record, and small enough to store beside a job or a file."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

from app.contracts.base import Contract
from app.contracts.records import ChatRecord, CompletionRecord, Record
from app.errors import InvalidDataset, Problem
from app.files.findings import Findings
from app.files.layouts import Layout
from app.files.values import printable

# Problems, record numbers and keys that are named, of each kind; all are counted.
NAMED = 50
# Exact duplicates are found among so many first records: the hashes take 100 MB then.
HASHES_KEPT = 1_000_000


class Counted(Contract):
    """How often something was met, and the numbers of the first records that had it."""

    code: str
    count: int
    records: list[int]


class Duplicates(Contract):
    """Records that equal an earlier one after normalising. They are kept. `looked_at`: the first so many records."""

    count: int
    records: list[int]
    looked_at: int


class DataReport(Contract):
    """`sha256` is of the bytes that were read, as they are stored; rows of the hub have none."""

    format: str
    is_gzip: bool
    layout: Layout | None
    sha256: str | None
    records: int
    kept: int
    dropped: int
    problem_count: int
    problems: list[Problem]
    fixes: list[Counted]
    warnings: list[Counted]
    ignored_keys: list[str]
    duplicates: Duplicates
    longest_characters: int
    longest_record: int | None


class FileReport(DataReport):
    """What an upload holds. `kept` counts the records that a job with default settings can train on."""

    columns: list[str]


@dataclass
class Tally:
    """Counts while the rows stream by."""

    records: int = 0
    kept: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)
    damaged: list[Problem] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)
    longest_characters: int = 0
    longest_record: int | None = None
    _fixes: Counter[str] = field(default_factory=Counter)
    _warnings: Counter[str] = field(default_factory=Counter)
    _named: dict[str, list[int]] = field(default_factory=dict)
    _duplicates: list[int] = field(default_factory=list)
    _duplicate_count: int = 0
    _hashes: set[bytes] = field(default_factory=set)
    _looked_at: int = 0

    def add_damaged(self, problem: Problem) -> None:
        """A record that could not be read from the file."""
        self.problem_count += 1
        for named in (self.problems, self.damaged):
            if len(named) < NAMED:
                named.append(problem)

    def add_bad(self, findings: Findings) -> None:
        self.problem_count += findings.problem_count
        self.problems += findings.problems[: NAMED - len(self.problems)]

    def add(self, record: Record, findings: Findings) -> None:
        self.kept += 1
        self._fixes.update(findings.fixes)
        self._warnings.update(findings.warnings)
        for code in (*findings.fixes, *findings.warnings):
            _name(self._named.setdefault(code, []), findings.record)
        for key in sorted(findings.ignored - self.ignored.keys())[: NAMED - len(self.ignored)]:
            self.ignored[key] = None
        self._measure(record, findings.record)
        self._compare(record, findings.record)

    def _measure(self, record: Record, number: int) -> None:
        length = _characters(record)
        if length > self.longest_characters:
            self.longest_characters, self.longest_record = length, number

    def _compare(self, record: Record, number: int) -> None:
        if len(self._hashes) >= HASHES_KEPT:
            return
        self._looked_at = number
        digest = hashlib.blake2b(record.model_dump_json().encode(), digest_size=16).digest()
        if digest in self._hashes:
            self._duplicate_count += 1
            _name(self._duplicates, number)
        self._hashes.add(digest)

    def report(self, *, format_name: str, is_gzip: bool, layout: Layout | None, sha256: str | None) -> DataReport:
        return DataReport(
            format=format_name,
            is_gzip=is_gzip,
            layout=layout,
            sha256=sha256,
            records=self.records,
            kept=self.kept,
            dropped=self.records - self.kept,
            problem_count=self.problem_count,
            problems=self.problems,
            fixes=self._counted(self._fixes),
            warnings=self._counted(self._warnings),
            ignored_keys=[printable(key) for key in self.ignored],
            duplicates=Duplicates(count=self._duplicate_count, records=self._duplicates, looked_at=self._looked_at),
            longest_characters=self.longest_characters,
            longest_record=self.longest_record,
        )

    def _counted(self, counts: Counter[str]) -> list[Counted]:
        return [Counted(code=code, count=count, records=self._named[code]) for code, count in counts.items()]


def refusal(problems: list[Problem], count: int, records: int) -> InvalidDataset:
    """One answer that names all problems up to the limit, and says how many there are."""
    first = problems[0]
    place = [f"{name} {number}" for name, number in (("record", first.record), ("line", first.line)) if number]
    where = ", ".join([*place, *([first.field] if first.field else [])]) or "file"
    many = f"{count} problems in {records} records, the first: " if count > 1 else ""
    message = f"{many}{where}: found {first.found}, expected {first.expected}"
    return InvalidDataset(message, details=problems[:NAMED])


def _name(numbers: list[int], number: int) -> None:
    if len(numbers) < NAMED:
        numbers.append(number)


def _characters(record: Record) -> int:
    match record:
        case ChatRecord():
            return sum(len(message.content) for message in record.messages)
        case CompletionRecord():
            return len(record.prompt) + len(record.completion)
        case _:
            return len(record.text)
