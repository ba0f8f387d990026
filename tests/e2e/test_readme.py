"""Every command of the README, and of the pages that continue it, runs as it is written, one after the other."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.e2e.stack import MODEL, Stack, running
from tests.support.pages import walk

# An answer that is no success is told; `tunesmith` is the one of this checkout.
PRELUDE = f"""
set -e
curl() {{ command curl --fail-with-body "$@" || {{ [ $? -ne 22 ] || echo "REFUSED: $*" >&2; }}; }}
tunesmith() {{ {sys.executable} -m app.cli "$@"; }}
"""


@pytest.fixture
def stack(tmp_path: Path, models: Path) -> Iterator[Stack]:
    """A service in the README's places, whose model is a tiny one."""
    shutil.copytree(models / MODEL, tmp_path / "models" / "smollm2-135m-instruct")
    with running(tmp_path / ".tunesmith", {"TUNESMITH_MODELS_DIR": str(tmp_path / "models")}) as found:
        yield found


def test_every_command_of_the_readme_runs_as_it_is_written(stack: Stack, tmp_path: Path) -> None:
    url = str(stack.api.base_url).rstrip("/")
    script = PRELUDE + "".join(walk()).replace("localhost:8000", url.removeprefix("http://"))

    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "TUNESMITH_URL": url},
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert len(walk()) == 9
    assert (done.returncode, done.stderr.count("REFUSED"), done.stderr.count("Traceback")) == (0, 0, 0), done.stderr
    assert done.stdout.count('"object":"generation"') == 2
    assert len(stack.api.get("/adapters").json()["data"]) >= 2
