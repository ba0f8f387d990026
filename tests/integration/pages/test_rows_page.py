"""The page of the rows that a job learns, in a real browser."""

import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from app.config import Settings
from app.contracts.rows import TRAIN_REPORT
from app.contracts.tokens import TokenReport
from app.database.connection import Database
from app.jobs.models import Job
from app.jobs.states import JobStatus
from tests.support.browsers import DESKTOP, PHONE, WAIT_MS, a_page, accessibility_faults
from tests.support.jobs import add_job
from tests.support.learned_text import Parts, a_token_report, chat_parts, left_out, too_long, write_data

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
TRAIN: dict[int, Parts] = {number: chat_parts(f"q{number} {HOSTILE}", "a" * number) for number in range(1, 13)}
REFUSED = {"record": 14, "line": 15, "field": "messages.0.role", "code": "x", "found": HOSTILE, "expected": "user"}
SOURCE = {
    "format": "jsonl", "is_gzip": False, "layout": "messages", "sha256": None, "records": 15, "kept": 13, "dropped": 1,
    "problem_count": 1, "problems": [REFUSED], "fixes": [{"code": "merged_turns", "count": 1, "records": [2]}],
    "warnings": [{"code": "trailing_turns", "count": 1, "records": [3]}], "ignored_keys": ["mood"],
    "duplicates": {"count": 1, "records": [4], "looked_at": 15}, "longest_characters": 90, "longest_record": 12,
}  # fmt: skip
LEFT_OUT = left_out("nothing_supervised", "no token of it carries loss", 15)
TOKENS = TokenReport.model_validate(a_token_report(left_out=[LEFT_OUT], long_records=[too_long(12, 300)]).__dict__)
FOUND = TOKENS.model_dump(mode="json")
REPORT = {"source": SOURCE, "train": FOUND, "eval": FOUND, "overlap": {"count": 1, "records": [13]}}


@pytest.fixture
def job_id(database: Database, settings: Settings) -> str:
    """A running job with twelve training rows and one for the evaluation; two records became no row."""
    job_id = add_job(database, JobStatus.RUNNING, data_report=REPORT)
    write_data(settings.data_dir(job_id), train=TRAIN, eval={13: chat_parts("q13", "last")})
    (settings.data_dir(job_id) / TRAIN_REPORT).write_text(TOKENS.model_dump_json())
    return job_id


def test_trained_text_is_marked_and_rows_are_paged(browser: Browser, url: str, job_id: str) -> None:
    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        expect(page.locator("article")).to_have_count(10)
        expect(page.locator("article").nth(2).locator("mark")).to_have_text("aaa<|im_end|>")
        page.get_by_role("link", name="Next rows").click()
        expect(page.locator("article h2")).to_have_text(["Record 11", "Record 12"])


def test_a_record_is_looked_up_and_one_that_is_not_learned_is_explained(
    browser: Browser, url: str, job_id: str
) -> None:
    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        page.get_by_role("spinbutton", name="Record").fill("5")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("article mark").first).to_have_text("aaaaa<|im_end|>")
        page.get_by_role("link", name="14", exact=True).click()
        expect(page.get_by_text("messages.0.role was refused")).to_be_visible()


def test_rows_of_the_evaluation_are_shown_and_those_that_are_trained_on_too_are_named(
    browser: Browser, url: str, job_id: str
) -> None:
    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        page.get_by_label("Rows of").select_option("eval")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("article h2")).to_have_text("Record 13")
        expect(page.get_by_text("1 evaluation row equals a training row")).to_be_visible()


def test_what_the_check_found_is_told_by_reason(browser: Browser, url: str, job_id: str) -> None:
    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        for text in ("no token of it carries loss", "merged turns", "the messages after the last answer", "mood"):
            expect(page.get_by_text(text).first).to_be_visible()
        expect(page.get_by_label("3 rows with up to 16 tokens").first).to_be_visible()


def test_text_of_a_row_stays_text(browser: Browser, url: str, job_id: str) -> None:
    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        expect(page.locator("article").first).to_contain_text(HOSTILE)
        expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()
        assert page.title() != "taken"


def test_a_long_row_is_shown_whole_on_its_own_page(
    browser: Browser, url: str, database: Database, settings: Settings
) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    write_data(settings.data_dir(job_id), train={1: chat_parts("q", "a" * 5000 + "end")})

    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        expect(page.locator("article mark")).not_to_contain_text("end")
        page.get_by_role("link", name="All of record 1").click()
        expect(page.locator("article mark").first).to_contain_text("aend<|im_end|>")


@pytest.mark.parametrize(
    ("status", "report", "says"),
    [
        (JobStatus.VALIDATING, None, "The check is not done yet"),
        (JobStatus.SUCCEEDED, REPORT, "were removed from the disk"),
        (JobStatus.CANCELLED, None, "The job is cancelled, and its check has prepared no rows"),
    ],
)
def test_a_job_without_rows_says_why(
    browser: Browser, url: str, database: Database, status: JobStatus, report: dict[str, object] | None, says: str
) -> None:
    job_id = add_job(database, status, data_report=report)

    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        expect(page.get_by_text(says)).to_be_visible()


def test_rows_appear_once_the_check_has_ended(
    browser: Browser, url: str, database: Database, settings: Settings
) -> None:
    job_id = add_job(database, JobStatus.VALIDATING)

    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}/data")
        write_data(settings.data_dir(job_id), train=TRAIN)
        with database.writer() as session:
            session.get_one(Job, job_id).status = JobStatus.QUEUED
            session.commit()
        expect(page.locator("article")).to_have_count(10, timeout=WAIT_MS)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_has_no_serious_accessibility_fault(
    browser: Browser, url: str, job_id: str, viewport: ViewportSize
) -> None:
    with a_page(browser, url, viewport) as page:
        for query in ("", "?record=1", "?record=14"):
            page.goto(f"/ui/jobs/{job_id}/data{query}")
            assert accessibility_faults(page) == []
