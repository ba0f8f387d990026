"""Which secrets a spec names, and whether its project has them."""

from sqlalchemy.orm import Session

from app.contracts.secret_reference import name_of
from app.contracts.spec import HubSource, JobSpec
from app.errors import InvalidRequest
from app.scope import Scope
from app.secrets import repository
from app.sources import invalid


def references_of(spec: JobSpec) -> dict[str, str]:
    """Return the references of a spec by field."""
    fields = {"model.token": spec.model.token}
    for name in ("source", "eval_source"):
        source = getattr(spec.dataset, name)
        fields[f"dataset.{name}.token"] = source.token if isinstance(source, HubSource) else None
    fields |= {f"environment.{name}": reference for name, reference in (spec.environment or {}).items()}
    return {field: reference for field, reference in fields.items() if reference is not None}


def hub_token_of(spec: JobSpec) -> tuple[str, str] | None:
    """Return the field and the reference of the hub token, of which a spec has one at most."""
    return next((each for each in references_of(spec).items() if each[0].endswith(".token")), None)


def check(session: Session, scope: Scope, spec: JobSpec) -> None:
    """Raise InvalidRequest for a secret that the project of the spec does not have."""
    for field, reference in references_of(spec).items():
        if repository.get(session, scope, spec.project, name_of(reference)) is None:
            raise unknown_secret(field, reference, spec.project)


def unknown_secret(field: str, reference: str, project: str) -> InvalidRequest:
    expected = f"the name of a secret of the project {project}: PUT /secrets/{name_of(reference)} stores it"
    return invalid(field, "unknown_secret", reference, expected)
