"""The page of workers and engines, in a real browser."""

import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from app.contracts.gpu_readings import GpuReading
from app.database.connection import Database
from app.jobs.states import JobStatus, Stage
from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults
from tests.support.jobs import add_job, add_worker

HOSTILE = "<img src=x onerror=alert(1)>"
HOT = GpuReading(gpu="GPU-1", name=f"H200 {HOSTILE}", memory_used_bytes=7 * 10**9, memory_total_bytes=141 * 10**9,
                 utilization=0.5, temperature_celsius=61.0, power_watts=400.5)  # fmt: skip
SILENT = GpuReading(gpu="GPU-2", name="T4")


def test_a_worker_is_shown_with_its_job_its_gpus_and_what_they_measured(
    browser: Browser, url: str, database: Database
) -> None:
    job_id = add_job(database, JobStatus.RUNNING)
    add_worker(database, name="w1", gpus=2, job_id=job_id, gpu_readings=[HOT.model_dump(), SILENT.model_dump()])

    with a_page(browser, url) as page:
        page.goto("/ui/workers")
        row = page.locator("tbody tr")
        expect(row).to_contain_text("at work")
        expect(row).to_contain_text(f"H200 {HOSTILE}: 7.0 GB of 141.0 GB used, 50 % busy, 61 °C, 400.5 W")
        expect(row.get_by_text("T4", exact=True)).to_be_visible()
        row.get_by_role("link", name=job_id).click()
        expect(page).to_have_url(f"{url}/ui/jobs/{job_id}")


def test_a_worker_that_takes_nothing_says_why(browser: Browser, url: str, database: Database) -> None:
    add_worker(database, name="full", problem=f"its disk is full {HOSTILE}")
    add_worker(database, name="lost", stage=Stage.CHECK, seconds_ago=31)

    with a_page(browser, url) as page:
        page.goto("/ui/workers")
        expect(page.get_by_role("row", name="full")).to_contain_text(f"takes no jobs: its disk is full {HOSTILE}")
        expect(page.get_by_role("row", name="lost")).to_contain_text("it was not seen in the last 30 seconds")
        expect(page.get_by_text("no train worker that takes jobs has been seen")).to_be_visible()


def test_a_service_without_workers_says_what_is_missing(browser: Browser, url: str) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/workers")
        expect(page.get_by_text("No worker has been seen yet.")).to_be_visible()
        expect(page.get_by_text("Jobs are taken, but some have to wait.")).to_be_visible()


def test_a_worker_that_starts_later_appears(browser: Browser, url: str, database: Database) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/workers")
        add_worker(database, name="w1")
        expect(page.get_by_role("row", name="w1")).to_contain_text("takes jobs", timeout=25_000)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_of_workers_has_no_serious_accessibility_fault(
    browser: Browser, url: str, database: Database, viewport: ViewportSize
) -> None:
    add_worker(database, name="w1", gpu_readings=[HOT.model_dump()])
    add_worker(database, name="w2", problem="its disk is full")

    with a_page(browser, url, viewport) as page:
        page.goto("/ui/workers")
        assert accessibility_faults(page) == []
