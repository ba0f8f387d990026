"""Datasets of the hub, read by `datasets` itself at a pinned revision. Dataset scripts are never run."""

from typing import Any

from huggingface_hub import HfApi

from app.contracts.spec import HubSource, Source
from worker.checking.hub import hub_errors
from worker.failures import UserError


def pinned(source: HubSource, param: str) -> HubSource:
    """The same dataset at the commit that its revision is now: read twice, it is the same rows."""
    with hub_errors(source.hub, param):
        sha = HfApi().dataset_info(source.hub, revision=source.revision).sha
    return source.model_copy(update={"revision": sha or source.revision})


def read(source: Source, param: str) -> Any:
    """The rows of a hub dataset, with a length. Raises UserError and SystemFault."""
    from datasets import load_dataset  # takes seconds, and most jobs bring a file
    from datasets.exceptions import DatasetsError

    assert isinstance(source, HubSource), "files are read by app.files"
    with hub_errors(source.hub, param):
        try:
            return load_dataset(source.hub, source.subset, split=source.split, revision=source.revision)
        except (ValueError, FileNotFoundError, RuntimeError, DatasetsError) as error:  # no split, a script
            message = f"{source.hub} cannot be read: {str(error)[:300]}"
            raise UserError("unreadable_hub_dataset", message, param=param) from error
