"""What a route may ask for. All of it is made once, in `app.main`, and lives on the application.

Asynchronous, though nothing here waits: FastAPI hands each synchronous dependency of a request to a thread.
"""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.config import Settings
from app.db import Database
from app.generate.client import EngineClient
from app.jobs.polls import Polls
from app.jobs.queue import Doorbell
from app.jobs.stream import Streams
from app.readiness import Readiness


async def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def get_bell(request: Request) -> Doorbell:
    return cast(Doorbell, request.app.state.bell)


async def get_engine(request: Request) -> EngineClient:
    return cast(EngineClient, request.app.state.engine)


async def get_polls(request: Request) -> Polls:
    return cast(Polls, request.app.state.polls)


async def get_streams(request: Request) -> Streams:
    return cast(Streams, request.app.state.streams)


async def get_readiness(request: Request) -> Readiness:
    return cast(Readiness, request.app.state.readiness)


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
BellDep = Annotated[Doorbell, Depends(get_bell)]
EngineDep = Annotated[EngineClient, Depends(get_engine)]
PollsDep = Annotated[Polls, Depends(get_polls)]
StreamsDep = Annotated[Streams, Depends(get_streams)]
ReadinessDep = Annotated[Readiness, Depends(get_readiness)]
