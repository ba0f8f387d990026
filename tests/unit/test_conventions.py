"""The rules of the code that no linter knows."""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT, tiers

SOURCES = [path for folder in ("app", "worker", "tests", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
PROGRAM = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("app", "worker")]
MAY_COMMIT = {
    "app/access/authenticating.py",
    "app/accounts/service.py",
    "app/generate/metering.py",
    "app/artifacts/service.py",
    "app/jobs/lineage.py",
    "app/feedback/service.py",
    "app/files/service.py",
    "app/database/installation.py",
    "app/jobs/queue/retention.py",
    "app/jobs/service.py",
    "app/database/migrate.py",
    "app/reencryption.py",
    "app/secrets/service.py",
    "worker/supervising/job_secrets.py",
    "app/webhooks/delivering.py",
    "app/webhooks/service.py",
    "worker/supervising/attempt.py",
    "worker/supervising/lifecycle.py",
    "worker/supervising/reconciler.py",
    "worker/supervising/resuming.py",
    "worker/supervising/runners.py",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.filterwarnings("default:.* look twice:UserWarning")
def test_a_module_has_500_lines_and_a_function_50_at_most() -> None:
    lines = {name(path): path.read_text().count("\n") for path in SOURCES}
    for module, count in lines.items():
        if count > 300:
            warnings.warn(f"{module} has {count} lines: look twice", stacklevel=1)
    long = [
        f"{name(path)}: {found.name}"
        for path in SOURCES
        for found in functions(path)
        if (found.end_lineno or 0) - found.lineno >= 50
    ]

    assert ([module for module, count in lines.items() if count > 500], long) == ([], [])


def test_a_test_file_has_tests() -> None:
    files = [path for path in SOURCES if path.name.startswith("test_")]

    assert [name(path) for path in files if not any(found.name.startswith("test_") for found in functions(path))] == []


def test_every_pattern_of_the_tiers_is_that_of_a_test(pytestconfig: pytest.Config) -> None:
    if pytestconfig.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        pytest.skip("a part of the tests is collected")

    assert pytestconfig.stash[tiers.UNMATCHED] == set()


def test_only_the_owners_of_a_transaction_commit() -> None:
    assert {name(path) for path in PROGRAM if ".commit()" in path.read_text()} <= MAY_COMMIT


def test_the_templates_that_the_api_knows_are_those_of_unsloth() -> None:
    """Read from Unsloth's source: importing it would patch this process."""
    import importlib.util

    from app.contracts.templates import CHAT_TEMPLATES

    found = importlib.util.find_spec("unsloth")
    assert found is not None
    assert found.origin is not None
    source = (Path(found.origin).parent / "chat_templates.py").read_text()

    assert all(f'"{template}"' in source for template in CHAT_TEMPLATES)


def test_no_two_classes_have_the_same_name() -> None:
    places: dict[str, list[str]] = {}
    for path in PROGRAM:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name(path))

    assert {each: where for each, where in places.items() if len(where) > 1} == {}
