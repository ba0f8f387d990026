"""Downloads the files of a hub dataset at a pinned commit. The readers of app.datasets read them.

Only files that the hub lists in the repository, and that are in the cache of its client, are opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.repocard import metadata_load

from app.contracts.spec import HubSource
from app.datasets.report import UnreadFiles
from app.datasets.several_files import FilePart, NamedFile, count_records
from worker.checking.hub import hub_errors
from worker.checking.hub_files import NoSuchFiles, of_one_format, split_files
from worker.downloads import Repository
from worker.failures import SystemFault, UserError

CARD = "README.md"
LARGEST_CARD_BYTES = 2**20
# Of the files that are not read.
UNREAD_NAMED = 20


@dataclass(frozen=True)
class HubDataset:
    """The records to read, the total size of their files in bytes, and the files of the splits that are not read."""

    parts: tuple[FilePart, ...]
    size: int
    unread: UnreadFiles | None


@dataclass(frozen=True)
class HubLimits:
    """`download_bytes` limits all files of a source together, `unpacked_bytes` limits each file."""

    download_bytes: int
    unpacked_bytes: int


def pinned(source: HubSource, param: str) -> HubSource:
    """Returns the source with its revision resolved to a commit, so that later reads give the same rows."""
    with hub_errors(source.hub, param):
        sha = HfApi().dataset_info(source.hub, revision=source.revision).sha
    return source.model_copy(update={"revision": sha or source.revision})


def fetch(source: HubSource, param: str, limits: HubLimits) -> HubDataset:
    """Downloads the files of the source's split. Raises UserError and SystemFault.

    Error messages describe the repository, and reveal nothing about this host.
    """
    with hub_errors(source.hub, param):
        sizes = _sizes(source)
        try:
            splits = split_files(sizes, _card(source, sizes), source.subset)
            wanted = _wanted(source.split, splits)
        except NoSuchFiles as error:
            raise _unreadable(source, str(error), param) from error
        selected = {split: of_one_format(splits[split]) for split in wanted}
        size = _checked_size(source, [sizes[name] for names in selected.values() for name in names], param, limits)
        _repository(source, sizes).check([name for names in selected.values() for name in names], limits.download_bytes)
        files = {split: tuple(_downloaded(source, sizes, name) for name in names) for split, names in selected.items()}
    return HubDataset(tuple(_parts(source, files, param, limits)), size, _unread(selected, splits))


def _sizes(source: HubSource) -> dict[str, int]:
    """Returns the size in bytes of each file of the repository at the pinned commit."""
    info = HfApi().dataset_info(source.hub, revision=source.revision, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _card(source: HubSource, sizes: Mapping[str, int]) -> Mapping[str, Any]:
    """Returns the (untrusted) metadata of the repository's README.md. Raises NoSuchFiles if it is not valid YAML."""
    if CARD not in sizes:
        return {}
    if sizes[CARD] > LARGEST_CARD_BYTES:
        raise NoSuchFiles(f"its {CARD} has {sizes[CARD]} bytes; at most {LARGEST_CARD_BYTES} are read")
    try:
        return metadata_load(_downloaded(source, sizes, CARD).path) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # their messages quote the file
        raise NoSuchFiles(f"the metadata of its {CARD} is not valid YAML") from error


def _wanted(split: str, splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the splits in `train`, `train[:10%]+test`, or `all`. Raises NoSuchFiles for an unknown one."""
    if split == "all" and "all" not in splits:
        return list(splits)
    names = [split] if split in splits else [part.split("[")[0] for part in split.split("+")]
    missing = [name for name in names if name not in splits]
    if missing:
        raise NoSuchFiles(f"it has no split {missing[0]!r}; its splits: {', '.join(splits)}")
    return list(dict.fromkeys(names))


def _unread(selected: Mapping[str, Sequence[str]], splits: Mapping[str, Sequence[str]]) -> UnreadFiles | None:
    unread = [name for split, names in selected.items() for name in splits[split] if name not in names]
    return UnreadFiles(count=len(unread), names=unread[:UNREAD_NAMED]) if unread else None


def _checked_size(source: HubSource, sizes: Sequence[int], param: str, limits: HubLimits) -> int:
    if sum(sizes) > limits.download_bytes:
        message = f"the files of {source.hub} have {sum(sizes)} bytes; at most {limits.download_bytes} are downloaded"
        raise UserError(
            "hub_dataset_too_large", message, hint="the operator's limit is TUNESMITH_MAX_HUB_BYTES", param=param
        )
    return sum(sizes)


def _repository(source: HubSource, sizes: Mapping[str, int]) -> Repository:
    return Repository(source.hub, "dataset", source.revision, sizes)


def _downloaded(source: HubSource, sizes: Mapping[str, int], name: str) -> NamedFile:
    """Downloads one file. Raises SystemFault if the hub client stored it outside its cache."""
    path = _repository(source, sizes).download(name)
    if not path.resolve().is_relative_to(Path(constants.HF_HUB_CACHE).resolve()):
        raise SystemFault("hub_failed", f"a file of {source.hub} is not in the cache of the hub client")
    return NamedFile(path, name)


def _parts(
    source: HubSource, files: Mapping[str, tuple[NamedFile, ...]], param: str, limits: HubLimits
) -> list[FilePart]:
    """Returns all records of the splits, or the slices in the syntax of `datasets` that the spec names."""
    if source.split in files or source.split == "all":
        return [FilePart(each) for each in files.values()]
    from datasets import ReadInstruction  # takes seconds, and slices are rare

    records = {split: count_records(each, limits.unpacked_bytes) for split, each in files.items()}
    try:
        slices = ReadInstruction.from_spec(source.split).to_absolute(records)
    except (ValueError, AssertionError) as error:
        raise _unreadable(source, f"its split {source.split!r} cannot be understood: {error}", param) from error
    return [FilePart(files[each.splitname], each.from_ or 0, each.to) for each in slices]


def _unreadable(source: HubSource, reason: str, param: str) -> UserError:
    return UserError("unreadable_hub_dataset", f"{source.hub} cannot be read: {reason}", param=param)
