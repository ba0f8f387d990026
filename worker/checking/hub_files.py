"""Selects the files of a dataset repository for each split of one subset.

Only files in the list at the pinned commit are selected. The patterns in the repository's card are matched against that
list; a URL, an absolute path or a path out of the repository is refused and never opened.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

# The file endings that app.datasets can read. If two have equally many files in a split, the first one is used.
ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
# Files that describe a dataset. Files and folders that begin with a dot are never data.
DESCRIPTIONS = frozenset({"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
# Keys of a subset in the card that do not change the rows, or that the readers detect themselves.
HARMLESS_KEYS = frozenset(
    {"config_name", "data_files", "data_dir", "default", "features", "version", "description", "sep", "delimiter"}
)
# The words for a split in the names of files and folders, as `datasets` 4.8 knows them.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SHARD = re.compile(r"(?:.*/)?data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
SUBSET_OF_ALL = "default"

Patterns = Mapping[str, Sequence[str]]


class NoSuchFiles(Exception):
    """The repository has no such subset or split, or its card names files that are not in the repository."""


def split_files(names: Iterable[str], card: Mapping[str, Any], subset: str | None) -> dict[str, list[str]]:
    """Returns the files of each split of a subset, in order.

    `names` are relative paths; `card` is the metadata of README.md. A split may have files of several formats:
    `of_one_format` selects among them.

    The rules are those of `datasets`: the subsets that the card lists, else the words for splits in the names of files
    and folders, else all files as the split "train". Raises NoSuchFiles.
    """
    data = sorted(name for name in names if _is_data(name))
    config = _subset(card, subset)
    unknown = sorted(set(config) - HARMLESS_KEYS)
    if unknown:
        raise NoSuchFiles(f"the key {unknown[0]!r} of a subset in its card is not supported")
    patterns = _patterns(config.get("data_files"))
    folder = _relative(config.get("data_dir", "")).strip("/")
    inside = [name for name in data if name.startswith(f"{folder}/")] if folder else data
    found = _by_pattern(data, patterns) if patterns else _by_name(inside)
    splits = {split: files for split, files in found.items() if files}
    if not splits:
        raise NoSuchFiles(f"it holds no data file: none of its files ends in {', '.join(ENDINGS)}")
    return splits


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    is_hidden = any(part.startswith(".") or part == ".." for part in path.parts)
    return not (is_hidden or path.is_absolute() or path.name in DESCRIPTIONS) and _ending(name) is not None


def _ending(name: str) -> str | None:
    plain = name.lower().removesuffix(".gz")
    return next((ending for ending in ENDINGS if plain.endswith(ending)), None)


def _subset(card: Mapping[str, Any], subset: str | None) -> Mapping[str, Any]:
    listed = card.get("configs") or []
    if not isinstance(listed, list) or not all(isinstance(one, dict) and "config_name" in one for one in listed):
        raise NoSuchFiles("the card's 'configs' are not a list of subsets with a config_name each")
    configs: dict[str, Mapping[str, Any]] = {str(one["config_name"]): one for one in listed}
    if not configs and subset in (None, SUBSET_OF_ALL):
        return {}
    selected = subset or next((name for name, one in configs.items() if one.get("default") is True), SUBSET_OF_ALL)
    if subset is None and selected not in configs and len(configs) == 1:
        selected = next(iter(configs))
    if selected not in configs:
        known = ", ".join(sorted(configs)[:20]) or "none"
        wanted = f"no subset {subset!r}" if subset else "several subsets and no default one"
        raise NoSuchFiles(f"it has {wanted}; its subsets: {known}")
    return configs[selected]


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Returns the patterns of each split from `data_files`: one pattern, a list, or a list of {split, path}."""
    if data_files is None:
        return {}
    listed = data_files if isinstance(data_files, list) else [data_files]
    patterns: dict[str, list[str]] = {}
    for one in listed:
        split, paths = (one.get("split"), one.get("path")) if isinstance(one, dict) else ("train", one)
        if not isinstance(split, str):
            raise NoSuchFiles("an entry of the card's 'data_files' has no split")
        for path in paths if isinstance(paths, list) else [paths]:
            patterns.setdefault(split, []).append(_relative(path))
    return patterns


def _relative(path: Any) -> str:
    """Returns the path without a leading "./". Raises NoSuchFiles if it could lead out of the repository."""
    if not isinstance(path, str):
        raise NoSuchFiles("the path of a data file in the card is not a text")
    plain = path.removeprefix("./")
    if plain.startswith(("/", "~")) or "\\" in plain or "::" in plain or "://" in plain or ".." in plain.split("/"):
        raise NoSuchFiles("the card names data files outside of the repository, which are never read")
    return plain


def _by_pattern(names: Sequence[str], patterns: Patterns) -> dict[str, list[str]]:
    return {split: _matching(names, listed) for split, listed in patterns.items()}


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Returns each matching file once, in the order of the patterns. Raises NoSuchFiles if a pattern has no match."""
    files: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in names if _matches(name.split("/"), pattern.split("/"))]
        if not found:
            raise NoSuchFiles(f"none of its data files matches {pattern[:100]!r}, which its card names")
        files.update(dict.fromkeys(found))
    return list(files)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a pattern, in which `**` stands for any number of folders.

    The time is proportional to the product of both lengths for any pattern, because cards are untrusted.
    """
    matched = {0}  # the numbers of path parts that the pattern so far can match
    for piece in pattern:
        if piece == "**":
            matched = set(range(min(matched, default=len(parts) + 1), len(parts) + 1))
        else:
            matched = {count + 1 for count in matched if count < len(parts) and fnmatchcase(parts[count], piece)}
    return len(parts) in matched


def _by_name(names: Sequence[str]) -> dict[str, list[str]]:
    shards = [(match["split"], name) for name in names if (match := SHARD.fullmatch(name))]
    if shards:
        return {split: [name for other, name in shards if other == split] for split, _ in shards}
    for parts_of in (_folders, _file_name):
        found = {split: [name for name in names if _has_word(parts_of(name), split)] for split in SPLIT_WORDS}
        if any(found.values()):
            return found
    return {"train": list(names)}


def _folders(name: str) -> Sequence[str]:
    return PurePosixPath(name).parts[:-1]


def _file_name(name: str) -> Sequence[str]:
    return PurePosixPath(name).parts[-1:]


def _has_word(parts: Sequence[str], split: str) -> bool:
    """Whether one of the parts contains a word for the split, separated by punctuation, spaces or digits."""
    words = {word for part in parts for word in re.split(r"[-._ 0-9]", part)}
    return not words.isdisjoint(SPLIT_WORDS[split])


def of_one_format(names: Sequence[str]) -> list[str]:
    """Returns the files of the most frequent format. Ties go to the first one in ENDINGS.

    A repository may have the same rows in two formats, and notes beside its data: .txt files count only if there are
    no others.
    """
    kinds = Counter(_ending(name) for name in names)
    structured = [name for name in names if _ending(name) != ".txt"]
    ranked = sorted({_ending(name) for name in structured or names}, key=lambda kind: (-kinds[kind], _rank(kind)))
    return [name for name in names if _ending(name) in ranked[:1]]


def _rank(ending: str | None) -> int:
    return ENDINGS.index(ending) if ending in ENDINGS else len(ENDINGS)
