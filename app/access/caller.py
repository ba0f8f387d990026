"""Who sends a request, and what that sender may do in which projects."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from app.access.limits import NO_KEY_LIMITS, KeyLimits
from app.access.permissions import EVERY_PERMISSION, Permission
from app.errors import Forbidden, InvalidRequest, Problem
from app.scope import EVERY_PROJECT, Scope, union


@dataclass(frozen=True)
class Caller:
    """Who sends a request, with the projects in which this request may be made.

    `name` is the id of a key, `user:NAME` for a person whom a trusted proxy names, or `local`. `max_priority`: the
    highest priority of its jobs; None: any that a spec may have. `limits`: of its key.
    """

    name: str
    scope: Scope
    max_priority: int | None = None
    limits: KeyLimits = NO_KEY_LIMITS

    def check_every_project(self, what: str) -> None:
        """Raise Forbidden for a caller of some projects only."""
        if self.scope.projects is not None:
            message = f"{what} are for a key of every project, and {self.name} is not one"
            raise Forbidden(message, param="authorization", code="insufficient_scope")

    def check_priority(self, priority: int) -> None:
        """Raise InvalidRequest for a job of a higher priority than the caller may give."""
        if self.max_priority is not None and priority > self.max_priority:
            expected = f"at most {self.max_priority}, the highest priority of {self.name}"
            problem = Problem(field="priority", code="priority_too_high", found=str(priority), expected=expected)
            raise InvalidRequest.of([problem])


@dataclass(frozen=True)
class Grant:
    """What may be done in the projects of a scope."""

    scope: Scope
    permissions: frozenset[Permission]


@dataclass(frozen=True)
class Identity:
    """Who sends a request, with all that the sender was granted."""

    name: str
    grants: Sequence[Grant] = ()
    max_priority: int | None = None
    limits: KeyLimits = NO_KEY_LIMITS

    def caller(self, needed: Permission) -> Caller:
        """Return the caller of a request that needs this permission. Raises Forbidden if no grant has it."""
        scopes = [grant.scope for grant in self.grants if needed in grant.permissions]
        if not scopes:
            has = ", ".join(sorted({one for grant in self.grants for one in grant.permissions})) or "none"
            message = f"this needs the scope {needed.value}; the scopes of {self.name} are: {has}"
            raise Forbidden(message, param="authorization", code="insufficient_scope")
        return Caller(self.name, union(scopes), self.max_priority, self.limits)


# Everyone who reaches a service that asks for no keys.
LOCAL = Identity("local", (Grant(EVERY_PROJECT, EVERY_PERMISSION),))
# Who may see only what is open to everyone.
NOBODY = Identity("nobody")


@dataclass(frozen=True)
class RequestOrigin:
    """Where a change comes from. `address` is that of the client, as far as it is known."""

    name: str
    address: str | None = None
    request_id: str | None = None


# That of the request that is handled now. Commands and workers have none.
current_origin: ContextVar[RequestOrigin | None] = ContextVar("current_origin", default=None)
