"""What the pages cost: the first view of many jobs, the curves of a long job, and pages that stay open; prints JSON.

usage: python -m bench.pages WORK_DIR [--jobs 100000] [--steps 200000] [--open 50] [--seconds 20] [--rounds 100]

The API runs alone (`python -m app.serve`) on a home below the folder, with SQLite; jobs and steps are inserted rows.
`first_view_ms` is the time of `GET /ui/jobs` from the request to its last byte, on a new connection each.
`first_view_bytes` counts all that a browser loads for it over the wire. `curves_ms` are from the start of the
navigation to the drawn curves, in Chromium. Half of the open pages show the list, half of them a job that waits, so
that nothing happens there; `api_cores` is what the API uses for them.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext

from app.database.connection import Database
from app.jobs.models import Job
from app.jobs.states import JobStatus
from bench.api import Api, Machine, a_job, serving, spread
from bench.api_reads import Filled
from tests.support.browsers import a_chromium

DRAWN = "performance.getEntriesByName('curves drawn')[0]?.startTime"
TIMEOUT_MS = 60_000
DRAWINGS = 10


def main() -> None:
    options = read_options()
    options.work.mkdir(parents=True, exist_ok=True)
    filled = Filled(options.work / "home", None, options.jobs, options.steps, a_job(0, JobStatus.SUCCEEDED))
    waiting = add_waiting_job(filled)
    with serving(filled.settings, 1) as api, a_chromium() as browser:
        figures = {
            "jobs": options.jobs,
            "steps": options.steps,
            "first_view_ms": spread([api.get("/ui/jobs") for _ in range(options.rounds)]),
            "first_view_bytes": bytes_of_first_view(browser, api),
            "curves_ms": curves(browser, api, filled.job_ids[-1]),
            "open": stay_open(browser, api, waiting, options.open, options.seconds),
        }
    print(json.dumps(figures))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--open", type=int, default=50, help="pages that are open at once")
    parser.add_argument("--seconds", type=float, default=20, help="that they stay open")
    parser.add_argument("--rounds", type=int, default=100, help="how often the list is asked")
    return parser.parse_args()


def add_waiting_job(filled: Filled) -> str:
    database = Database.open(filled.settings.database)
    with database.writer() as session:
        job: Job = a_job(0, JobStatus.QUEUED)
        session.add(job)
        session.commit()
        job_id = job.id
    database.close()
    return job_id


def a_context(browser: Browser, api: Api) -> BrowserContext:
    context = browser.new_context(base_url=f"http://127.0.0.1:{api.port}")
    context.set_default_timeout(TIMEOUT_MS)
    return context


def bytes_of_first_view(browser: Browser, api: Api) -> int:
    """Headers and bodies as they were sent, of the page and of what it loads."""
    context = a_context(browser, api)
    page = context.new_page()
    page.goto("/ui/jobs", wait_until="networkidle")
    sizes = "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
    total: int = page.evaluate(f"{sizes}.reduce((sum, one) => sum + one.transferSize, 0)")
    context.close()
    return total


def curves(browser: Browser, api: Api, job_id: str) -> dict[str, float] | None:
    """Milliseconds from the navigation to the curves; the browser has scripts and styles from the first of them."""
    context = a_context(browser, api)
    page = context.new_page()
    found = []
    for _ in range(DRAWINGS + 1):
        page.goto(f"/ui/jobs/{job_id}")
        page.wait_for_selector(".uplot canvas")
        found.append(page.evaluate(DRAWN) / 1000)
    context.close()
    return spread(found[1:])


def stay_open(browser: Browser, api: Api, job_id: str, count: int, seconds: float) -> dict[str, Any]:
    contexts = [a_context(browser, api) for _ in range(count)]  # of so many people
    for number, context in enumerate(contexts):
        context.new_page().goto("/ui/jobs" if number % 2 else f"/ui/jobs/{job_id}")
    machine, used = Machine(), api.cpu_seconds()
    time.sleep(seconds)
    machine.stop()
    spent = api.cpu_seconds() - used
    for context in contexts:
        context.close()
    cores = spent / machine.seconds
    return {"pages": count, "api_cores": round(cores, 3), "machine": machine.figures({"api": cores})}


if __name__ == "__main__":
    main()
