"""The command starts quickly, because what only the server needs is not imported, and ends quietly meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests import ROOT

SERVER_ONLY = {"fastapi", "sqlalchemy", "celery", "pyarrow"}


def test_neither_the_web_framework_nor_the_database_is_imported() -> None:
    program = "import sys, app.cli.main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert "app.jobs.schemas" in modules
    assert not SERVER_ONLY & set(modules)


def test_ctrl_c_during_the_imports_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-P", "-m", "app.cli", "jobs"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as starting:
        assert starting.stdout is not None
        assert starting.stdout.readline() == "importing\n"
        starting.send_signal(signal.SIGINT)
        _, err = starting.communicate(timeout=20)

    assert (starting.returncode, err) == (-signal.SIGINT, "")
