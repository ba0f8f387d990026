"""What a check found, in lines for a person."""

from typing import Any

import pytest

from app.cli.report import failure_lines, notice_lines, report_lines
from app.cli.text import problem_line
from app.contracts.tokens import Bucket, Spread
from app.datasets.layouts import Layout
from app.datasets.report import DataReport, Duplicates
from app.errors import Problem
from app.jobs.schemas import JobError
from tests.support.learned_text import a_token_report, left_out

PROBLEM = {"record": 3, "line": 7, "field": "messages.0", "code": "x", "found": "12", "expected": "an object"}


def a_source(**changes: Any) -> dict[str, Any]:
    usual = DataReport(
        format="jsonl",
        is_gzip=False,
        layout=Layout.SHAREGPT,
        sha256=None,
        records=1200,
        kept=1199,
        dropped=1,
        problem_count=1,
        problems=[Problem.model_validate(PROBLEM)],
        fixes=[],
        warnings=[],
        ignored_keys=[],
        duplicates=Duplicates(count=0, records=[], looked_at=1199),
        longest_characters=100,
        longest_record=2,
    )
    return {**usual.model_dump(mode="json"), **changes}


def a_set(**changes: Any) -> dict[str, Any]:
    return a_token_report(**changes).model_dump(mode="json")


def test_a_source_is_counted_and_its_problems_are_placed() -> None:
    assert list(report_lines({"source": a_source()})) == [
        "source: 1,200 records, 1 dropped; jsonl, sharegpt",
        "  record 3, line 7, messages.0: found 12, expected an object",
    ]


def test_of_many_problems_the_first_are_shown() -> None:
    lines = list(report_lines({"source": a_source(problems=[PROBLEM] * 9, problem_count=80)}))

    assert len(lines) == 7
    assert lines[-1] == "  and 75 more problems"


def test_a_set_is_shown_with_its_lengths_as_bars() -> None:
    spread = Spread(total=30, mean=10.0, p50=8, p90=12, p99=30, largest=31, histogram=[])
    spread = spread.model_copy(update={"histogram": [Bucket(up_to=16, rows=1000), Bucket(up_to=32, rows=10)]})
    first, lengths, *bars = report_lines({"train": a_set(row_tokens=spread)})

    assert first == "train: 3 rows, 30 tokens, 12 of them trained (40.0 %)"
    assert lengths.startswith("  tokens a row: half have at most 8, 99 % at most 30; the longest 14 (record 2)")
    assert bars == [f"         16 {'█' * 40} 1,000", "         32 █ 10"]


def test_what_was_cut_left_out_and_found_is_named_by_record() -> None:
    named = left_out("nothing_supervised", "no token carries loss", 4, 9)
    report = a_set(truncated_rows=2, truncated_tokens=40, duplicates=3, left_out=[named], findings=[named])

    assert list(report_lines({"eval": report}))[-4:] == [
        "  cut: 2 rows, 40 tokens",
        "  duplicates: 3 rows equal an earlier one",
        "  left out: 2 × no token carries loss (records 4, 9)",
        "  finding: 2 × no token carries loss (records 4, 9)",
    ]


@pytest.mark.parametrize("report", [{}, {"source": None}, {"train": {"rows": 3}}, {"split": {"eval_rows": 2}}])
def test_a_report_of_another_form_is_left_out(report: dict[str, Any]) -> None:
    assert list(report_lines(report)) == []


def test_a_failure_says_what_helps() -> None:
    failure = JobError(category="user_error", code="c", message="m\x1b", hint="do this", details=[PROBLEM])

    assert list(failure_lines(failure)) == ["c (user_error): m\\x1b", problem_line(PROBLEM), "do this"]


def test_a_notice_is_a_line_unless_the_report_says_it() -> None:
    report = {"train": a_set(findings=[left_out("c", "m", 4)]), "prepared": None}

    notices = [{"code": "c", "message": "m"}, {"code": "d", "message": "one\ntwo"}]
    assert list(notice_lines(notices, report)) == ["notice: one\\ntwo"]
    assert list(notice_lines(notices, {})) == ["notice: m", "notice: one\\ntwo"]
