"""The README's requests, as a shell makes them from what is written there, are ones that the API takes."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from app.contracts.spec import JobSpec
from app.generate.schemas import GenerateRequest

ROOT = Path(__file__).parents[2]
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
    """The words of every curl in the README, as the shell hands them over."""
    blocks = [text for text in (ROOT / "README.md").read_text().split("```\n")[1::2] if "curl -s" in text]
    (home / ".tunesmith" / "datasets").mkdir(parents=True)
    script = PRELUDE + "".join(blocks)
    subprocess.run(["bash", "-c", script], cwd=ROOT, env={**os.environ, "HOME": str(home)}, check=True, timeout=30)
    return [call.split("\0") for call in (home / "calls").read_text().split("\0\0")[:-1]]


def body_of(words: list[str]) -> Any:
    sent = words[words.index("-d") + 1]
    return json.loads((ROOT / sent[1:]).read_text() if sent.startswith("@") else sent)


def test_every_body_of_the_readme_is_one_that_the_api_takes(tmp_path: Path) -> None:
    made = calls(tmp_path)

    jobs, questions = (
        [body_of(words) for words in made if "-d" in words and f"localhost:8000/{path}" in words]
        for path in ("jobs", "generate")
    )
    assert [JobSpec.model_validate(body).name for body in jobs] == ["fib", "fibonacci"]
    assert [GenerateRequest.model_validate(body).adapter is None for body in questions] == [False, True]
    assert not any("…" in word for words in made for word in words)
    assert (tmp_path / ".tunesmith" / "datasets" / jobs[1]["dataset"]["source"]["path"]).is_file()
