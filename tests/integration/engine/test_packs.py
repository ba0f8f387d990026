"""The kernels of a GPU run here too, in Triton's interpreter; see interpreted.py for what is asked of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_packs_and_kernels_give_the_answers_of_plain_torch(tmp_path: Path) -> None:
    tests = Path(__file__).with_name("interpreted.py")
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'own'}"]

    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tests)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-5000:]
    assert "11 passed" in done.stdout
