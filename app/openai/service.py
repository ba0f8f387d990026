"""Which models OpenAI's clients can name, list and delete."""

from pathlib import Path

from sqlalchemy.orm import Session

from app.adapters.models import Adapter
from app.config import Settings
from app.contracts.model_card import CONFIG
from app.errors import BadRequest, InvalidRequest, NotFound, ServiceError
from app.generate import service as generation
from app.generate.service import PreparedRequest
from app.generate.targets import NAMES_AN_ADAPTER, find_target
from app.jobs import lineage as adapters
from app.jobs import repository as jobs
from app.jobs.stored import look_at_plan
from app.openai.answers import ListedModel
from app.openai.schemas import OpenAiRequest
from app.scope import Scope
from app.sources import below, local_models

MOST_MODELS = 10_000


def prepare(session: Session, scope: Scope, settings: Settings, request: OpenAiRequest) -> PreparedRequest:
    """Raises NotFound for a model that is not there, Conflict for a job with nothing to answer."""
    try:
        target = find_target(session, scope, settings, request.model, "model")
    except InvalidRequest as error:
        raise NotFound(error.message, param="model", code="model_not_found") from None
    return generation.prepare(target, request)


def list_models(session: Session, scope: Scope, models: Path) -> list[ListedModel]:
    """The bases in the models folder and those that were trained on, and all adapters, newest first."""
    found = adapters.page(session, scope, None, MOST_MODELS)[0]
    local = local_models(models)
    trained_on = {adapter.base_model: adapter for adapter in reversed(found) if adapter.base_model not in local}
    bases = [_local_card(models, name) for name in local]
    bases += [_base_card(name, int(adapter.created_at.timestamp())) for name, adapter in sorted(trained_on.items())]
    return bases + [_adapter_card(adapter) for adapter in found]


def find_model(session: Session, scope: Scope, settings: Settings, name: str) -> ListedModel:
    """One of them by its id, an adapter or a checkpoint by any of its names.

    Raises NotFound, and Conflict for a job with nothing to answer.
    """
    models = settings.models
    if NAMES_AN_ADAPTER.match(name):
        return _trained_card(session, scope, settings, name)
    if name in local_models(models):
        return _local_card(models, name)
    card = next((card for card in list_models(session, scope, models) if card.id == name), None)
    if card is None:
        raise NotFound(f"there is no model {name[:100]!r}", param="model", code="model_not_found")
    return card


def delete_model(session: Session, scope: Scope, settings: Settings, name: str) -> str:
    """Delete an adapter, and return its id. Raises NotFound, BadRequest for what is no adapter, Conflict as its own."""
    if not NAMES_AN_ADAPTER.match(name):
        found = find_model(session, scope, settings, name)
        raise BadRequest(f"{found.id} is a base model: only adapters can be deleted", param="model")
    try:
        return adapters.delete(session, scope, settings, name)
    except ServiceError as error:
        error.param = "model"
        raise


def _trained_card(session: Session, scope: Scope, settings: Settings, name: str) -> ListedModel:
    if not name.startswith("job-"):
        return _adapter_card(adapters.find(session, scope, name, "model"))
    target = find_target(session, scope, settings, name, "model")
    if target.checkpoint is None:
        return _adapter_card(adapters.find(session, scope, name, "model"))
    job = jobs.get(session, scope, target.checkpoint.job)
    if job is None:
        raise NotFound(f"there is no job {target.checkpoint.job}", param="model", code="unknown_job")
    parent = look_at_plan(job).model.model_name
    return ListedModel(id=target.name, created=int(job.created_at.timestamp()), root=target.name, parent=parent)


def _local_card(models: Path, name: str) -> ListedModel:
    folder = below(models, name)
    config = folder / CONFIG if folder is not None else None
    return _base_card(name, int(config.stat().st_mtime) if config is not None and config.is_file() else 0)


def _base_card(name: str, created: int) -> ListedModel:
    return ListedModel(id=name, created=created, root=name, parent=None)


def _adapter_card(adapter: Adapter) -> ListedModel:
    created = int(adapter.created_at.timestamp())
    return ListedModel(id=adapter.id, created=created, root=adapter.name, parent=adapter.base_model)
