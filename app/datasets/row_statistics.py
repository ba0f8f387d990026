"""Counts good and bad rows as they are read, in bounded memory."""

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

# Duplicates are searched until this many different records were seen. Their hashes take 80 MB.
HASHES_KEPT = 500_000


@dataclass
class RowStatistics:
    """Running counts of the rows that were read."""

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
    _record_numbers: dict[str, list[int]] = field(default_factory=dict)
    _duplicates: list[int] = field(default_factory=list)
    _duplicate_count: int = 0
    _hashes: set[int] = field(default_factory=set)
    _looked_at: int = 0

    @property
    def dropped(self) -> int:
        return self.records - self.kept

    @property
    def problems(self) -> list[Problem]:
        """The problems that the report lists."""
        return self._problems.named

    def add_damaged(self, problem: Problem) -> None:
        """Counts a record that could not be read from the file."""
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
        self._update_longest(record, row_issues.record)
        self._count_if_duplicate(record, row_issues.record)

    def _count(self, row_issues: RowIssues) -> None:
        self._fixes.update(row_issues.fixes)
        self._warnings.update(row_issues.warnings)
        for code in (*row_issues.fixes, *row_issues.warnings):
            _append_number(self._record_numbers.setdefault(code, []), row_issues.record)

    def _note_ignored(self, keys: set[str]) -> None:
        for key in sorted(keys - self.ignored.keys())[: NAMED - len(self.ignored)]:
            self.ignored[key] = None

    def _update_longest(self, record: Record, number: int) -> None:
        length = _characters(record)
        if length > self.longest_characters:
            self.longest_characters, self.longest_record = length, number

    def _count_if_duplicate(self, record: Record, number: int) -> None:
        if len(self._hashes) >= HASHES_KEPT:
            return
        self._looked_at = number
        digest = hash(_identity(record))
        if digest in self._hashes:
            self._duplicate_count += 1
            _append_number(self._duplicates, number)
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
        return [Counted(code=code, count=count, records=self._record_numbers[code]) for code, count in counts.items()]


def _append_number(numbers: list[int], number: int) -> None:
    if len(numbers) < NAMED:
        numbers.append(number)


def _identity(record: Record) -> tuple[Any, ...]:
    """Returns a hashable key that is equal for equal records. Python's salted hashes prevent crafted collisions."""
    match record:
        case ChatRecord():
            messages = [
                (each.role, each.content, each.name, each.weight, each.tool_call_id) for each in record.messages
            ]
            calls = [message.tool_calls for message in record.messages]
            more = json.dumps([calls, record.tools]) if record.tools or any(calls) else None
            return (*messages, more)
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
