"""Resolves names of models and datasets to a folder below an allowed root, or to the hub, and to nothing else."""

import re
from pathlib import Path
from typing import Protocol

from app.contracts.model_card import ADAPTER_CONFIG, CONFIG
from app.contracts.order import LOCAL_REVISION, BaseRef
from app.errors import LONGEST_QUOTE, InvalidRequest, Problem

OF_FILES = re.compile(LOCAL_REVISION + "[0-9a-f]{64}")


def resolve_model(name: str, revision: str | None, models: Path, param: str = "model.model_name") -> BaseRef:
    """Return the weights of a model name: a folder below `models` if there is one, else the hub's `owner/name`.

    Raises InvalidRequest for a name that is neither, and for a revision that does not fit.
    """
    folder, is_of_files = below(models, name), revision is not None and OF_FILES.fullmatch(revision) is not None
    if folder is not None and (folder / CONFIG).is_file():
        if revision is not None and not is_of_files:
            expected = "null, or the revision of a local model, as the resolved_spec of a job names it (sha256-…)"
            raise invalid("model.revision", "local_revision", revision, expected)
        return BaseRef(source=str(folder), is_local=True, revision=revision)
    if folder is not None and (folder / ADAPTER_CONFIG).is_file():
        expected = "a whole model: this folder holds an adapter; name the base that it was trained on"
        raise invalid(param, "adapter_not_model", name, expected)
    if name.count("/") == 1 and not is_of_files:
        return BaseRef(source=name, is_local=False, revision=revision)
    local = ", ".join(local_models(models)) or "none yet"
    raise invalid(param, "unknown_model", name, f"a hub id (owner/name) or a local model ({local})")


class ModelOfPlan(Protocol):
    """The fields of a plan's model group that name its weights."""

    @property
    def model_name(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def rope_scaled_to(self) -> int | None: ...


def base_of(model: ModelOfPlan, models: Path, param: str = "model.model_name") -> BaseRef:
    """Return the weights that a job trains on, from the model group of its plan. Raises InvalidRequest."""
    named = resolve_model(model.model_name, model.revision, models, param)
    return named.model_copy(update={"scaled_to": model.rope_scaled_to})


def local_models(models: Path) -> list[str]:
    """Return the names of the base models below the models folder, up to two levels deep."""
    found = {path.parent for pattern in (f"*/{CONFIG}", f"*/*/{CONFIG}") for path in models.glob(pattern)}
    names = [str(path.relative_to(models)) for path in found]
    return sorted(name for name in names if below(models, name) is not None)


def resolve_dataset(path: str, datasets: Path) -> Path:
    """Return the file of `dataset.source.path`. Raises InvalidRequest if it is not below the datasets folder."""
    file = below(datasets, path)
    if file is None or not file.is_file():
        expected = "a file below the server's datasets folder (TUNESMITH_DATASETS_DIR, else datasets/ in its home)"
        raise invalid("dataset.source.path", "unknown_path", path[:LONGEST_QUOTE], expected)
    return file


def below(root: Path, name: str) -> Path | None:
    """Return `root/name` with links resolved, or None if it does not exist, leads out of the root or is no path."""
    try:
        resolved = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links
        return None
    return resolved if resolved.is_relative_to(root) and resolved != root else None


def invalid(field: str, code: str, found: str, expected: str) -> InvalidRequest:
    """Return an error about one field."""
    problem = Problem(field=field, code=code, found=found, expected=expected)
    return InvalidRequest(f"{field}: found {found!r}, expected {expected}", param=field, details=[problem])
