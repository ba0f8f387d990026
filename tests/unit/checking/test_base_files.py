"""A base is known by a hash of its weights and its config, and a file is read once."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from app.contracts.model_card import CONFIG, INDEX, SINGLE
from worker.base_files import BaseFiles


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return a_base(tmp_path / "base", {SINGLE: "weights"})


def a_base(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in {CONFIG: "{}", "tokenizer.json": "{}", **files}.items():
        (folder / name).write_text(text)
    return folder


def put(base: Path, name: str, text: str) -> None:
    (base / f"{name}.new").write_text(text)
    os.replace(base / f"{name}.new", base / name)


@pytest.mark.parametrize("name", [SINGLE, CONFIG])
def test_another_content_is_another_revision_and_the_old_one_is_known_again(base: Path, name: str) -> None:
    files, before = BaseFiles(), (base / name).read_text()

    first = files.revision(base)
    put(base, name, before.replace("{}", "{ }").upper())
    second = files.revision(base)
    put(base, name, before)

    assert (first or "").startswith("sha256-")
    assert second not in (None, first)
    assert files.revision(base) == first


def test_a_tokenizer_and_new_times_change_nothing(base: Path) -> None:
    files = BaseFiles()
    first = files.revision(base)

    put(base, "tokenizer.json", "[]")
    os.utime(base / SINGLE, ns=(1, 1))

    assert files.revision(base) == first


def test_the_same_size_and_time_do_not_hide_another_content(base: Path) -> None:
    files = BaseFiles()
    first, old = files.revision(base), (base / SINGLE).stat()

    put(base, SINGLE, "WEIGHTS")
    os.utime(base / SINGLE, ns=(old.st_atime_ns, old.st_mtime_ns))

    assert files.revision(base) != first


def test_every_part_that_an_index_names_counts(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    base = a_base(tmp_path / "parts", {INDEX: index, "1.safetensors": "1", "2.safetensors": "2"})
    files = BaseFiles()
    first = files.revision(base)

    put(base, "2.safetensors", "3")
    second = files.revision(base)
    (base / "1.safetensors").unlink()

    assert second not in (None, first)
    assert files.revision(base) is None


def test_weights_without_safetensors_have_no_revision(tmp_path: Path) -> None:
    assert BaseFiles().revision(a_base(tmp_path / "pickled", {"pytorch_model.bin": "x"})) is None


def test_another_process_takes_the_hash_that_is_kept(base: Path, tmp_path: Path) -> None:
    first = BaseFiles(tmp_path / "cache").revision(base)
    (place,) = (tmp_path / "cache" / "bases").iterdir()
    place.write_text(place.read_text().replace(hashlib.sha256(b"weights").hexdigest(), "kept"))

    assert BaseFiles(tmp_path / "cache").revision(base) not in (None, first)
