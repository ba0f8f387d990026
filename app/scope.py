"""Whose rows a caller may read and change. Every query of a table that belongs to projects takes a scope."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import InstrumentedAttribute

from app.errors import InvalidRequest, Problem

# Of what is stored without a project.
DEFAULT_PROJECT = "default"
MOST_NAMED = 20


@dataclass(frozen=True)
class Scope:
    """The projects whose rows may be read and changed; None: every project."""

    projects: frozenset[str] | None

    def permits(self, project: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[bool]:
        """Return the condition of a query. A single project is compared as equal, so an index keeps its order."""
        if self.projects is None:
            return true()
        return project == min(self.projects) if len(self.projects) == 1 else project.in_(sorted(self.projects))

    def includes(self, project: str) -> bool:
        return self.projects is None or project in self.projects

    @property
    def usual_project(self) -> str:
        """The project of a new row whose project is not named."""
        if self.projects is None or DEFAULT_PROJECT in self.projects or len(self.projects) != 1:
            return DEFAULT_PROJECT
        return min(self.projects)

    @property
    def paying_project(self) -> str:
        """The project in whose limits and usage something counts that belongs to no project."""
        if self.projects is None or DEFAULT_PROJECT in self.projects:
            return DEFAULT_PROJECT
        return min(self.projects, default=DEFAULT_PROJECT)

    def check(self, project: str) -> None:
        """Raise InvalidRequest if a new row may not belong to this project."""
        if self.projects is not None and project not in self.projects:
            expected = f"a project of this caller: {', '.join(sorted(self.projects)[:MOST_NAMED]) or 'it has none'}"
            raise InvalidRequest.of(
                [Problem(field="project", code="unknown_project", found=project, expected=expected)]
            )


# For workers, background sweeps, and rules of the whole service.
EVERY_PROJECT = Scope(None)


def union(scopes: Iterable[Scope]) -> Scope:
    """Return the scope that permits what any of these permits."""
    projects: set[str] = set()
    for scope in scopes:
        if scope.projects is None:
            return scope
        projects |= scope.projects
    return Scope(frozenset(projects))
