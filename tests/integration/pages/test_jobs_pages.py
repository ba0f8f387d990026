"""The list of jobs and the page of a job, in a real browser."""

import httpx
import pytest
from playwright.sync_api import Browser, Dialog, ViewportSize, expect

from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults
from tests.support.jobs_api import hub_body

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"


def submit(rest: httpx.Client, **groups: object) -> str:
    answer = rest.post("/jobs", json=hub_body(**groups))
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def test_a_job_is_listed_opened_and_asked_to_pause(browser: Browser, url: str, rest: httpx.Client) -> None:
    job_id = submit(rest, name="first")

    with a_page(browser, url) as page:
        page.goto("/ui")
        page.get_by_role("link", name="first", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("first")
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#job")).to_contain_text("pausing")

    assert rest.get(f"/jobs/{job_id}").json()["pause_requested"]


def test_a_job_is_cancelled_and_deleted_after_a_question(browser: Browser, url: str, rest: httpx.Client) -> None:
    job_id = submit(rest, name="gone")
    questions: list[str] = []

    def agree(dialog: Dialog) -> None:
        questions.append(dialog.message)
        dialog.accept()

    with a_page(browser, url) as page:
        page.on("dialog", agree)
        page.goto(f"/ui/jobs/{job_id}")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Delete").click()
        expect(page).to_have_url(f"{url}/ui/jobs")

    assert rest.get(f"/jobs/{job_id}").status_code == 404
    assert "without an adapter" in questions[0]
    assert "Its events, curves, log and checkpoints are lost" in questions[1]


def test_what_a_user_wrote_is_shown_as_text(browser: Browser, url: str, rest: httpx.Client) -> None:
    job_id = submit(rest, labels={"team": HOSTILE})

    with a_page(browser, url) as page:
        for path in ("/ui/jobs", f"/ui/jobs/{job_id}"):
            page.goto(path)
            expect(page.get_by_text(HOSTILE).first).to_be_visible()
            assert page.title() != "taken"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_pages_have_no_serious_accessibility_fault(
    browser: Browser, url: str, rest: httpx.Client, viewport: ViewportSize
) -> None:
    job_id = submit(rest, name="seen-by-everybody", labels={"team": "a"})

    with a_page(browser, url, viewport) as page:
        for path in ("/ui/jobs", f"/ui/jobs/{job_id}", "/ui/sign-in"):
            page.goto(path)
            assert accessibility_faults(page) == []


def test_a_filter_keeps_what_fits(browser: Browser, url: str, rest: httpx.Client) -> None:
    submit(rest, name="kept", labels={"team": "a"})
    submit(rest, name="left-out")

    with a_page(browser, url) as page:
        page.goto("/ui/jobs")
        page.get_by_label("Label").fill("team=a")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.get_by_role("link", name="kept")).to_be_visible()


def test_a_job_that_another_client_submits_appears(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/jobs")
        expect(page.get_by_text("There is no job yet.")).to_be_visible()
        submit(rest, name="new")
        expect(page.get_by_role("link", name="new", exact=True)).to_be_visible(timeout=25_000)


def test_a_page_that_is_not_there_says_so(browser: Browser, url: str) -> None:
    with a_page(browser, url, expects="404") as page:
        page.goto("/ui/jobs/job-nope")
        expect(page.get_by_role("heading", level=1)).to_have_text("This page cannot be shown")
