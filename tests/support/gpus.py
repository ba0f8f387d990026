"""A GPU for tests on hosts without one: as far as `nvidia-smi` tells."""

import os
from pathlib import Path

import pytest


def pretend_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Let `nvidia-smi` answer so, whatever it is asked."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
