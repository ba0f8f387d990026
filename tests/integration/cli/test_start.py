"""The command starts quickly: what only the server needs is not imported."""

import subprocess
import sys

SERVER_ONLY = {"fastapi", "sqlalchemy", "celery", "pyarrow"}


def test_neither_the_web_framework_nor_the_database_is_imported() -> None:
    program = "import sys, app.cli.main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert "app.jobs.schemas" in modules
    assert not SERVER_ONLY & set(modules)
