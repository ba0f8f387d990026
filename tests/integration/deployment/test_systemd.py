"""The systemd unit is one that systemd takes, and takes nothing away that a training needs."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.integration.conftest import REQUIRED

UNIT = ROOT / "deploy" / "systemd" / "tunesmith.service"


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None and not REQUIRED:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with the program of this checkout, as systemd looks for the program."""
    unit = tmp_path / UNIT.name
    program = str(Path(sys.executable).with_name("tunesmith"))
    unit.write_text(UNIT.read_text().replace("/opt/tunesmith/.venv/bin/tunesmith", program))
    return unit


@pytest.fixture
def service() -> dict[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_systemd_takes_the_unit(installed: Path) -> None:
    told = analyzed("verify", str(installed))

    assert (told.returncode, told.stderr) == (0, "")


def test_it_is_little_exposed(installed: Path) -> None:
    told = analyzed("security", "--offline=yes", "--threshold=25", str(installed))

    assert told.returncode == 0, told.stdout[-500:]


def test_trainings_keep_the_gpus_what_they_compile_and_their_time(service: dict[str, str]) -> None:
    assert {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow", "MemoryDenyWriteExecute"}.isdisjoint(
        service
    )
    assert "landlock_restrict_self" in service["SystemCallFilter"]
    assert (service["KillMode"], int(service["TimeoutStopSec"]) > 30) == ("mixed", True)
