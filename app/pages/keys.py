"""The keys of the service, the limits of its projects, and what they used this month. For administrators."""

from fastapi import Request
from starlette.responses import Response

from app.access.keys import USUAL_DAYS
from app.access.permissions import USUAL_PERMISSIONS, Permission
from app.accounts.routes import get_usage, list_keys, list_projects
from app.accounts.schemas import KeyView, today
from app.database.connection import utc_now
from app.pages.rendering import page
from app.pages.routing import After, pages
from app.web.browser_sessions import PAGES
from app.web.dependencies import AdminCaller, DatabaseDep

KEYS_A_PAGE = 50
router = pages()


@router.get(f"{PAGES}/keys")
def show_keys(
    request: Request,
    caller: AdminCaller,
    database: DatabaseDep,
    after: After = None,
) -> Response:
    found, last = list_keys(caller, database, after, KEYS_A_PAGE), today()
    usage = get_usage(caller, database, ["project"], last.replace(day=1), last)
    return page(
        request,
        "keys.html",
        keys=[(key, _state_of(key)) for key in found.data],
        projects=list_projects(caller, database).data,
        usage=usage,
        used={row.project: row for row in usage.data},
        stored={one.project: one for one in usage.stored},
        scopes=[(scope.value, scope in USUAL_PERMISSIONS) for scope in Permission],
        usual_days=USUAL_DAYS,
        after=after,
        next_after=found.data[-1].id if found.has_more else None,
    )


def _state_of(key: KeyView) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= utc_now() else "valid"
