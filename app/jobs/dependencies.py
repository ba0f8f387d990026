"""FastAPI dependencies of the job routes; settings and database are in `app.web.dependencies`."""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.jobs.queue.notifier import JobNotifier
from app.jobs.views.polls import Polls
from app.jobs.views.stream import Streams


async def get_notifier(request: Request) -> JobNotifier:
    return cast(JobNotifier, request.app.state.notifier)


async def get_polls(request: Request) -> Polls:
    return cast(Polls, request.app.state.polls)


async def get_streams(request: Request) -> Streams:
    return cast(Streams, request.app.state.streams)


NotifierDep = Annotated[JobNotifier, Depends(get_notifier)]
PollsDep = Annotated[Polls, Depends(get_polls)]
StreamsDep = Annotated[Streams, Depends(get_streams)]
