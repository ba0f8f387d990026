"""Gives a child process the secrets that its job names, in its environment. They are in no order, row, event or log."""

from collections.abc import Mapping

from sqlalchemy.orm import Session

from app.config import Settings
from app.contracts.plan import JobPlan
from app.contracts.secret_reference import name_of
from app.database.connection import utc_now
from app.encryption import open_encryption
from app.errors import Unavailable
from app.jobs.models import Job
from app.jobs.secret_references import hub_token_of, unknown_secret
from app.processes.environments import HUB_TOKEN, TOKENS_OF_THE_OPERATOR
from app.redaction import REDACTOR
from app.scope import Scope
from app.secrets import repository
from worker.failures import SystemFault
from worker.supervising.context import WorkerContext
from worker.supervising.retries import retry_until_stored

Environment = dict[str, str]


def hub_secrets(context: WorkerContext, job: Job, plan: JobPlan) -> Environment:
    """Return the hub token of a job, for the processes that download; nothing if it names none.

    Raises InvalidRequest if the secret was deleted meanwhile, and SystemFault without the right key.
    """
    named = hub_token_of(plan)
    return {} if named is None else _resolve(context, job, {HUB_TOKEN: named})


def training_secrets(context: WorkerContext, job: Job, plan: JobPlan) -> Environment:
    """Return what `environment` of the spec names, for the training. Raises as `hub_secrets`."""
    named: dict[str, tuple[str, str]] = {
        name: (f"environment.{name}", reference) for name, reference in (plan.environment or {}).items()
    }
    return _resolve(context, job, named) if named else {}


def with_secrets(environment: Mapping[str, str], secrets: Environment) -> Environment:
    """Return the environment with the secrets of a job. A hub token replaces those of the operator."""
    hidden = TOKENS_OF_THE_OPERATOR if HUB_TOKEN in secrets else frozenset[str]()
    return {**{name: value for name, value in environment.items() if name not in hidden}, **secrets}


def _resolve(context: WorkerContext, job: Job, named: Mapping[str, tuple[str, str]]) -> Environment:
    """Return the values by variable. `named` has the field of the spec and the reference for each variable."""

    def read() -> Environment:
        with context.database.writer() as session:
            found = {name: _value(session, context.settings, job, *each) for name, each in named.items()}
            session.commit()
        return found

    try:
        values = retry_until_stored(read, context.stopping)
    except Unavailable as error:
        hint = "ask the operator for the key with which the secret was stored, or store it again"
        raise SystemFault(error.code, error.message, hint=hint) from None
    REDACTOR.add(values.values())
    return values


def _value(session: Session, settings: Settings, job: Job, field: str, reference: str) -> str:
    secret = repository.get(session, Scope(frozenset({job.project})), job.project, name_of(reference))
    if secret is None:
        raise unknown_secret(field, reference, job.project)
    secret.last_used_at = utc_now()
    return open_encryption(settings).decrypt(secret.ciphertext)
