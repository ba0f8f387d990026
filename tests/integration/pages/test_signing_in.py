"""How a browser comes in with a key, and what it cannot do with one."""

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, expect

from app.access.peppers import peppers
from app.accounts import service
from app.accounts.schemas import NewKey
from app.config import Settings
from app.database.connection import Database
from tests.support.browsers import a_page
from tests.support.callers import ANYONE
from tests.support.jobs import add_job
from tests.support.jobs_api import an_app, error_of
from tests.support.serving import LOCAL, serving

MakeKey = Callable[..., str]
TOKEN = "X-CSRF-Token"


@pytest.fixture
def with_keys(settings: Settings) -> Settings:
    return settings.model_copy(update={"keys": "required"})


@pytest.fixture
def make_key(settings: Settings, database: Database) -> MakeKey:
    def make(*scopes: str, project: str | None = "a") -> str:
        with database.writer() as session:
            wanted = NewKey.model_validate({"name": "k", "project": project, "scopes": scopes})
            return service.create(session, ANYONE, peppers(settings)[0], wanted)[1]

    return make


@pytest.fixture
def api(with_keys: Settings, database: Database) -> Iterator[TestClient]:
    app = an_app(with_keys, database.engine.url.render_as_string(hide_password=False))
    with TestClient(app, base_url=LOCAL, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


def sign_in(api: TestClient, key: str, back: str = "/ui") -> None:
    answer = api.post("/ui/sign-in", data={"key": key, "back": back})
    assert (answer.status_code, answer.headers["location"]) == (303, back)


def token(api: TestClient) -> str:
    """What a page sends with each change, read from a page."""
    page = api.get("/ui/jobs").text
    return page.partition(f"{TOKEN}&#34;: &#34;")[2].partition("&#34;")[0]


def test_a_browser_without_a_key_is_led_to_the_form_and_back(
    browser: Browser, with_keys: Settings, make_key: MakeKey
) -> None:
    key, app = make_key("read"), an_app(with_keys, with_keys.database)

    with serving(app, timeout_graceful_shutdown=2) as url, a_page(browser, url, expects="401") as page:
        page.goto("/ui/workers")
        page.get_by_label("Key").fill("ts_nonsense")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("this is no key of this service")).to_be_visible()
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{url}/ui/workers")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{url}/ui/sign-in")
        page.goto("/ui/workers")
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


@pytest.mark.parametrize(("origin", "is_secure"), [(LOCAL, False), (LOCAL.replace("http", "https"), True)])
def test_the_cookie_is_for_this_service_and_no_script(
    api: TestClient, make_key: MakeKey, origin: str, is_secure: bool
) -> None:
    """A browser that reached the service over https says so, though a proxy spoke http to the service."""
    answer = api.post("/ui/sign-in", data={"key": make_key("read")}, headers={"origin": origin})

    attributes = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes
    assert ("secure" in attributes) is is_secure


@pytest.mark.parametrize("back", ["https://evil.example", "//evil.example", "/jobs", "/uix", "javascript:alert(1)"])
def test_the_form_leads_only_to_pages(api: TestClient, make_key: MakeKey, back: str) -> None:
    answer = api.post("/ui/sign-in", data={"key": make_key("read"), "back": back})

    assert answer.headers["location"] == "/ui"


def test_a_change_with_a_cookie_needs_the_token_of_a_page(
    api: TestClient, make_key: MakeKey, database: Database
) -> None:
    job_id = add_job(database, project="a")
    sign_in(api, make_key("read", "jobs:write"))

    assert error_of(api.post(f"/jobs/{job_id}/cancel")) == (403, "wrong_csrf_token", "x-csrf-token")
    assert error_of(api.post(f"/jobs/{job_id}/cancel", headers={TOKEN: "0" * 32}))[1] == "wrong_csrf_token"
    assert api.post(f"/jobs/{job_id}/cancel", headers={TOKEN: token(api)}).status_code == 200


def test_the_token_of_one_key_is_not_that_of_another(api: TestClient, make_key: MakeKey) -> None:
    sign_in(api, make_key("read", "jobs:write"))
    first = token(api)
    sign_in(api, make_key("read", "jobs:write"))

    assert token(api) != first
    assert error_of(api.post("/jobs", json={}, headers={TOKEN: first}))[1] == "wrong_csrf_token"


def test_a_reader_sees_a_job_and_cannot_touch_it(api: TestClient, make_key: MakeKey, database: Database) -> None:
    job_id = add_job(database, project="a")
    sign_in(api, make_key("read"))

    page = api.get(f"/ui/jobs/{job_id}").text
    assert job_id in page
    assert 'hx-post="/jobs' not in page
    assert error_of(api.post(f"/jobs/{job_id}/cancel", headers={TOKEN: token(api)}))[1] == "insufficient_scope"


def test_a_page_of_another_project_is_not_there(api: TestClient, make_key: MakeKey, database: Database) -> None:
    job_id = add_job(database, project="b")
    sign_in(api, make_key("read"))

    answer = api.get(f"/ui/jobs/{job_id}")
    assert (answer.status_code, "This page cannot be shown" in answer.text) == (404, True)
    assert job_id not in api.get("/ui/jobs").text


def test_a_revoked_key_is_led_to_the_form(api: TestClient, make_key: MakeKey, database: Database) -> None:
    key = make_key("read")
    sign_in(api, key)
    with database.writer() as session:
        service.revoke(session, ANYONE, key.split("_")[1])

    answer = api.get("/ui/jobs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/sign-in?back=/ui/jobs")
    part = api.get("/ui/jobs", headers={"hx-request": "true"})
    assert part.headers["hx-redirect"] == "/ui/sign-in"


def test_what_is_no_page_answers_without_a_key_in_json(api: TestClient) -> None:
    assert error_of(api.get("/jobs"))[:2] == (401, "missing_api_key")


def test_scripts_and_styles_need_no_key_and_are_kept(api: TestClient) -> None:
    address = api.get("/ui/sign-in").text.partition('src="')[2].partition('"')[0]

    answer = api.get(address)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
