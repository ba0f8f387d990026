"""FastAPI dependencies of all routes. The objects are made once, in `app.main`, and stored on the application.

The functions are asynchronous although they do not wait, because FastAPI runs each synchronous dependency in a thread.
"""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.config import Settings
from app.database.connection import Database
from app.scope import EVERY_PROJECT, Caller

LOCAL = Caller("local", EVERY_PROJECT)


async def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def get_caller() -> Caller:
    """Return the only caller: everyone who reaches the service may use every project."""
    return LOCAL


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
CallerDep = Annotated[Caller, Depends(get_caller)]
