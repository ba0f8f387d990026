"""The form of a new job, in a real browser: fields and JSON are one request, and the service's answers stand there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from app.access.peppers import peppers
from app.accounts import service
from app.accounts.schemas import NewKey
from app.config import Settings
from app.contracts.events import DataPrepared
from app.contracts.rows import BASE_CARD
from app.database.connection import Database
from app.jobs.models import Job
from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults
from tests.support.callers import ANYONE
from tests.support.checks import Checker, Findings, a_checker, a_failure
from tests.support.jobs import add_worker
from tests.support.jobs_api import an_app, hub_body
from tests.support.learned_text import a_token_report, chat_parts
from tests.support.serving import serving
from tests.support.shapes import LLAMA_3B_CARD

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
# What a shell and Python would trip over.
LABELS = {"team": "$(exit 1) `id` 'a' \"b\"\nEND\n\\ é\u2028"}


@pytest.fixture
def checker(settings: Settings, database: Database) -> Iterator[Checker]:
    """One that finds two rows, the first a hostile one, and refuses a job by the name of `bad`."""

    def check(job: Job) -> Findings:
        if job.name == "bad":
            return a_failure("no_chat_template", "there is none")
        settings.data_dir(job.id).mkdir(parents=True, exist_ok=True)
        (settings.data_dir(job.id) / BASE_CARD).write_text(LLAMA_3B_CARD.model_dump_json())
        report = {"train": a_token_report().model_dump(mode="json")}
        return Findings(events=[DataPrepared(report=report)], rows={1: chat_parts(HOSTILE, "learned")})

    with a_checker(settings, database, check) as found:
        yield found


def request_of(page: Page) -> Any:
    return json.loads(page.get_by_label("as JSON").input_value())


def write(page: Page, body: object) -> None:
    page.get_by_label("as JSON").fill(body if isinstance(body, str) else json.dumps(body))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def jobs(rest: httpx.Client) -> list[dict[str, Any]]:
    return [rest.get(f"/jobs/{job['id']}").json() for job in rest.get("/jobs").json()["data"]]


def test_the_json_has_what_was_set_and_nothing_else(browser: Browser, url: str) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        assert request_of(page) == {}
        page.get_by_label("model.model_name").fill("org/model")
        page.get_by_label("dataset.source.hub", exact=True).fill("org/chats")
        page.get_by_label("training.learning_rate").fill("1e-3")
        page.get_by_label("lora.r", exact=True).fill("8")
        page.get_by_label("lora.r", exact=True).fill("")
        page.locator("summary", has_text="Where the rows come from").click()
        page.get_by_label("dataset.train_on").select_option("all")

        source = {"source": {"hub": "org/chats"}, "train_on": "all"}
        group = {"learning_rate": 0.001}
        assert request_of(page) == {"model": {"model_name": "org/model"}, "dataset": source, "training": group}


def test_a_changed_json_changes_the_fields(browser: Browser, url: str) -> None:
    body = hub_body(lora={"r": 64, "target_modules": ["q_proj"]}, training={"packing": True, "warmup_steps": None})

    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        write(page, body)
        expect(page.get_by_label("lora.r", exact=True)).to_have_value("64")
        expect(page.get_by_label("lora.target_modules")).to_have_value('["q_proj"]')
        expect(page.get_by_label("training.packing")).to_have_value("true")
        expect(page.get_by_label("training.warmup_steps")).to_have_attribute("placeholder", "null")
        page.get_by_label("name", exact=True).fill("kept")

        assert request_of(page) == {**body, "name": "kept"}


def test_the_fields_wait_while_the_json_is_none(browser: Browser, url: str) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        write(page, '{"name": ')
        expect(page.get_by_label("name", exact=True)).to_be_disabled()
        expect(page.get_by_text("This is no JSON object yet.")).to_be_visible()
        write(page, '{"name": "a"}')
        expect(page.get_by_label("name", exact=True)).to_have_value("a")


def test_one_source_replaces_the_other(browser: Browser, url: str, rest: httpx.Client) -> None:
    file = rest.post("/files", files={"file": ("rows.jsonl", b'{"text": "a"}\n')}).json()

    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        write(page, hub_body(dataset={"source": {"hub": "org/chats", "split": "test"}}))
        page.get_by_label("dataset.source.file").select_option(f'"{file["id"]}"')

        assert request_of(page)["dataset"] == {"source": {"file": file["id"]}}


def test_a_file_is_uploaded_there_and_then(browser: Browser, url: str, rest: httpx.Client, tmp_path: Path) -> None:
    rows = tmp_path / f"{HOSTILE.replace('/', '')}.jsonl"
    rows.write_text('{"text": "a"}\n')

    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        page.get_by_label("or upload one now").set_input_files(rows)
        expect(page.get_by_text("1 records of the layout text")).to_be_visible()

        (file,) = rest.get("/files").json()["data"]
        assert request_of(page) == {"dataset": {"source": {"file": file["id"]}}}
        page.goto(f"/ui/submit?file={file['id']}")
        assert request_of(page) == {"dataset": {"source": {"file": file["id"]}}}
        expect(page.get_by_label("dataset.source.file")).to_contain_text(rows.name)


def test_a_double_click_makes_one_job_of_the_json_that_is_shown(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        write(page, hub_body(name="once", labels=LABELS))
        page.get_by_label("training.max_steps").fill("7")
        shown = request_of(page)
        page.get_by_role("button", name="Submit").dblclick()
        expect(page.get_by_role("heading", level=1)).to_have_text("once")

        (job,) = jobs(rest)
        assert job["spec"] == shown
        assert page.url.endswith(job["id"])


def test_the_form_has_one_idempotency_key(browser: Browser, url: str, rest: httpx.Client) -> None:
    """A request whose answer was lost is sent again with the same key, and makes no second job."""
    with a_page(browser, url, expects="ERR_FAILED") as page:
        page.goto("/ui/submit")
        write(page, hub_body(name="once"))
        page.route("**/jobs", lambda route: (route.fetch(), route.abort("failed")), times=1)
        press(page, "Submit")
        expect(page.locator("#doing")).to_have_text("The service does not answer.")
        press(page, "Submit")
        expect(page.get_by_role("heading", level=1)).to_have_text("once")

    assert len(jobs(rest)) == 1


def test_every_problem_stands_at_its_field(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url, expects="422") as page:
        page.goto("/ui/submit")
        write(page, hub_body(model={"model_name": "a b"}, training={"weight_decay": 11}, typo=1))
        press(page, "Submit")
        described = page.locator('[id="model.model_name.wrong"]')
        expect(described).to_contain_text("found 'a b'")
        expect(page.get_by_label("model.model_name")).to_be_focused()
        expect(page.locator('[id="training.weight_decay.wrong"]')).to_be_visible()
        expect(page.locator("#other-problems")).to_contain_text("typo: found the key 'typo'")
        page.get_by_label("model.model_name").fill("org/model")
        expect(described).to_be_empty()

    assert jobs(rest) == []


def test_a_wrong_row_is_named_at_the_dataset(browser: Browser, url: str, rest: httpx.Client) -> None:
    rows = b'{"text": "fine"}\n{"text": 12}\n'
    file = rest.post("/files", files={"file": ("rows.jsonl", rows)}).json()

    with a_page(browser, url, expects="422") as page:
        page.goto(f"/ui/submit?file={file['id']}")
        page.get_by_label("model.model_name").fill("org/model")
        press(page, "Check")
        expect(page.locator('[id="dataset.source.file.wrong"]')).to_contain_text(
            "record 2, line 2, text: found a number"
        )


def test_what_cannot_be_read_is_not_sent(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        write(page, hub_body())
        page.get_by_label("lora.target_modules").evaluate("field => field.closest('details').open = true")
        page.get_by_label("lora.target_modules").fill('["q_proj"')
        press(page, "Submit")
        expect(page.get_by_text("This is not JSON yet.")).to_be_visible()
        expect(page.get_by_label("lora.target_modules")).to_be_focused()

    assert jobs(rest) == []


def test_a_copy_begins_with_what_the_job_was_sent_with(browser: Browser, url: str, rest: httpx.Client) -> None:
    body = hub_body(name="first", labels={"team": HOSTILE}, training={"max_steps": 3})
    job_id = rest.post("/jobs", json=body).json()["id"]

    with a_page(browser, url) as page:
        page.goto(f"/ui/jobs/{job_id}")
        page.get_by_role("link", name="Clone").click()
        assert request_of(page) == body
        expect(page.locator("#curl")).to_contain_text(HOSTILE)
        press(page, "Submit")
        expect(page.get_by_role("heading", level=1)).to_have_text("first")
        assert page.title() != "taken"

    assert [job["spec"] for job in jobs(rest)] == [body, body]


@pytest.mark.usefixtures("checker")
def test_a_check_and_an_estimate_show_rows_and_workers(
    browser: Browser, url: str, rest: httpx.Client, database: Database
) -> None:
    add_worker(database, device="NVIDIA H200, 143771 MiB", name="large")

    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        write(page, hub_body(training={"max_steps": 5}))
        press(page, "Check")
        expect(page.locator("#checked")).to_contain_text("Valid: this job would be queued")
        expect(page.locator("#checked mark")).to_have_text("learned<|im_end|>")
        expect(page.locator("#checked")).to_contain_text(HOSTILE)
        press(page, "Estimate")
        expect(page.locator("#estimated tbody tr")).to_contain_text("large: NVIDIA H200, 143771 MiB")
        expect(page.locator("#estimated tbody tr td").nth(1)).to_have_text("yes")
        page.get_by_label("training.max_steps").fill("6")
        expect(page.get_by_text("The request has changed since")).to_be_visible()

    assert jobs(rest) == []


@pytest.mark.usefixtures("checker")
def test_a_check_that_fails_says_why(browser: Browser, url: str) -> None:
    with a_page(browser, url, expects="422") as page:
        page.goto("/ui/submit")
        write(page, hub_body(name="bad"))
        press(page, "Check")
        expect(page.locator("#checked")).to_contain_text("Not valid: there is none")
        write(page, hub_body(lora={"r": 0}))
        press(page, "Check")
        expect(page.locator("#doing")).to_have_text("The service refused this.")
        expect(page.locator("#checked")).to_be_empty()


@pytest.mark.parametrize("language", ["curl", "python"])
def test_the_other_forms_make_the_same_job(browser: Browser, url: str, rest: httpx.Client, language: str) -> None:
    body = hub_body(labels=LABELS, model={"load_in_4bit": False}, training={"warmup_steps": 0, "num_train_epochs": 0.5})
    with a_page(browser, url) as page:
        page.goto("/ui/submit")
        write(page, body)
        text = page.locator(f"#{language}").text_content() or ""

    command = ["bash"] if language == "curl" else [sys.executable, "-"]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True, timeout=30)

    assert [job["spec"] for job in jobs(rest)] == [body]


def test_a_key_stands_in_no_form_of_the_request(browser: Browser, settings: Settings, database: Database) -> None:
    with database.writer() as session:
        _, key = service.create(session, ANYONE, peppers(settings)[0], NewKey(name="reader", scopes=["read"]))
    app = an_app(settings.model_copy(update={"keys": "required"}), settings.database)

    with serving(app, timeout_graceful_shutdown=2) as url, a_page(browser, url) as page:
        page.goto("/ui/submit")
        page.get_by_label("Key").fill(key)
        press(page, "Sign in")
        expect(page.get_by_text("Your key may read, but not submit jobs")).to_be_visible()
        expect(page.locator("#curl")).to_contain_text("$TUNESMITH_API_KEY")
        expect(page.locator("#python")).to_contain_text("os.environ['TUNESMITH_API_KEY']")
        assert key not in page.content()


@pytest.mark.usefixtures("checker")
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_form_has_no_serious_accessibility_fault(
    browser: Browser, url: str, database: Database, viewport: ViewportSize
) -> None:
    add_worker(database, device="NVIDIA H200, 143771 MiB")

    with a_page(browser, url, viewport, expects="422") as page:
        page.goto("/ui/submit")
        write(page, hub_body(lora={"r": 0}))
        press(page, "Check")
        expect(page.locator('[id="lora.r.wrong"]')).not_to_be_empty()
        write(page, hub_body())
        for name, place in (("Check", "#checked h2"), ("Estimate", "#estimated h2")):
            press(page, name)
            expect(page.locator(place)).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert accessibility_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
