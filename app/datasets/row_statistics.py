"""Counts what becomes of the rows while they stream by, in bounded space."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from app.contracts.records import ChatRecord, CompletionRecord, Record, TextRecord
from app.datasets.layouts import Layout
from app.datasets.problems import Problems
from app.datasets.report import NAMED, Counted, DataReport, Duplicates
from app.datasets.row_issues import RowIssues
from app.datasets.values import printable
from app.errors import Problem

# Exact duplicates are found among so many first records: the hashes take 80 MB then.
HASHES_KEPT = 500_000


@dataclass
class RowStatistics:
    """Counts while the rows stream by."""

    records: int = 0
    kept: int = 0
    problem_count: int = 0
    damaged: list[Problem] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)
    longest_characters: int = 0
    longest_record: int | None = None
    _problems: Problems = field(default_factory=Problems)
    _fixes: Counter[str] = field(default_factory=Counter)
    _warnings: Counter[str] = field(default_factory=Counter)
    _named: dict[str, list[int]] = field(default_factory=dict)
    _duplicates: list[int] = field(default_factory=list)
    _duplicate_count: int = 0
    _hashes: set[int] = field(default_factory=set)
    _looked_at: int = 0

    @property
    def dropped(self) -> int:
        return self.records - self.kept

    @property
    def problems(self) -> list[Problem]:
        """Those that are named."""
        return self._problems.named

    def add_damaged(self, problem: Problem) -> None:
        """A record that could not be read from the file."""
        self.problem_count += 1
        self._problems.add([problem])
        if len(self.damaged) < NAMED:
            self.damaged.append(problem)

    def add_bad(self, row_issues: RowIssues) -> None:
        self.problem_count += row_issues.problem_count
        self._problems.add(row_issues.problems)

    def add(self, record: Record, row_issues: RowIssues) -> None:
        self.kept += 1
        if row_issues.fixes or row_issues.warnings:
            self._count(row_issues)
        if not row_issues.ignored <= self.ignored.keys():
            self._note_ignored(row_issues.ignored)
        self._measure(record, row_issues.record)
        self._compare(record, row_issues.record)

    def _count(self, row_issues: RowIssues) -> None:
        self._fixes.update(row_issues.fixes)
        self._warnings.update(row_issues.warnings)
        for code in (*row_issues.fixes, *row_issues.warnings):
            _name(self._named.setdefault(code, []), row_issues.record)

    def _note_ignored(self, keys: set[str]) -> None:
        for key in sorted(keys - self.ignored.keys())[: NAMED - len(self.ignored)]:
            self.ignored[key] = None

    def _measure(self, record: Record, number: int) -> None:
        length = _characters(record)
        if length > self.longest_characters:
            self.longest_characters, self.longest_record = length, number

    def _compare(self, record: Record, number: int) -> None:
        if len(self._hashes) >= HASHES_KEPT:
            return
        self._looked_at = number
        digest = hash(_identity(record))
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
            dropped=self.dropped,
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


def _name(numbers: list[int], number: int) -> None:
    if len(numbers) < NAMED:
        numbers.append(number)


def _identity(record: Record) -> tuple[Any, ...]:
    """Equal for equal records, and hashable. Python salts its hashes: nobody can write a file of collisions."""
    match record:
        case ChatRecord():
            turns = [(turn.role, turn.content, turn.name, turn.weight, turn.tool_call_id) for turn in record.messages]
            calls = [turn.tool_calls for turn in record.messages]
            more = json.dumps([calls, record.tools]) if record.tools or any(calls) else None
            return (*turns, more)
        case CompletionRecord():
            return record.prompt, record.completion
        case TextRecord():
            return (record.text,)


def _characters(record: Record) -> int:
    match record:
        case ChatRecord():
            return sum(len(message.content) for message in record.messages)
        case CompletionRecord():
            return len(record.prompt) + len(record.completion)
        case _:
            return len(record.text)
