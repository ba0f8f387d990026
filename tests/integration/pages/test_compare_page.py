"""Several jobs beside each other, in a real browser."""

from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from app.contracts.events import Evaluated
from app.database.connection import Database
from app.jobs.queue.claims import finish, record
from app.jobs.states import JobStatus
from app.pages.compare import differences
from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults
from tests.support.events import a_step
from tests.support.jobs import NOW, add_job, taken
from tests.support.jobs_api import hub_body

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
PROOF = {"proved": True, "tokens": 280, "difference": 0.07, "tolerance": 0.4, "largest_difference": 0.41}


def a_trained_job(database: Database, *, loss: float = 1.0, eval_losses: tuple[float, ...] = (), **groups: Any) -> str:
    """A job of ten steps whose loss falls from `loss`, with an evaluation at each of the last steps."""
    job_id = add_job(database, body=hub_body(**groups))
    claim = taken(database)
    steps = [a_step(step, total_steps=10, loss=loss / step, memory_bytes=step * 10**9) for step in range(1, 11)]
    first = 11 - len(eval_losses)
    evaluated = [Evaluated(step=step, eval_loss=each, eval_seconds=1) for step, each in enumerate(eval_losses, first)]
    with database.writer() as session:
        record(session, claim, [*steps, *evaluated], 1)
        finish(session, claim, JobStatus.SUCCEEDED, NOW, outcome="finished", reason=None)
        session.commit()
    return job_id


def compare(page: Page, *ids: str) -> None:
    page.goto(f"/ui/compare?{'&'.join(f'job={one}' for one in ids)}")


def table_of(page: Page, name: str) -> dict[str, list[str]]:
    rows = page.locator(f"#{name} tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}


def test_only_what_differs_is_shown(browser: Browser, url: str, database: Database) -> None:
    first = a_trained_job(database, name="a", training={"learning_rate": 1e-3})
    second = a_trained_job(database, name="b", labels={"team": "x"}, lora={"r": 8})

    with a_page(browser, url) as page:
        compare(page, first, second)

        assert table_of(page, "differences") == {
            "name": ['"a"', '"b"'],
            "labels.team": ["–", '"x"'],
            "lora.r": ["16", "8"],
            "training.learning_rate": ["0.001", "0.0002"],
        }


def test_results_stand_beside_each_other(browser: Browser, url: str, database: Database) -> None:
    first = a_trained_job(database, name="a", eval_losses=(0.5, 0.25, 0.75))
    second = a_trained_job(database, name="b", loss=2.0)

    with a_page(browser, url) as page:
        compare(page, first, second)
        results = table_of(page, "results")

        assert results["Final loss"] == results["Lowest loss"] == ["0.1", "0.2"]
        assert results["Final evaluation loss"] == ["0.75", "–"]
        assert results["Lowest evaluation loss"] == ["0.25", "–"]
        assert results["Steps"] == results["Tokens/s over all steps"] == ["10", "10"]
        assert (results["Tokens"], results["Time of the steps"]) == (["100"] * 2, ["10 s"] * 2)
        assert results["Highest memory"] == ["10.0 GB"] * 2


def test_the_proof_is_told_in_words(browser: Browser, url: str, database: Database) -> None:
    ids = [add_job(database, JobStatus.SUCCEEDED, result={"verification": proof}) for proof in (PROOF, None)]

    with a_page(browser, url) as page:
        compare(page, *ids)
        proved, unknown = table_of(page, "results")["Proof"]

    assert "Proved. The engine answers with this adapter as the trainer did: over 280 recorded tokens" in proved
    assert unknown == "–"


def test_a_panel_has_one_line_for_each_run_and_one_for_its_evaluations(
    browser: Browser, url: str, database: Database
) -> None:
    ids = [a_trained_job(database, name="same", eval_losses=losses) for losses in ((0.5, 0.25), (), ())]

    with a_page(browser, url) as page:
        compare(page, *ids)
        labels = [f"same …{one[-4:]}" for one in ids]
        panel = page.locator("#curves figure").filter(has_text="Loss").first
        expect(panel.locator(".u-series .u-label")).to_have_text(["step", *labels, f"{labels[0]} evaluation"])
        panels = ["Loss", "Learning rate", "Gradient norm", "Tokens per second", "Memory, GB"]
        expect(page.locator("#curves figcaption")).to_have_text(panels)
        rates = page.locator("#curves figure").filter(has_text="Learning rate")
        expect(rates.locator(".u-series .u-label")).to_have_text(["step", *labels])


def test_jobs_are_chosen_from_a_list_and_by_their_id(browser: Browser, url: str, database: Database) -> None:
    first = a_trained_job(database, name="first")
    a_trained_job(database, name="second")
    for _ in range(20):
        add_job(database, age=-60)

    with a_page(browser, url) as page:
        page.goto("/ui/compare")
        page.get_by_role("textbox").fill(first)
        page.get_by_role("checkbox").first.check()
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#results thead a").first).to_have_text("job")
        expect(page.locator("#results thead a").last).to_have_text("first")
        expect(page.get_by_role("checkbox", checked=True, include_hidden=True)).to_have_count(2)


def test_the_list_of_jobs_leads_to_a_comparison(browser: Browser, url: str, database: Database) -> None:
    for name in ("first", "second"):
        a_trained_job(database, name=name)

    with a_page(browser, url) as page:
        page.goto("/ui/jobs")
        for name in ("first", "second"):
            page.get_by_role("checkbox", name=f"compare {name}").check()
        with page.expect_response("**/ui/jobs"):
            page.evaluate("document.body.dispatchEvent(new Event('moved'))")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#results thead a")).to_have_count(2)


@pytest.mark.parametrize(("count", "expected"), [(1, "Choose one job more"), (5, "expected at most 4 to compare")])
def test_two_to_four_jobs_are_compared(
    browser: Browser, url: str, database: Database, count: int, expected: str
) -> None:
    ids = [add_job(database) for _ in range(count)]

    with a_page(browser, url, expects="422") as page:
        compare(page, *ids)
        expect(page.get_by_text(expected)).to_be_visible()


def test_a_job_that_is_not_there_is_named(rest: httpx.Client) -> None:
    answer = rest.get("/ui/compare?job=job-nope")

    assert (answer.status_code, "job-nope" in answer.text) == (404, True)


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_comparison_is_text_and_has_no_serious_accessibility_fault(
    browser: Browser, url: str, database: Database, viewport: ViewportSize
) -> None:
    ids = [a_trained_job(database, labels={"team": HOSTILE + end}, eval_losses=(1.0,)) for end in ("1", "2")]

    with a_page(browser, url, viewport) as page:
        compare(page, *ids)
        expect(page.locator("#curves .u-series").first).to_be_attached()
        expect(page.get_by_text(HOSTILE).first).to_be_visible()
        page.locator("summary").click()
        assert page.title() != "taken"
        assert accessibility_faults(page) == []


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}], {}),
        ([{"a": [1]}, {"a": [2]}], {"a": ["[1]", "[2]"]}),
        ([{"a": None}, {"a": {"b": 1}}], {"a.b": ["–", "1"]}),
        ([{"a": None}, {}], {"a": ["null", "–"]}),
        ([{"a": None}, {"a": {}}], {"a": ["null", "{}"]}),
        ([{"a": "é"}, {"a": {"b": 1}}], {"a": ['"é"', '{"b": 1}']}),
    ],
)
def test_a_difference_is_a_path_whose_values_differ(specs: list[Any], expected: dict[str, list[str]]) -> None:
    assert {one.path: list(one.values) for one in differences(specs)} == expected
