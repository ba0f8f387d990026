"""The HTTP routes of secrets. No answer has a value."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.contracts.training_args import SafeName
from app.secrets import service
from app.secrets.schemas import SecretDeleted, SecretList, SecretValue, SecretView
from app.web.dependencies import DatabaseDep, JobsCaller, ReadCaller, SettingsDep

SecretName = Annotated[SafeName, Path(description="a spec names it as secret://NAME")]
Project = Annotated[SafeName | None, Query(description="default: that of the key")]
router = APIRouter(prefix="/secrets", tags=["secrets"])


@router.get("")
def list_secrets(caller: ReadCaller, database: DatabaseDep, project: Project = None) -> SecretList:
    """The secrets of a project by name, without their values."""
    with database.reader() as session:
        return SecretList.of(service.of_project(session, caller.scope, project or caller.scope.usual_project))


@router.put("/{name}")
def put_secret(
    name: SecretName,
    body: SecretValue,
    caller: JobsCaller,
    database: DatabaseDep,
    settings: SettingsDep,
    project: Project = None,
) -> SecretView:
    """Store a secret, or another value of one, for jobs that name it. The value is never returned."""
    with database.writer() as session:
        return SecretView.of(
            service.store(session, caller.scope, settings, project or caller.scope.usual_project, name, body.value)
        )


@router.get("/{name}")
def get_secret(name: SecretName, caller: ReadCaller, database: DatabaseDep, project: Project = None) -> SecretView:
    """A secret without its value: when it was stored, and when a job last got it."""
    with database.reader() as session:
        return SecretView.of(service.find(session, caller.scope, project or caller.scope.usual_project, name))


@router.delete("/{name}")
def delete_secret(
    name: SecretName, caller: JobsCaller, database: DatabaseDep, project: Project = None
) -> SecretDeleted:
    """Remove a secret. A job that names it fails when it needs it."""
    with database.writer() as session:
        service.delete(session, caller.scope, project or caller.scope.usual_project, name)
    return SecretDeleted(name=name)
