"""Publishes what a job made: moves adapters and other artifacts to their places, and adds their rows in the commit that
ends the job."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.adapters import repository as adapters
from app.adapters.models import Adapter
from app.artifacts import repository as artifacts
from app.artifacts.models import Artifact
from app.artifacts.names import artifact_id_of
from app.artifacts.store import ArtifactMissing, store_of
from app.config import Settings
from app.contracts.events import AdapterSaved, ArtifactSaved, Finished
from app.contracts.variant import BaseVariant
from app.database.connection import utc_now
from app.disk_faults import NO_ROOM
from app.jobs.models import Job
from app.jobs.stored import look_at_plan
from app.scope import EVERY_PROJECT
from app.store.faults import Beat, EntryChanged, no_beat
from app.webhooks import outbox
from app.webhooks.event_types import EventType
from worker.checkpoints import DiskFullFault
from worker.failures import SystemFault
from worker.hashing import bundle_version
from worker.supervising.attempt import Report


class NotPlaced(SystemFault):
    """A result could not be moved to its place. It stays where it is."""

    def __init__(self, message: str) -> None:
        hint = "what was made is kept in the folder of its attempt and no step is trained again; fix the named fault"
        super().__init__("publish_failed", message, hint=hint)


def adapter_id_of(job_id: str) -> str:
    return job_id.replace("job-", "adapter-", 1)


def published_folder(settings: Settings, job_id: str, saved: AdapterSaved) -> Path:
    return settings.adapter_dir(adapter_id_of(job_id), saved.version)


def find_bundle(settings: Settings, job_id: str, saved: AdapterSaved) -> Path | None:
    """The folder of the intact bundle: the attempt's, or the adapter's if a worker moved it and died before its commit.

    Returns None if neither holds it, and the store has it not either. Raises StoreAway.
    """
    places = (published_folder(settings, job_id, saved), settings.locate(saved.path))
    here = next((place for place in places if place.is_dir() and bundle_version(place) == saved.version), None)
    if here is not None or settings.store is None:
        return here
    brought = settings.files.bring(places[0])
    return brought if brought.is_dir() and bundle_version(brought) == saved.version else None


def place_bundle(settings: Settings, job_id: str, saved: AdapterSaved, beat: Beat = no_beat) -> Path:
    """Move the bundle to its published folder, unless it is there already, store it, and return that folder.

    Raises NotPlaced, StoreAway, and DiskFullFault if there is no room.
    """
    target = published_folder(settings, job_id, saved)
    with _placing("the adapter", target):
        found = find_bundle(settings, job_id, saved)
        if found is None:
            raise NotPlaced(f"the adapter of {job_id} is gone from {saved.path}, or its files were changed")
        if found != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # an incomplete one
            os.rename(found, target)
        settings.files.keep(target, sha256=saved.sha256, beat=beat)
    return target


def place_results(settings: Settings, job_id: str, report: Report, beat: Beat = no_beat) -> None:
    """Move all that the attempt made to its place, before the transaction that publishes it.

    Raises NotPlaced, StoreAway, and DiskFullFault if there is no room.
    """
    if report.adapter is not None:
        place_bundle(settings, job_id, report.adapter, beat)
    place_artifacts(settings, job_id, report)


def place_artifacts(settings: Settings, job_id: str, report: Report) -> list[tuple[ArtifactSaved, str, str]]:
    """Put what the job saved besides its adapter into the store, unless it is there already.

    Returns each with its id and its key. Raises NotPlaced, and DiskFullFault if there is no room.
    """
    store, placed = store_of(settings), []
    for number, saved in enumerate(report.artifacts, 1):
        artifact_id, folder = artifact_id_of(job_id, number), settings.locate(saved.path)
        with _placing(f"the {saved.artifact_kind} {saved.name}", settings.root):
            if not folder.resolve().is_relative_to(settings.job_dir(job_id).resolve()):
                raise NotPlaced(f"{saved.path} is not in the folder of {job_id}")
            placed.append((saved, artifact_id, store.put(artifact_id, folder, saved.sha256)))
    return placed


@contextmanager
def _placing(what: str, target: Path) -> Iterator[None]:
    try:
        yield
    except (ArtifactMissing, EntryChanged) as error:
        raise NotPlaced(str(error)) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFullFault(f"the disk has no room for {what}") from error
        raise NotPlaced(f"{what} could not be moved to {target}: {error.strerror or error}") from error


def take_bundle_back(settings: Settings, job_id: str, saved: AdapterSaved) -> None:
    """Move a placed bundle back to its attempt's folder, so that no bundle without a row stays among the adapters."""
    placed, origin = published_folder(settings, job_id, saved), settings.locate(saved.path)
    settings.files.forget(placed)
    if placed.is_dir() and not origin.exists():
        origin.parent.mkdir(parents=True, exist_ok=True)
        os.rename(placed, origin)
        with suppress(OSError):  # the folder holds another version
            placed.parent.rmdir()


def publish(session: Session, settings: Settings, job: Job, report: Report) -> dict[str, Any]:
    """Add the adapter's row, and return the values for the job's row. The caller's commit publishes both."""
    saved, finished = report.adapter, report.finished
    assert saved is not None, "a finished training has an adapter"
    assert finished is not None, "a finished training has a `finished` event"
    adapter_id = adapter_id_of(job.id)
    variant = report.proof.base_variant if report.proof is not None else None
    adapters.add(session, EVERY_PROJECT, adapter_row(settings, job, saved, variant), saved.sha256)
    told = {"id": adapter_id, "version": saved.version, "job_id": job.id, "project": job.project}
    outbox.tell(session, EVERY_PROJECT, job.project, EventType.ADAPTER_PUBLISHED, told, utc_now())
    result = {
        "adapter": f"{adapter_id}@{saved.version}",
        "steps": finished.steps,
        "train_seconds": finished.train_seconds,
        "final_loss": finished.final_loss,
        "tokens": finished.tokens,
        "adapter_step": finished.adapter_step,
        "best": finished.best.model_dump(mode="json") if finished.best is not None else None,
        "stopped_early": _stopped_early(finished),
        "adapter_bytes": saved.bytes,
        "trainable_parameters": saved.trainable_parameters,
        "verification": report.proof.model_dump(mode="json") if report.proof is not None else None,
    }
    return {"adapter_id": adapter_id, "result": result}


def _stopped_early(finished: Finished) -> dict[str, Any] | None:
    return {"step": finished.steps, "reason": finished.stopped_early} if finished.stopped_early is not None else None


def publish_artifacts(session: Session, settings: Settings, job: Job, report: Report) -> None:
    """Add the rows of placed artifacts. The caller's commit publishes them."""
    for saved, artifact_id, key in place_artifacts(settings, job.id, report):
        row = Artifact(
            id=artifact_id,
            project=job.project,
            job_id=job.id,
            kind=saved.artifact_kind,
            name=saved.name,
            bytes=saved.bytes,
            sha256=saved.sha256,
            location=key,
            created_at=utc_now(),
        )
        artifacts.add(session, EVERY_PROJECT, row)


def adapter_row(settings: Settings, job: Job, saved: AdapterSaved, variant: BaseVariant | None = None) -> Adapter:
    """The row of a placed adapter, not in a session yet. `variant`: the form of the base on which it was proved."""
    model = look_at_plan(job).model
    return Adapter(
        id=adapter_id_of(job.id),
        project=job.project,
        version=saved.version,
        job_id=job.id,
        kind=saved.adapter_kind,
        base_model=model.model_name,
        base_source=_relative(saved.base_model, settings.models),
        base_is_local=saved.base_model.startswith("/"),
        base_revision=saved.base_revision,
        base_variant=variant.model_dump(mode="json") if variant is not None else None,
        base_scaled_to=model.rope_scaled_to,
        path=_relative(str(published_folder(settings, job.id, saved)), settings.root),
        bytes=saved.bytes,
        rank=saved.rank,
        created_at=utc_now(),
    )


def _relative(path: str, folder: Path) -> str:
    """The path relative to the folder, so that the folder may be moved. Anything else, like a hub id, is unchanged."""
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path
