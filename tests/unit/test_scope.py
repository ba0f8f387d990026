"""No query of a table that belongs to projects, and no route, is without the scope of a caller.

The queries are found on the syntax tree. A query has a scope if its statement names one, if it uses a value that was
made with one (so also the id of a row that was found in it), or if what it selects is used together with one.
"""

import ast
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from app.config import Settings
from app.database.connection import Base
from app.errors import InvalidRequest
from app.jobs.models import Job
from app.main import create_app
from app.scope import EVERY_PROJECT, Scope, union
from app.web.dependencies import get_caller
from tests import ROOT

PROGRAM = [path for folder in ("app", "worker") for path in sorted((ROOT / folder).rglob("*.py"))]
# Tables that belong to the installation.
WITHOUT_PROJECT = {"Worker", "Installation", "TrainingMeasurement", "Total"}
MODELS = {mapper.class_.__name__ for mapper in Base.registry.mappers}
TABLES = Base.metadata.tables.keys() - {"workers", "installation", "training_measurements", "totals"}
STATEMENTS = {"select", "update", "delete", "insert"}
SCOPES = {"scope", "caller", "self.scope"}
EXEMPT = {
    "app/jobs/queue/claims.py": "a worker claims jobs of all projects, and then names the fence of its claim",
    "app/jobs/queue/attempts.py": "the worker that holds a job writes and counts the attempts of this job",
    "app/jobs/queue/project_quotas.py": "workers count the trainings of every project",
    "app/jobs/queue/figures.py": "operators watch the jobs of all projects; they are told numbers only",
    "app/jobs/queue/order.py": "projects take turns, so the jobs of all are counted; callers learn numbers only",
    "app/backup/dumps.py": "a backup is of the whole installation, and is made by its operator",
}
MAY_NAME_EVERY_PROJECT = {
    "app/scope.py": "it is defined there",
    "app/access/authenticating.py": "a key is looked up before its projects are known",
    "app/access/caller.py": "the local caller of a service that asks for no keys",
    "app/access/proxies.py": "a rule of the operator may name every project",
    "app/accounts/commands.py": "who runs a command on the database may do everything",
    "app/generate/metering.py": "stores what callers have used, with the project of each",
    "app/jobs/queue/attempts.py": "see EXEMPT",
    "app/jobs/queue/project_quotas.py": "workers count the trainings of every project",
    "app/supervisor.py": "it looks up the key of its own commands",
    "app/files/service.py": "a file is kept while a job of any project reads it",
    "app/jobs/lineage.py": "an adapter or job is kept while a job of any project continues from it",
    "app/jobs/listing.py": "the index of labels is read only where every project may be seen",
    "app/jobs/limits.py": "the limits are those of the whole service",
    "app/jobs/queue/claims.py": "see EXEMPT",
    "app/jobs/queue/orphans.py": "a background sweep",
    "app/jobs/queue/retention.py": "a background sweep",
    "app/reencryption.py": "a key is that of the whole installation, and is replaced by its operator",
    "app/webhooks/delivering.py": "messages of all projects are sent, each to the endpoint for which it was made",
    "app/jobs/queue/store_orphans.py": "a background sweep",
    "worker/supervising/orders.py": "what a job continues from was checked when it was submitted",
    "worker/supervising/publishing.py": "rows for the job that the worker holds, with the project of that job",
    "worker/supervising/transfers.py": "what the job that the worker holds continues from",
    "worker/supervising/resuming.py": "rows of the job that the worker holds, and what it continues from",
}
OPEN_ROUTES = {"/", "/healthz", "/readyz", "/docs", "/docs/assets", "/openapi.json"} | {
    "/ui",
    "/ui/sign-in",
    "/ui/sign-out",
    "/ui/assets",
}


@dataclass(frozen=True)
class Part:
    """A statement, or the head of a compound one: the names that it reads and writes, and its queries."""

    reads: frozenset[str]
    writes: frozenset[str]
    queries: tuple[ast.Call, ...]


def parts_of(function: ast.AST) -> Iterator[Part]:
    for node in ast.walk(function):
        if isinstance(node, ast.stmt) and node is not function:
            inner = [each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.stmt | ast.excepthandler)]
            nodes = [each for child in inner for each in ast.walk(child)]
            names = [each for each in nodes if isinstance(each, ast.Name)]
            stored = {each.id for each in names if not isinstance(each.ctx, ast.Load)} | set(_changed(node))
            queries = tuple(each for each in nodes if isinstance(each, ast.Call) and is_query(each))
            yield Part(frozenset(_read(nodes)), frozenset(stored), queries)


def _read(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def _changed(node: ast.stmt) -> Iterator[str]:
    """Yield the name of a collection of which an entry is set."""
    targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets if isinstance(node, ast.Assign) else []
    yield from (
        each.value.id for each in targets if isinstance(each, ast.Subscript) and isinstance(each.value, ast.Name)
    )


def is_query(call: ast.Call) -> bool:
    named = {each.id for each in ast.walk(call) if isinstance(each, ast.Name)} & MODELS
    if isinstance(call.func, ast.Name) and call.func.id in STATEMENTS:
        return not named or not named <= WITHOUT_PROJECT
    if isinstance(call.func, ast.Name) and call.func.id == "text":
        return any(isinstance(each, ast.Constant) and set(str(each.value).split()) & TABLES for each in call.args)
    is_of_session = isinstance(call.func, ast.Attribute) and call.func.attr in ("get", "get_one", "query")
    return is_of_session and bool(call.args) and isinstance(call.args[0], ast.Name) and call.args[0].id in MODELS


def without_scope(tree: ast.Module) -> list[int]:
    """Return the lines of queries without a scope."""
    found = [call.lineno for call in ast.walk(tree) if isinstance(call, ast.Call) and is_query(call)]
    good = {line for function in outermost(tree) for line in with_scope(list(parts_of(function)))}
    return [line for line in found if line not in good]


def outermost(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from outermost(child)


def with_scope(parts: list[Part]) -> set[int]:
    made_with, used_with = set(SCOPES), set[str]()
    for _ in parts:  # each round follows every name by at least one assignment
        made_with |= {name for part in parts if part.reads & made_with for name in part.writes}
    for _ in parts:
        used_with |= {
            name for part in parts if part.reads & made_with or part.writes & used_with for name in part.reads
        }
    good = (part for part in parts if part.reads & made_with or part.writes & used_with)
    return {call.lineno for part in good for call in part.queries}


def test_every_query_of_a_table_of_projects_has_a_scope() -> None:
    assert MODELS > WITHOUT_PROJECT
    modules = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in PROGRAM}

    bad = {module: lines for module, tree in modules.items() if (lines := without_scope(tree))}

    assert {module: lines for module, lines in bad.items() if module not in EXEMPT} == {}
    assert bad.keys() == EXEMPT.keys()


@pytest.mark.parametrize(
    "body",
    [
        "return session.scalar(select(Job).where(Job.id == job_id))",
        "return session.get(Job, job_id)",
        "scope.check('a')\nreturn session.scalar(delete(File).where(File.id == job_id))",
        "query = select(Job.id)\nreturn session.scalars(query.where(Job.id == job_id)).all()",
        "for table in (JobEvent, Attempt):\n    session.execute(delete(table))\nreturn scope",
        "return session.execute(text('SELECT id FROM jobs'))",
        "seen = scope.permits(Job.project)\nreturn session.scalars(select(Worker.name, Job.id))",
    ],
)
def test_a_query_without_a_scope_is_found_out(body: str) -> None:
    function = f"def get(session, scope, job_id):\n{textwrap.indent(body, '    ')}"

    assert without_scope(ast.parse(function)) != []


@pytest.mark.parametrize(
    "body",
    [
        "return session.scalar(select(Job).where(Job.id == job_id, scope.permits(Job.project)))",
        "query = select(Job)\nreturn session.scalar(query.where(scope.permits(Job.project)))",
        "of = (Job.id == job_id, scope.permits(Job.project))\nreturn session.scalar(select(Job).where(*of))",
        "job = find(session, scope, job_id)\nreturn session.scalars(select(JobEvent).where(JobEvent.job_id == job.id))",
        "inner = select(File.id).exists()\nboth = (~inner,)\nreturn select(Job).where(*both, scope.permits(Job.id))",
        "return session.scalars(select(Worker.name))",
    ],
)
def test_a_query_with_a_scope_is_found(body: str) -> None:
    function = f"def get(session, scope, job_id):\n{textwrap.indent(body, '    ')}"

    assert without_scope(ast.parse(function)) == []


def test_only_these_modules_name_every_project() -> None:
    found = {str(path.relative_to(ROOT)) for path in PROGRAM if "EVERY_PROJECT" in path.read_text()}

    assert found == MAY_NAME_EVERY_PROJECT.keys()


def test_every_route_has_a_caller(settings: Settings) -> None:
    routes = list(iter_route_contexts(create_app(settings).routes))

    without = {each.path for each in routes if not isinstance(each.route, APIRoute) or not _asks(each.dependant)}

    assert without == OPEN_ROUTES
    assert len(routes) > 30


def _asks(dependant: Dependant) -> bool:
    return dependant.call is get_caller or any(_asks(each) for each in dependant.dependencies)


def test_a_scope_permits_its_own_projects_alone() -> None:
    some = Scope(frozenset({"a", "b"}))

    assert [each.includes("c") for each in (some, Scope(frozenset()), EVERY_PROJECT)] == [False, False, True]
    assert [str(each.permits(Job.project)) for each in (EVERY_PROJECT, Scope(frozenset({"a"})))] == [
        "true",
        "jobs.project = :project_1",
    ]
    assert union([some, Scope(frozenset({"c"}))]) == Scope(frozenset({"a", "b", "c"}))
    assert union([some, EVERY_PROJECT]) == EVERY_PROJECT


@pytest.mark.parametrize(
    ("projects", "paying"), [(None, "default"), ({"a"}, "a"), ({"b", "a"}, "a"), ({"a", "default"}, "default")]
)
def test_what_belongs_to_no_project_counts_in_one_of_the_callers(projects: set[str] | None, paying: str) -> None:
    assert Scope(None if projects is None else frozenset(projects)).paying_project == paying


def test_a_new_row_of_another_project_is_refused_by_the_field() -> None:
    with pytest.raises(InvalidRequest, match=r"^project: found b, expected a project of this caller: a$") as refusal:
        Scope(frozenset({"a"})).check("b")

    assert (refusal.value.param, refusal.value.details[0].code) == ("project", "unknown_project")
