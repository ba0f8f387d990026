"""FastAPI dependencies of all routes. The objects are made once, in `app.main`, and stored on the application.

The functions are asynchronous although they do not wait, because FastAPI runs each synchronous dependency in a thread.
"""

from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from app.access.caller import Caller, Identity
from app.access.permissions import Permission
from app.config import Settings
from app.database.connection import Database

# For the description of the API only: `app.web.authentication` reads the header.
BEARER = HTTPBearer(auto_error=False, description="a key that `tunesmith keys create` made")


async def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def get_caller(
    request: Request,
    needed: SecurityScopes,
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)] = None,
) -> Caller:
    """Return the caller, with the projects in which it has the permission of the route. Raises Forbidden."""
    (permission,) = needed.scopes
    return cast(Identity, request.scope["identity"]).caller(Permission(permission))


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
# The caller of a route, by the permission that the route needs. Every route has one of them.
ReadCaller = Annotated[Caller, Security(get_caller, scopes=[Permission.READ])]
FilesCaller = Annotated[Caller, Security(get_caller, scopes=[Permission.WRITE_FILES])]
JobsCaller = Annotated[Caller, Security(get_caller, scopes=[Permission.WRITE_JOBS])]
GenerateCaller = Annotated[Caller, Security(get_caller, scopes=[Permission.GENERATE])]
AdminCaller = Annotated[Caller, Security(get_caller, scopes=[Permission.ADMIN])]
