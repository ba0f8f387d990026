"""An engine that adapters are held against their probes in, as they are and tampered with."""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from app.contracts.probe import PROBE, Probe, Proof
from bench.proof.cases import Case
from bench.proof.tampering import OTHER_BASE, TAMPERINGS
from bench.proof.trainings import Trainings
from tests.integration.engine.probes import an_order, proof_of
from worker.hashing import bundle_version
from worker.inference.batching.engine import BatchingEngine
from worker.inference.models.bases import Placement

FILES, WEIGHTS, SCORES = "files", "weights", "scores"


@dataclass(frozen=True)
class Outcome:
    """By which looks a tampered bundle was refused. `missed`: what log-probabilities showed of one that they took."""

    caught: list[str]
    cause: str | None
    missed: dict[str, Any] | None


class Holding:
    """The engine of the product on this host's CPU."""

    def __init__(self, dtype: str) -> None:
        self._engine = BatchingEngine(Placement("cpu", getattr(torch, dtype)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._engine.close()
        assert self._engine.join(60)

    def proof_of(self, bundle: Path, base: Path, version: str | None = None) -> Proof:
        """`version`: the hash that the bundle had when it was saved; None: as it is now."""
        order = an_order(bundle, base)
        adapter = order.adapter.model_copy(update={"version": version or order.adapter.version})
        return proof_of(self._engine, order.model_copy(update={"adapter": adapter}))

    def tamper(self, kind: str, case: Case, bundle: Path, trainings: Trainings) -> Outcome | None:
        """None where the kind changes nothing of this bundle."""
        change = TAMPERINGS[kind]
        base = trainings.base(replace(case.base, seed=case.base.seed + 100) if kind == OTHER_BASE else case.base)
        with tempfile.TemporaryDirectory() as folder:
            # One name, one content: what was read of a folder is remembered by its name.
            changed = Path(shutil.copytree(bundle, Path(folder, f"{kind}-{case.number}".replace(" ", "-"))))
            if change is not None:
                change(changed, bundle)
                if bundle_version(changed) == bundle_version(bundle):
                    return None
            files = self.proof_of(changed, base, bundle_version(bundle))
            weights = self.proof_of(changed, base)
            caught = [name for name, proof in ((FILES, files), (WEIGHTS, weights)) if not proof.proved]
            probe = Probe.model_validate_json((changed / PROBE).read_bytes())
            (changed / PROBE).write_text(probe.model_copy(update={"weights": None}).model_dump_json())
            scores = self.proof_of(changed, base)
        if scores.proved:
            return Outcome(caught, weights.cause, _missed(case, scores))
        return Outcome([*caught, SCORES], weights.cause, None)


def _missed(case: Case, proof: Proof) -> dict[str, Any]:
    figures = {name: getattr(proof, name) for name in ("difference", "tolerance", "base_difference", "strength")}
    return {"dtype": case.dtype, "steps": case.steps, "learning_rate": case.learning_rate, **figures}
