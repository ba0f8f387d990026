"""What a caller may do. These are the `scopes` of a key; which projects it may do it in is another matter."""

from enum import StrEnum


class Permission(StrEnum):
    """`admin` includes all others."""

    READ = "read"
    WRITE_FILES = "files:write"
    WRITE_JOBS = "jobs:write"
    GENERATE = "generate"
    ADMIN = "admin"


EVERY_PERMISSION = frozenset(Permission)
# Of a key, unless its maker says otherwise.
USUAL_PERMISSIONS = tuple(one for one in Permission if one is not Permission.ADMIN)


def with_included(permissions: frozenset[Permission]) -> frozenset[Permission]:
    """Return the permissions with those that they include."""
    return EVERY_PERMISSION if Permission.ADMIN in permissions else permissions
