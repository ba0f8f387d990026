"""Whatever a report of rows warns of is a notice of the job too."""

from pathlib import Path
from typing import Any

import pytest

from app.contracts.tokens import RecordIssue
from app.datasets.row_issues import WARNINGS
from tests.support.learned_text import a_token_report, left_out
from tests.support.written_files import chat, lines, normalised
from worker.checking.notices import notices_of
from worker.checking.split import SplitReport
from worker.rendering.rows import FINDINGS

SPLIT = {"eval_fraction": 0.25, "rows": 8, "wanted_rows": 2, "eval_rows": 4, "train_rows": 4, "eval_share": 0.5}


def codes(**reports: Any) -> set[str]:
    return {notice.code for notice in notices_of(reports)}


@pytest.mark.parametrize("name", ["train", "eval"])
def test_every_finding_and_every_reason_is_a_notice(name: str) -> None:
    findings = [RecordIssue(code=code, message=text, count=1, records=[2]) for code, text in FINDINGS.items()]
    report = a_token_report(findings=findings, left_out=[left_out("too_long", "m", 3)], truncated_rows=1)

    found = codes(**{name: report.model_dump(mode="json")})

    assert found == {*FINDINGS, "too_long", "rows_cut"}


@pytest.mark.parametrize("name", ["source", "eval_source"])
def test_every_warning_and_every_dropped_row_is_a_notice(tmp_path: Path, name: str) -> None:
    good, silent = chat(("user", "hi"), ("assistant", "hello")), chat(("user", "hi"), ("assistant", ""))
    report = normalised(tmp_path, lines(good, silent), on_bad_row="drop")[0].model_dump(mode="json")
    report["warnings"] = [{"code": code, "count": 7, "records": [*range(1, 8)]} for code in WARNINGS]

    dropped, *warnings = notices_of({name: report})

    assert (dropped.code, dropped.requested, dropped.effective) == ("rows_dropped", [2], "drop")
    assert dropped.message.startswith(f"1 of 2 records of dataset.{name} are dropped: record 2, line 2, messages[1].co")
    assert {notice.code for notice in warnings} == WARNINGS.keys()
    assert warnings[0].message.startswith("7 records (1, 2, 3, 4, 5, …): ")


def test_a_key_that_is_not_read_and_was_meant_to_be_learned_is_a_notice(tmp_path: Path) -> None:
    row = chat(("user", "hi"), ("assistant", "hello"))
    row["messages"][1] |= {"reasoning_content": "They greet.", "rating": 5}

    report = normalised(tmp_path, lines({**row, "id": 1}))[0]

    assert [notice.message for notice in notices_of({"source": report.model_dump(mode="json")})] == [
        "rows of messages are read without messages[].reasoning_content, which is not trained on"
    ]


def test_a_share_that_cannot_be_met_is_said_with_the_real_one() -> None:
    (notice,) = notices_of({"split": {**SPLIT, "seed": 1}})

    assert (notice.requested, notice.effective) == (0.25, 0.5)
    assert "4 of 8 rows are used for evaluation, a share of 0.5" in notice.message


def test_a_share_that_is_met_is_not_said() -> None:
    met = SplitReport.model_validate({**SPLIT, "wanted_rows": 4, "seed": 1})

    assert codes(split=met.model_dump(mode="json", exclude_none=True)) == set()
