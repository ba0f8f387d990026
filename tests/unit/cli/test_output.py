"""How lists are printed: columns for a person, and forms for a program."""

import io
import json

import pytest
import yaml
from rich.console import Console

from app.cli import output
from app.cli.output import Column, fitted, print_list, table
from app.jobs.schemas import JobPage
from tests.support.cli_answers import a_job

COLUMNS = (
    Column("ID", lambda each: each["id"], least=6, mark=""),
    Column("NAME", lambda each: each["name"], least=4),
    Column("MORE", lambda each: "more", is_wide=True),
)
ENTRIES = [{"id": "job-mmndjdmd", "name": "a long name"}, {"id": "job-2", "name": "日本"}]


@pytest.fixture
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal with 20 characters in a line."""
    monkeypatch.setattr(output, "console", Console(file=io.StringIO(), force_terminal=True, width=20))


def test_columns_are_aligned_also_beside_wide_characters() -> None:
    assert table(ENTRIES, (*COLUMNS, Column("END", lambda _: "x")), None) == [
        "ID            NAME         END",
        "job-mmndjdmd  a long name  x",
        "job-2         日本         x",
    ]


@pytest.mark.usefixtures("_narrow")
def test_a_narrow_terminal_gets_the_beginning_of_an_id_and_a_cut_name() -> None:
    assert table(ENTRIES, COLUMNS, None) == ["ID         NAME", "job-mmndj  a long n…", "job-2      日本"]


@pytest.mark.usefixtures("_narrow")
def test_the_wide_form_has_all_columns_and_cuts_nothing() -> None:
    assert table(ENTRIES, COLUMNS, "wide")[1] == "job-mmndjdmd  a long name  more"


@pytest.mark.parametrize("room", [1, 12, 100])
def test_a_column_is_never_cut_below_its_least(room: int) -> None:
    found = fitted([12, 11], COLUMNS[:2], room)

    assert all(least <= width for width, least in zip(found, (6, 4), strict=True))
    assert sum(found) <= max(room - 2, 10)


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_document_is_the_answer_with_what_only_a_newer_version_knows(
    capsys: pytest.CaptureFixture[str], form: output.FormName, read: type
) -> None:
    page = {"data": [a_job(newer={"x": 1}, name="\x1b[2J")], "first_id": None, "last_id": None, "has_more": True}

    print_list(page, form, JobPage, COLUMNS)

    printed = capsys.readouterr()
    assert (read(printed.out), printed.err) == (page, "")
    assert "\x1b" not in printed.out


def test_the_form_name_has_only_the_first_column(capsys: pytest.CaptureFixture[str]) -> None:
    page = {"data": [a_job(), a_job(id="job-2")], "first_id": None, "last_id": None, "has_more": True}

    print_list(page, "name", JobPage, (Column("JOB", lambda job: job.id), Column("NAME", lambda job: job.name)))

    assert capsys.readouterr() == ("job-1\njob-2\n", "")
