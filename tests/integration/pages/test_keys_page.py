"""The page of keys, limits and usage, in a real browser."""

import httpx
import pytest
from playwright.sync_api import Browser, ViewportSize, expect

from app.accounts import commands
from app.config import Settings
from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults, questions_agreed_to

HOSTILE = "<img src=x onerror=alert(1)>"


def make(rest: httpx.Client, name: str, **fields: object) -> str:
    answer = rest.post("/keys", json={"name": name, **fields})
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["key"]
    return key


def test_a_key_is_made_and_shown_once(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/keys")
        expect(page.get_by_text("There is no key yet.")).to_be_visible()
        page.get_by_label("Name", exact=True).fill("nightly")
        page.get_by_label("Project", exact=True).fill("team-a")
        page.get_by_label("generate").uncheck()
        page.get_by_role("button", name="Make a key").click()
        expect(page.get_by_role("row", name="nightly")).to_contain_text("team-a")
        key = page.get_by_label("The key. It is shown only now").input_value()
        page.reload()
        expect(page.get_by_label("The key. It is shown only now")).to_be_hidden()
        assert key not in page.content()

    assert rest.get("/jobs", headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert rest.get("/keys").json()["data"][0]["scopes"] == ["files:write", "jobs:write", "read"]


def test_a_key_that_cannot_be_made_says_why(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url, expects="422") as page:
        page.goto("/ui/keys")
        page.get_by_label("Name", exact=True).fill("nightly")
        page.get_by_label("Project", exact=True).fill("team a")
        page.get_by_role("button", name="Make a key").click()
        expect(page.get_by_role("alert")).to_contain_text("project: found 'team a'")

    assert rest.get("/keys").json()["data"] == []


def test_a_key_is_revoked_after_a_question(browser: Browser, url: str, rest: httpx.Client) -> None:
    make(rest, "lost")

    with a_page(browser, url) as page:
        questions = questions_agreed_to(page)
        page.goto("/ui/keys")
        page.get_by_role("button", name="Revoke lost").click()
        expect(page.get_by_role("row", name="lost")).to_contain_text("revoked")

    assert "refused from the next request on" in questions[0]
    assert rest.get("/keys").json()["data"][0]["revoked_at"] is not None


def test_limits_and_usage_of_projects_are_shown(browser: Browser, url: str, rest: httpx.Client) -> None:
    rest.put("/projects/team-a/limits", json={"running_jobs": 2, "file_bytes": 5_000_000})
    rest.post("/files", files={"file": ("a.txt", b"some text\n")}, data={"project": "team-b"})

    with a_page(browser, url) as page:
        page.goto("/ui/keys")
        expect(page.locator("dl")).to_contain_text("running jobs: 2, file bytes: 5.0 MB")
        expect(page.get_by_role("row", name="team-b")).to_contain_text("10 bytes")


def test_the_name_of_a_key_stays_text(browser: Browser, url: str, rest: httpx.Client) -> None:
    make(rest, HOSTILE)

    with a_page(browser, url) as page:
        page.goto("/ui/keys")
        expect(page.get_by_role("row", name=HOSTILE)).to_be_visible()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_of_keys_has_no_serious_accessibility_fault(
    browser: Browser, url: str, rest: httpx.Client, viewport: ViewportSize
) -> None:
    make(rest, "nightly", project="team-a", limits={"tokens_per_day": 1000})

    with a_page(browser, url, viewport) as page:
        page.goto("/ui/keys")
        page.get_by_label("Name", exact=True).fill("another")
        page.get_by_role("button", name="Make a key").click()
        expect(page.get_by_label("The key. It is shown only now")).to_be_visible()
        assert accessibility_faults(page) == []


class TestAServiceWithKeys:
    """The service asks for keys, as it does on any address that is not loopback."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"keys": "required"})

    def test_a_key_without_the_scope_sees_a_page_that_says_so(
        self, browser: Browser, url: str, settings: Settings
    ) -> None:
        made = commands.create(settings, {"name": "reader", "scopes": ["read"]})

        with a_page(browser, url, expects="403") as page:
            page.goto("/ui/sign-in")
            page.get_by_label("Key").fill(made.key)
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("link", name="Keys")).to_have_count(0)
            page.goto("/ui/keys")
            expect(page.get_by_text("this needs the scope admin")).to_be_visible()
