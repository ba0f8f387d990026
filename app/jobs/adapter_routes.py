"""The HTTP routes of adapters."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.adapters.schemas import AdapterDeleted, AdapterPage, AdapterView
from app.jobs import lineage
from app.web.dependencies import DatabaseDep, JobsCaller, ReadCaller, SettingsDep
from app.web.parameters import LONGEST_PAGE

AdapterName = Annotated[str, "adapter-…, adapter-…@version, or the id of the job that trained it"]
router = APIRouter(prefix="/adapters", tags=["adapters"])


@router.get("")
def list_adapters(
    caller: ReadCaller,
    database: DatabaseDep,
    after: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 20,
) -> AdapterPage:
    """Adapters, newest first."""
    with database.reader() as session:
        adapters, has_more = lineage.page(session, caller.scope, after, limit)
    return AdapterPage.of(adapters, has_more)


@router.get("/{adapter_id}")
def get_adapter(adapter_id: AdapterName, caller: ReadCaller, database: DatabaseDep) -> AdapterView:
    with database.reader() as session:
        return AdapterView.of(lineage.find(session, caller.scope, adapter_id, "adapter_id"))


@router.delete("/{adapter_id}")
def delete_adapter(
    adapter_id: AdapterName, caller: JobsCaller, database: DatabaseDep, settings: SettingsDep
) -> AdapterDeleted:
    """Remove an adapter and its files; the job that trained it stays."""
    with database.writer() as session:
        return AdapterDeleted(id=lineage.delete(session, caller.scope, settings, adapter_id))
