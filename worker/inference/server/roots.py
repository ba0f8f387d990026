"""The folders whose files the engine may open: bases, adapters, and files of jobs.

    models/**    adapters/**    jobs/*/checkpoints/**    jobs/*/attempts/**
    jobs/*/data/**  and  jobs/*/tokenizer  (a tokenizer only)

Links are resolved first, as in the API (`app.sources`): a path that leads out of its folder is refused. The models
folder itself may be a link, and the files of a model may be links, as in a hub cache: the operator created them. A
refusal does not reveal whether anything exists at the path.
"""

from dataclasses import dataclass
from pathlib import Path

from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef
from worker.inference.engine import Refusal

OF_JOBS = frozenset({"checkpoints", "attempts"})
LANGUAGE = frozenset({"data", "tokenizer"})


@dataclass(frozen=True)
class Roots:
    """`home` is the home folder of the service, `models` the operator's folder of base models. Their links are
    resolved.
    """

    home: Path
    models: Path

    @classmethod
    def of(cls, home: Path, models: Path | None = None) -> "Roots":
        """Without `models` the base models are in the folder `models` of the home."""
        root = home.expanduser().resolve()
        return cls(root, (models or root / "models").expanduser().resolve())

    def check(self, base: BaseRef, adapter: AdapterRef | None) -> None:
        """Raises Refusal 403 if an order names a path outside the roots."""
        if base.is_local and not _is_below(base.source, self.models):
            raise _elsewhere("base.source")
        if adapter is None:
            return
        is_adapter = _is_below(adapter.path, (self.home / "adapters").resolve())
        if not (is_adapter or self._is_of_a_job(adapter.path, OF_JOBS)):
            raise _elsewhere("adapter.path")
        if adapter.language is not None and not self._is_of_a_job(adapter.language, LANGUAGE):
            raise _elsewhere("adapter.language")

    def _is_of_a_job(self, path: str, kinds: frozenset[str]) -> bool:
        jobs = (self.home / "jobs").resolve()
        resolved = _resolved(path)
        if resolved is None or not resolved.is_relative_to(jobs):
            return False
        parts = resolved.relative_to(jobs).parts
        return len(parts) > (1 if parts[1:2] == ("tokenizer",) else 2) and parts[1] in kinds


def _is_below(path: str, root: Path) -> bool:
    resolved = _resolved(path)
    return resolved is not None and resolved != root and resolved.is_relative_to(root)


def _resolved(path: str) -> Path | None:
    """Returns None for a path that is not absolute, contains NUL, or has a cycle of links."""
    try:
        return Path(path).resolve() if path.startswith("/") else None
    except (OSError, ValueError, RuntimeError):
        return None


def _elsewhere(field: str) -> Refusal:
    message = f"{field}: found a path outside the folders that this engine reads (its home and its models folder)"
    return Refusal(403, "path_not_allowed", message, field)
