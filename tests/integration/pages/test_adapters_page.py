"""The list of adapters, in a real browser."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from app.adapters.models import Adapter
from app.config import Settings
from app.database.connection import Database
from app.jobs.states import JobStatus
from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults, questions_agreed_to
from tests.support.jobs import add_job
from tests.support.scripted_engine import add_adapter

HOSTILE = "<img src=x onerror=alert(1)>"
PROOF = {
    "proved": True, "reason": None, "difference": 0.076, "tolerance": 0.396, "largest_difference": 0.416,
    "base_difference": 14.1, "tokens": 280,
}  # fmt: skip


@pytest.fixture
def adapter(database: Database, settings: Settings) -> Adapter:
    """An adapter of a job that is still there."""
    job_id = add_job(database, JobStatus.SUCCEEDED, name=HOSTILE, result={"verification": PROOF})
    return add_adapter(database, settings.root / "adapters", job_id=job_id, base_model=HOSTILE)


def test_an_adapter_is_shown_with_its_base_its_job_and_its_proof(browser: Browser, url: str, adapter: Adapter) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/adapters")
        row = page.locator("tbody tr")
        expect(row).to_contain_text("over 280 recorded tokens the mean difference of log-probabilities is 0.076")
        expect(row.get_by_role("link", name="Ask it")).to_have_attribute("href", f"/ui/playground?model={adapter.id}")
        row.get_by_role("link", name=HOSTILE).click()
        expect(page).to_have_url(f"{url}/ui/jobs/{adapter.job_id}")


def test_an_adapter_without_its_job_says_so(browser: Browser, url: str, database: Database, tmp_path: Path) -> None:
    add_adapter(database, tmp_path)

    with a_page(browser, url) as page:
        page.goto("/ui/adapters")
        expect(page.locator("tbody tr")).to_contain_text("its job is deleted")


@pytest.mark.usefixtures("adapter")
def test_the_files_of_an_adapter_are_downloaded(browser: Browser, url: str) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/adapters")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert b"adapter_config.json" in download.value.path().read_bytes()


def test_an_adapter_is_deleted_after_a_question(
    browser: Browser, url: str, rest: httpx.Client, adapter: Adapter
) -> None:
    with a_page(browser, url) as page:
        questions = questions_agreed_to(page)
        page.goto("/ui/adapters")
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("There is no adapter yet.")).to_be_visible()

    assert "Its files are lost, and nobody can ask it any more" in questions[0]
    assert rest.get(f"/adapters/{adapter.id}").status_code == 404


@pytest.mark.usefixtures("adapter")
def test_names_stay_text(browser: Browser, url: str) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/adapters")
        expect(page.get_by_role("cell", name=f"{HOSTILE} LoRA, rank 16")).to_be_visible()


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_of_adapters_has_no_serious_accessibility_fault(
    browser: Browser, url: str, viewport: ViewportSize
) -> None:
    with a_page(browser, url, viewport) as page:
        page.goto("/ui/adapters")
        assert accessibility_faults(page) == []
