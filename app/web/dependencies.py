"""What a route of any domain may ask for. It is made once, in `app.main`, and lives on the application.

The functions are asynchronous although nothing here waits: FastAPI gives each synchronous dependency of a request to a
thread.
"""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.config import Settings
from app.database.connection import Database


async def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
