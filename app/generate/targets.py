"""Resolves a name to what answers: a base model, a trained adapter, or a checkpoint of a job without an adapter.

    adapter-…, adapter-…@version     an adapter
    job-…                            the job's adapter once it has succeeded; before that, its newest checkpoint
    job-…@step-40                    the checkpoint of that step, as long as it is kept
    anything else                    a base model

A checkpoint is looked for where its files are (`app.jobs.kept_checkpoints`). With a store, folders are named to the
engine by their paths in a home, and it fetches what its host does not have.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from app.adapters.models import Adapter
from app.config import Settings
from app.contracts.checkpoints import Manifest, age
from app.contracts.generation import AdapterRef
from app.contracts.model_card import ADAPTER_CONFIG, CONFIG
from app.contracts.order import BaseRef
from app.errors import Conflict, InvalidRequest, NotFound
from app.generate.schemas import CheckpointName
from app.jobs import kept_checkpoints
from app.jobs import lineage as adapters
from app.jobs import repository as jobs
from app.jobs.models import Job
from app.jobs.stored import look_at_plan
from app.scope import Scope
from app.sources import base_of, invalid, resolve_model
from app.store.copies import HomeFiles

NAMES_AN_ADAPTER = re.compile(r"^(adapter|job)-[a-z2-7]{24}(@|$)")
STEP = re.compile(r"step-(\d{1,9})")
MOST_NAMED = 20
MOST_SHOWN = 3


@dataclass(frozen=True)
class Target:
    """The model or adapter that answers, with the name that the client sees. `project`: of the adapter or the job."""

    base: BaseRef
    adapter: AdapterRef | None
    name: str
    checkpoint: CheckpointName | None = None
    project: str | None = None

    @property
    def adapter_id(self) -> str | None:
        """None for a base and for a checkpoint, which is no adapter yet."""
        return self.adapter.adapter_id if self.adapter is not None and self.checkpoint is None else None

    def counted_in(self, scope: Scope) -> str:
        """Return the project whose usage an answer is: that of the adapter; of a base, one of the caller's own."""
        return self.project or scope.paying_project


def find_target(session: Session, scope: Scope, settings: Settings, name: str, param: str) -> Target:
    """Who is meant by a name; with the param `adapter` it cannot be a base.

    Raises NotFound for an unknown adapter, job or step, Conflict for a job that has nothing to answer with,
    InvalidRequest for a model name that means nothing here.
    """
    if param != "adapter" and not NAMES_AN_ADAPTER.match(name):
        return Target(_base(session, scope, settings, name, param), None, name)
    job_id, at, wanted = name.partition("@")
    if not job_id.startswith("job-") or not adapters.NAME.fullmatch(name):
        return _trained(adapters.find(session, scope, name, param), settings)
    adapter = adapters.of_job(session, scope, job_id, param) if not at else None
    if adapter is not None:
        return _trained(adapter, settings)
    job = jobs.get(session, scope, job_id)
    if job is None or job.is_temporary:
        raise NotFound(f"there is no job {job_id!r}", param=param, code="unknown_job")
    found = _kept(job, settings, wanted if at else None, param)
    return _halfway(job, settings, found, param)


def _base(session: Session, scope: Scope, settings: Settings, name: str, param: str) -> BaseRef:
    """The base of that name. Raises InvalidRequest with the adapters that could have been meant, too."""
    try:
        return resolve_model(name, None, settings.models, param)
    except InvalidRequest as error:
        trained = _adapters_like(session, scope, name)
        if not trained:
            raise
        expected = f"{error.details[0].expected}, or an adapter ({', '.join(trained)})"
        raise invalid(param, "unknown_model", name, expected) from None


def _adapters_like(session: Session, scope: Scope, name: str) -> list[str]:
    """Return up to three adapters to suggest, with their jobs' names: those of jobs with this name, else the newest."""
    newest = [
        (adapter.id, jobs.get(session, scope, adapter.job_id))
        for adapter in adapters.page(session, scope, None, MOST_NAMED)[0]
    ]
    called_so = [(adapter_id, job) for adapter_id, job in newest if job is not None and job.name == name]
    shown = (called_so or newest)[:MOST_SHOWN]
    return [adapter_id if job is None else f"{adapter_id} of the job {job.name!r}" for adapter_id, job in shown]


def _trained(adapter: Adapter, settings: Settings) -> Target:
    return Target(adapter.base(settings), adapters.ref_of(adapter, settings), adapter.name, project=adapter.project)


def _kept(job: Job, settings: Settings, wanted: str | None, param: str) -> Manifest:
    """The newest whole checkpoint, or the newest of the step that is wanted as `step-40`."""
    files = settings.files
    present = kept_checkpoints.present(files, settings.checkpoints_dir(job.id))
    step = STEP.fullmatch(wanted) if wanted is not None else None
    meant = (
        present if wanted is None else [path for path in present if step is not None and age(path)[0] == int(step[1])]
    )
    found = next((whole for path in meant if (whole := kept_checkpoints.outline_of(files, path)) is not None), None)
    if found is not None:
        return found
    if wanted is None:
        message = f"{job.id} is {job.status}: it has no adapter, and no checkpoint yet"
        hint = f"POST /jobs/{job.id}/checkpoint makes one while it is running"
        if job.status.is_final:
            hint = f"GET /jobs/{job.id} says why it ended"
        raise Conflict(f"{message}; {hint}", param=param, code="job_has_no_adapter")
    names = ", ".join(dict.fromkeys(f"step-{age(path)[0]}" for path in present[:MOST_NAMED])) or "none"
    message = f"{job.id} has no checkpoint {wanted!r}, it keeps {names}"
    raise NotFound(message, param=param, code="unknown_checkpoint")


def _halfway(job: Job, settings: Settings, found: Manifest, param: str) -> Target:
    """The checkpoint as the engine's order names it. Raises Conflict if it does not have all that an answer needs."""
    name, spec = f"{job.id}@step-{found.step}", look_at_plan(job)
    is_full = spec.model.full_finetuning
    if spec.lora.loftq_config is not None and not is_full:
        message = f"{name}: a checkpoint of a LoftQ job fits the quantised base of its trainer alone; wait for its end"
        raise Conflict(message, param=param, code="checkpoint_not_servable")
    if is_full and CONFIG not in {file.path for file in found.files}:
        message = f"{name}: the checkpoint is no whole model: it has no {CONFIG}"
        raise Conflict(message, param=param, code="checkpoint_not_servable")
    ref = AdapterRef(
        adapter_id=job.id,
        version=found.version,
        path=settings.reference(found.path),
        kind="full" if is_full else "lora",
        language=settings.reference(settings.tokenizer_dir(job.id)),
    )
    name_of_checkpoint = CheckpointName(job=job.id, step=found.step, attempt=found.attempt, version=found.version)
    return Target(_base_of(job, settings, found.path, param), ref, name, name_of_checkpoint, job.project)


def _base_of(job: Job, settings: Settings, checkpoint: Path, param: str) -> BaseRef:
    """The weights that are trained on: of the hub, Unsloth may have loaded another repository than the one named.

    A folder is what was named, wherever it was when the checkpoint was written.
    """
    named = base_of(look_at_plan(job).model, settings.models, param)
    loaded = None if named.is_local else _loaded(settings.files, checkpoint)
    if loaded is None or loaded == named.source:
        return named
    return BaseRef(source=loaded, is_local=loaded.startswith("/"), scaled_to=named.scaled_to)


def _loaded(files: HomeFiles, checkpoint: Path) -> str | None:
    """Return the base that an adapter_config.json names, or None if there is no such file or it names none."""
    try:
        return json.loads(files.text(checkpoint, ADAPTER_CONFIG))["base_model_name_or_path"] or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
