"""The playground, in a real browser, with an engine that answers by script."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from app.access.peppers import peppers
from app.accounts.schemas import NewKey
from app.accounts.service import create
from app.config import Settings
from app.contracts.generation import EngineError, ScoredToken, TextDelta
from app.database.connection import Database
from app.database.migrate import upgrade
from app.jobs.models import Checkpoint
from app.jobs.states import JobStatus
from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults
from tests.support.callers import ANYONE
from tests.support.jobs import NOW, add_job
from tests.support.jobs_api import an_app
from tests.support.scripted_engine import FINISH, ScriptedEngine, add_adapter
from tests.support.serving import serving
from tests.support.waiting import wait_for

HOSTILE = "<img src=x onerror=\"document.title='taken'\"> it's $(id) `id` \\ \n 😀"
UNKNOWN = "adapter-aaaaaaaaaaaaaaaaaaaaaaaa"
TWO = "/ui/playground?model=org/a&model=org/b"


def scored(text: str, logprob: float) -> TextDelta:
    return TextDelta(text=text, tokens=[ScoredToken(id=1, token=text, bytes=[*text.encode()], logprob=logprob)])


def answered(page: Page, question: str = "What is 89?") -> Locator:
    """Ask, and return the answers once all columns have one."""
    page.get_by_label("Your question").fill(question)
    page.get_by_label("Your question").press("Enter")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    return page.locator(".answer")


def orders(app: FastAPI) -> list[Any]:
    return list(app.state.engine.orders)


def test_models_answer_side_by_side_with_the_same_settings_and_seed(browser: Browser, url: str, app: FastAPI) -> None:
    with a_page(browser, url) as page:
        page.goto(TWO)
        page.get_by_label("Temperature").fill("0.5")
        page.get_by_label("System prompt").fill("be brief")
        expect(answered(page)).to_have_text(["144 é\u2028😀"] * 2)
        expect(page.locator(".facts-line").first).to_contain_text("2 tokens")
        expect(page.locator(".facts-line").nth(1)).to_contain_text("org/b")

    first, second = sorted(orders(app), key=lambda order: order.base.source)
    assert [order.base.source for order in (first, second)] == ["org/a", "org/b"]
    assert (first.sampling, first.messages) == (second.sampling, second.messages)
    assert (first.sampling.temperature, first.sampling.seed is None) == (0.5, False)
    assert [message.role for message in first.messages] == ["system", "user"]


def test_each_column_continues_its_own_chat_until_it_is_cleared(browser: Browser, url: str, app: FastAPI) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/playground?model=org/a")
        page.get_by_label("Seed").fill("7")
        for question in ("one", "two"):
            answered(page, question)
        page.get_by_role("button", name="Clear the chats").click()
        expect(answered(page, "three")).to_have_count(1)

    asked = [[message.content for message in order.messages] for order in orders(app)]
    assert asked == [["one"], ["one", "144 é\u2028😀", "two"], ["three"]]
    assert {order.sampling.seed for order in orders(app)} == {7}


def test_shift_and_enter_begin_a_line_and_columns_are_added_up_to_four(browser: Browser, url: str) -> None:
    with a_page(browser, url) as page:
        page.goto(TWO)
        page.get_by_label("Your question").press("a")
        page.get_by_label("Your question").press("Shift+Enter")
        expect(page.get_by_label("Your question")).to_have_value("a\n")
        for _ in range(2):
            page.get_by_role("button", name="Add a column").click()
        expect(page.get_by_role("button", name="Add a column")).to_be_disabled()
        page.get_by_role("button", name="Remove").first.click()
        expect(page.get_by_role("region", name="Column 3")).to_be_visible()
        expect(page.get_by_role("region", name="Column 4")).to_have_count(0)


def test_answers_stream_and_are_stopped(browser: Browser, url: str, app: FastAPI) -> None:
    app.state.engine = engine = ScriptedEngine((TextDelta(text="begun"), None))

    with a_page(browser, url) as page:
        page.goto(TWO)
        page.get_by_label("Your question").fill("q")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".answer")).to_have_text(["begun"] * 2)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".facts-line")).to_have_text(["stopped"] * 2)
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        wait_for("both answers are cancelled", lambda: engine.cancelled == 2)


def test_an_unknown_model_says_so_in_its_column_and_the_others_answer(browser: Browser, url: str) -> None:
    with a_page(browser, url, expects="404") as page:
        page.goto(f"/ui/playground?model={UNKNOWN}&model=org/b")
        expect(answered(page).nth(1)).to_contain_text("144")
        wrong = page.get_by_role("region", name="Column 1").locator(".wrong")
        expect(wrong).to_contain_text(f"there is no adapter '{UNKNOWN}'")
        expect(page.get_by_role("button", name="Good")).to_have_count(1)


@pytest.mark.parametrize("said", ["", "half"])
def test_an_engine_that_is_away_or_breaks_off_says_why(browser: Browser, url: str, app: FastAPI, said: str) -> None:
    away = EngineError(status=503, code="engine_unavailable", message="the engine went away")
    app.state.engine = ScriptedEngine((TextDelta(text=said), away) if said else (away,))

    with a_page(browser, url, expects="503") as page:
        page.goto("/ui/playground?model=org/a")
        expect(answered(page)).to_have_text(said)
        expect(page.locator(".facts-line")).to_have_text("the engine went away")


def test_hostile_text_stays_text(browser: Browser, url: str, app: FastAPI) -> None:
    app.state.engine = ScriptedEngine((TextDelta(text=HOSTILE), scored("<b>", -0.1), FINISH))

    with a_page(browser, url) as page:
        page.goto("/ui/playground?model=org/a")
        answers = answered(page, HOSTILE)
        assert answers.text_content() == HOSTILE + "<b>"
        assert page.title() != "taken"


def test_tokens_are_coloured_by_their_probability_on_demand(browser: Browser, url: str, app: FastAPI) -> None:
    part = ScoredToken(id=2, token="\ufffd", bytes=[0xC3], logprob=0.0)
    script = (scored("sure", -0.01), scored(" maybe", -1.0), TextDelta(text="", tokens=[part]))
    app.state.engine = ScriptedEngine((*script, TextDelta(text="é", tokens=[part]), FINISH))

    with a_page(browser, url) as page:
        page.goto("/ui/playground?model=org/a")
        tokens = answered(page).locator("span")
        expect(tokens).to_have_text(["sure", " maybe", "é"])
        assert [each.get_attribute("title") for each in tokens.all()] == ["99.0 %", "36.8 %", "100.0 %, 100.0 %"]
        plain = tokens.nth(1).evaluate("node => getComputedStyle(node).backgroundColor")
        page.get_by_label("Colour tokens by probability").check()
        assert tokens.nth(1).evaluate("node => getComputedStyle(node).backgroundColor") != plain
        assert accessibility_faults(page) == []


def test_copy_as_curl_is_the_request_that_was_sent(browser: Browser, url: str, app: FastAPI) -> None:
    sent: list[str] = []

    with a_page(browser, url) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.on("request", lambda asked: sent.append(asked.post_data or "") if "/generate" in asked.url else None)
        page.goto("/ui/playground?model=org/a")
        answered(page, HOSTILE)
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        command: str = page.evaluate("navigator.clipboard.readText()")
    again = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=True)

    first, second = (order.model_dump(exclude={"request_id"}) for order in orders(app))
    assert first == second
    assert first["messages"][0]["content"] == json.loads(sent[0])["messages"][0]["content"] == HOSTILE
    assert "event: finish" in again.stdout


def test_where_a_browser_has_no_clipboard_the_command_is_shown(browser: Browser, url: str) -> None:
    with a_page(browser, url) as page:
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.goto("/ui/playground?model=org/a")
        answered(page)
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.locator(".command")).to_contain_text(f"curl -sN {url}/generate")


def test_the_newest_adapter_stands_beside_its_base_and_checkpoints_can_be_chosen(
    browser: Browser, url: str, app: FastAPI, tmp_path: Path
) -> None:
    database: Database = app.state.database
    add_adapter(database, tmp_path, age=9, base_model="org/older")
    adapter = add_adapter(database, tmp_path, base_model="org/newer")
    job_id = add_job(database, JobStatus.RUNNING, name="at work")
    with database.writer() as session:
        saved = {"path": "p", "bytes": 1, "sha256": "0", "seconds": 1.0, "created_at": NOW}
        session.add(Checkpoint(job_id=job_id, step=3, epoch=1, **saved))
        session.commit()

    with a_page(browser, url) as page:
        page.goto("/ui/playground")
        models = page.get_by_label("Model")
        assert [each.input_value() for each in models.all()] == ["org/newer", adapter.id]
        models.first.select_option("at work: step 3")
        expect(models.first).to_have_value(f"{job_id}@step-3")


def test_with_a_key_a_page_asks_and_rates_and_the_command_has_no_secret(browser: Browser, settings: Settings) -> None:
    with a_service_with_keys(settings) as (url, make_key), a_page(browser, url) as page:
        key = make_key("read", "generate", "files:write")
        sign_in(page, key)
        answered(page)
        page.get_by_role("button", name="Good").click()
        expect(page.get_by_text("Kept in the dataset feedback.")).to_be_visible()
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.locator(".command")).to_contain_text('"Authorization: Bearer $TUNESMITH_API_KEY"')
        assert key not in page.content()


@pytest.mark.parametrize(("scopes", "buttons"), [(("read",), (0, 0)), (("read", "generate"), (1, 0))])
def test_a_page_offers_what_the_key_may_do(
    browser: Browser, settings: Settings, scopes: tuple[str, ...], buttons: tuple[int, int]
) -> None:
    with a_service_with_keys(settings) as (url, make_key), a_page(browser, url) as page:
        sign_in(page, make_key(*scopes))
        if "generate" in scopes:
            answered(page)
        found = [page.get_by_role("button", name=name, exact=True).count() for name in ("Send", "Good")]
        assert tuple(found) == buttons


@contextmanager
def a_service_with_keys(settings: Settings) -> Iterator[tuple[str, Callable[..., str]]]:
    upgrade(settings.database)
    required = settings.model_copy(update={"keys": "required"})
    app = an_app(required, settings.database)
    app.state.engine = ScriptedEngine()

    def make_key(*scopes: str) -> str:
        with app.state.database.writer() as session:
            wanted = NewKey.model_validate({"name": "k", "project": "a", "scopes": scopes})
            return create(session, ANYONE, peppers(required)[0], wanted)[1]

    with serving(app, timeout_graceful_shutdown=2) as url:
        yield url, make_key


def sign_in(page: Page, key: str) -> None:
    page.goto("/ui/sign-in")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.goto("/ui/playground?model=org/a")


def test_a_good_answer_and_a_correction_become_rows_and_a_file(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url) as page:
        page.goto(TWO)
        answered(page)
        page.get_by_role("button", name="Good").first.click()
        second = page.get_by_role("region", name="Column 2")
        second.get_by_role("button", name="Bad").click()
        second.get_by_label("The right answer").fill("145")
        second.get_by_role("button", name="Keep").click()
        expect(second).to_contain_text("Kept in the dataset feedback.")
        page.get_by_role("button", name="Write a file").click()
        expect(page.get_by_text("with 2 rows")).to_be_visible()
        file_id = (page.get_by_role("link", name="Train on it").get_attribute("href") or "").rpartition("=")[2]

    rows = rest.get("/feedback/feedback").json()["data"]
    assert {(row["model"], row["rating"], row["correction"]) for row in rows} == {
        ("org/a", "up", None),
        ("org/b", "down", "145"),
    }
    assert rest.get(f"/files/{file_id}").json()["usable_records"] == 2


def test_a_rating_is_changed_and_taken_away(browser: Browser, url: str, rest: httpx.Client) -> None:
    def ratings() -> list[str]:
        found = rest.get("/feedback/mine")
        return [row["rating"] for row in found.json()["data"]] if found.status_code == 200 else []

    with a_page(browser, url) as page:
        page.goto("/ui/playground?model=org/a")
        page.get_by_label("Dataset for new feedback").fill("mine")
        answered(page)
        page.get_by_role("button", name="Good").click()
        wait_for("it is good", lambda: ratings() == ["up"])
        page.get_by_role("button", name="Bad").click()
        page.get_by_role("button", name="Keep").click()
        wait_for("it is bad", lambda: ratings() == ["down"])
        expect(page.get_by_role("button", name="Bad")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("button", name="Bad").click()
        wait_for("it is not rated", lambda: ratings() == [])
        expect(page.get_by_text("There is no feedback yet.")).to_be_visible()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_playground_has_no_serious_accessibility_fault(browser: Browser, url: str, viewport: ViewportSize) -> None:
    with a_page(browser, url, viewport) as page:
        page.goto(TWO)
        answered(page)
        page.get_by_role("button", name="Good").first.click()
        page.get_by_role("button", name="Bad").nth(1).click()
        expect(page.get_by_role("button", name="Write a file")).to_be_visible()
        assert accessibility_faults(page) == []
