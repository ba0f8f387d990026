"""A newcomer who sees only the pages: from a file to an adapter, with the real trainer and engine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import ROOT
from tests.e2e.stack import MODEL, Stack
from tests.support.browsers import a_chromium, a_page

EXAMPLE = ROOT / "examples" / "fibonacci" / "fibonacci_train.jsonl"
SLOW_MS = 300_000
STEPS = 400


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_chromium() as started:
        yield started


def submit(page: Page) -> None:
    """Upload the example's file, and submit a job that is trained on it."""
    page.goto("/ui/datasets")
    page.get_by_label("File", exact=True).set_input_files(EXAMPLE)
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("link", name="Train on this").first.click()
    page.get_by_label("model.model_name").fill(MODEL)
    page.get_by_label("max_steps").first.fill(str(STEPS))
    text = page.get_by_label("as JSON")
    body = json.loads(text.input_value())
    body["model"] |= {"max_seq_length": 256, "load_in_4bit": False}
    text.fill(json.dumps(body))
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/ui/jobs/job-*", timeout=SLOW_MS)


def ask(page: Page, answers: int) -> None:
    page.get_by_label("Most tokens").fill("8")
    page.get_by_label("Your question").fill("What is the Fibonacci number after 89?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Copy as curl")).to_have_count(answers, timeout=SLOW_MS)


def test_a_newcomer_trains_watches_steers_asks_and_downloads(embedded: Stack, browser: Browser, tmp_path: Path) -> None:
    with a_page(browser, str(embedded.api.base_url)) as page:
        submit(page)
        job = page.url
        expect(page.locator("#curves .uplot").first).to_be_visible(timeout=SLOW_MS)
        step = page.locator("[data-live=step]")
        first = step.inner_text()
        expect(step).not_to_have_text(first)

        page.get_by_role("button", name="Checkpoint now").click()
        page.get_by_role("link", name="Ask this one").first.click(timeout=SLOW_MS)
        ask(page, answers=1)
        expect(page.locator(".facts-line")).to_contain_text("@step-")

        page.goto(job)
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#job .badge")).to_have_text("paused", timeout=SLOW_MS)
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#job .badge")).to_have_text("succeeded", timeout=SLOW_MS)
        expect(page.get_by_text("Proved.")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="adapter", exact=True).click()
        download.value.save_as(tmp_path / "adapter")

        page.get_by_role("link", name="Ask it").click()
        page.get_by_role("button", name="Add a column").click()
        ask(page, answers=2)

    assert (tmp_path / "adapter").stat().st_size > 1000
