"""What README and docs say is so: requests are ones that the API takes, tables are complete, links lead somewhere."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from app.config import PREFIX, Settings
from app.contracts.spec import JobSpec
from app.feedback.schemas import FeedbackCreate
from app.generate.schemas import GenerateRequest
from app.main import create_app
from tests import ROOT
from tests.support.pages import walk

LINK = re.compile(r"\]\(([^)#:]+)\)")
# In place of the service: each call's words are kept, and its answer has an id.
PRELUDE = """
curl() {
  printf '%s\\0' "$@" >> "$HOME/calls"; printf '\\0' >> "$HOME/calls"
  case "$*" in */files*) kind=file ;; *) kind=job ;; esac
  echo '{"id": "'$kind'-abcdefghijklmnopqrstuvwx", "phase":"train"}'
}
tunesmith() { :; }
set -eu
"""


def calls(home: Path) -> list[list[str]]:
    """The words of every curl of the walk, as the shell hands them over."""
    (home / ".tunesmith" / "datasets").mkdir(parents=True)
    script = PRELUDE + "".join(walk())
    subprocess.run(["bash", "-c", script], cwd=ROOT, env={**os.environ, "HOME": str(home)}, check=True, timeout=30)
    return [call.split("\0") for call in (home / "calls").read_text().split("\0\0")[:-1]]


def body_of(words: list[str]) -> Any:
    sent = words[words.index("-d") + 1]
    return json.loads((ROOT / sent[1:]).read_text() if sent.startswith("@") else sent)


def test_every_body_of_the_readme_is_one_that_the_api_takes(tmp_path: Path) -> None:
    made = calls(tmp_path)

    jobs, questions, feedback = (
        [body_of(words) for words in made if "-d" in words and f"localhost:8000/{path}" in words]
        for path in ("jobs", "generate", "feedback")
    )
    assert [JobSpec.model_validate(body).name for body in jobs] == ["fib", "fibonacci"]
    assert [GenerateRequest.model_validate(body).adapter is None for body in questions] == [False, True]
    assert [FeedbackCreate.model_validate(body).rating for body in feedback] == ["down"]
    assert not any("…" in word for words in made for word in words)
    assert (tmp_path / ".tunesmith" / "datasets" / jobs[1]["dataset"]["source"]["path"]).is_file()


def test_the_readme_has_every_route_and_fits_on_a_few_screens(settings: Settings) -> None:
    text = (ROOT / "README.md").read_text()
    paths = create_app(settings).openapi()["paths"]

    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}

    assert set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", text)) == routes
    assert text.count("\n") <= 150


def test_the_table_of_settings_has_every_setting() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text[text.index("| group | variable |") :].split("\n\n")[0]

    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([A-Z_]+)`", row.split("|")[2])}

    assert {PREFIX + name for name in named} == {PREFIX + name.upper() for name in Settings.model_fields}


def test_every_link_of_a_page_leads_to_a_file() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [(page, target) for page in pages for target in LINK.findall(page.read_text())]

    assert links
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []
