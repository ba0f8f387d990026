"""The pages of uploaded files, in a real browser."""

import json

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from app.config import Settings
from tests.support.browsers import DESKTOP, PHONE, a_page, accessibility_faults, questions_agreed_to

HOSTILE = "<img src=x onerror=alert(1)>"
NAME = f"{HOSTILE}.jsonl"
GOOD = {"messages": [{"role": "user", "content": f"q {HOSTILE}"}, {"role": "assistant", "content": "the answer"}]}
BAD = {"messages": [{"role": HOSTILE, "content": "q"}]}


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def stored(rest: httpx.Client, content: bytes, name: str = NAME) -> str:
    answer = rest.post("/files", files={"file": (name, content)})
    assert answer.status_code == 201, answer.text
    file_id: str = answer.json()["id"]
    return file_id


def choose(page: Page, name: str, content: bytes) -> None:
    chosen = {"name": name, "mimeType": "application/json", "buffer": content}
    page.get_by_label("File", exact=True).set_input_files(chosen)  # type: ignore[arg-type]
    page.get_by_role("button", name="Upload").click()


def test_a_file_is_uploaded_listed_and_its_report_opened(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url) as page:
        page.goto("/ui/datasets")
        expect(page.get_by_text("There is no file yet.")).to_be_visible()
        choose(page, "chats.jsonl", lines(GOOD, BAD, GOOD))
        expect(page.locator("output")).to_have_text("Stored chats.jsonl: 2 of its 3 rows are good.")
        page.locator("#files").get_by_role("link", name="chats.jsonl").click()
        expect(page.get_by_text("can train on 2 of the 3 records")).to_be_visible()
        expect(page.locator("article mark").first).to_have_text("the answer")

    assert [file["filename"] for file in rest.get("/files").json()["data"]] == ["chats.jsonl"]


def test_the_bytes_that_were_sent_are_shown(browser: Browser, url: str) -> None:
    content = lines(*[GOOD] * 1000)
    watch = """() => { window.texts = []; const place = document.querySelector("output");
      new MutationObserver(() => texts.push(place.textContent)).observe(place, { childList: true }); }"""

    with a_page(browser, url) as page:
        page.goto("/ui/datasets")
        page.evaluate(watch)
        choose(page, "chats.jsonl", content)
        expect(page.locator("output")).to_contain_text("1,000 of its 1,000 rows are good.")
        sent = [text for text in page.evaluate("texts") if "bytes sent" in text]

    assert sent
    assert int(sent[-1].split()[2].replace(",", "")) > len(content)  # the form's own bytes are sent too


def test_a_file_that_cannot_be_read_is_refused_in_words(browser: Browser, url: str, rest: httpx.Client) -> None:
    with a_page(browser, url, expects="422") as page:
        page.goto("/ui/datasets")
        choose(page, "broken.jsonl", b'{"text": \n')
        expect(page.get_by_role("alert")).to_contain_text("line 1")
        expect(page.get_by_role("button", name="Upload")).to_be_enabled()

    assert rest.get("/files").json()["data"] == []


def test_a_file_is_deleted_after_a_question(browser: Browser, url: str, rest: httpx.Client) -> None:
    stored(rest, lines(GOOD), "gone.jsonl")

    with a_page(browser, url) as page:
        questions = questions_agreed_to(page)
        page.goto("/ui/datasets")
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("There is no file yet.")).to_be_visible()

    assert "Delete gone.jsonl" in questions[0]
    assert "its report are lost" in questions[0]
    assert rest.get("/files").json()["data"] == []


def test_a_file_is_downloaded_and_offered_for_a_training(browser: Browser, url: str, rest: httpx.Client) -> None:
    file_id = stored(rest, lines(GOOD))

    with a_page(browser, url) as page:
        page.goto(f"/ui/datasets/{file_id}")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.path().read_bytes() == lines(GOOD)
        expect(page.get_by_role("link", name="Train on this")).to_have_attribute("href", f"/ui/submit?file={file_id}")


def test_names_and_rows_of_files_stay_text(browser: Browser, url: str, rest: httpx.Client) -> None:
    file_id = stored(rest, lines(GOOD, BAD))

    with a_page(browser, url) as page:
        page.goto("/ui/datasets")
        expect(page.get_by_role("link", name=NAME)).to_be_visible()
        page.goto(f"/ui/datasets/{file_id}")
        expect(page.get_by_text(f"q {HOSTILE}")).to_be_visible()
        expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_pages_of_files_have_no_serious_accessibility_fault(
    browser: Browser, url: str, rest: httpx.Client, viewport: ViewportSize
) -> None:
    file_id = stored(rest, lines(GOOD, BAD))

    with a_page(browser, url, viewport) as page:
        for path in ("/ui/datasets", f"/ui/datasets/{file_id}"):
            page.goto(path)
            assert accessibility_faults(page) == []


class TestASmallService:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_upload_bytes": 1024})

    def test_a_file_that_is_too_large_is_not_sent(self, browser: Browser, url: str) -> None:
        with a_page(browser, url) as page:
            page.goto("/ui/datasets")
            choose(page, "large.jsonl", b"x" * 2000)
            expect(page.get_by_role("alert")).to_have_text(
                "The file has 2,000 bytes, and this service takes at most 1,024."
            )
