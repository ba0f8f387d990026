"""What a route may ask for. All of it is made once, in `app.main`, and lives on the application."""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.config import Settings
from app.db import Database
from app.generate.client import EngineClient
from app.jobs.queue import Doorbell


def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


def get_bell(request: Request) -> Doorbell:
    return cast(Doorbell, request.app.state.bell)


def get_engine(request: Request) -> EngineClient:
    return cast(EngineClient, request.app.state.engine)


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
BellDep = Annotated[Doorbell, Depends(get_bell)]
EngineDep = Annotated[EngineClient, Depends(get_engine)]
