"""A name in a spec leads to a file below the allowed root or to nothing: never out of it, never to an exception."""

from pathlib import Path

import pytest

from app.errors import InvalidRequest
from app.sources import below, resolve_dataset, resolve_model


def test_a_file_below_the_root_is_found(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()

    assert resolve_dataset("rows.jsonl", tmp_path) == tmp_path / "rows.jsonl"


OUTSIDE = ["..", "../x", "sub/../../x", "/etc/passwd", "~/x", "file:///x", "loop", "out", "folder/secret"]


@pytest.mark.parametrize("name", [*OUTSIDE, "", ".", "a" * 300, "a/" * 3000, "x\0y"])
def test_what_is_not_a_file_below_the_root_is_refused_by_its_field(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "loop").symlink_to("loop")
    (tmp_path / "secret").touch()
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "sub").mkdir()

    assert below(root, name) is None
    with pytest.raises(InvalidRequest) as refused:
        resolve_dataset(name, root)
    assert refused.value.param == "dataset.source.path"


@pytest.mark.parametrize("name", ["mine", "owner/mine"])
def test_a_folder_of_an_adapter_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "adapter_config.json").touch()

    with pytest.raises(InvalidRequest, match="name the base that it was trained on") as refused:
        resolve_model(name, None, tmp_path)
    assert refused.value.details[0].code == "adapter_not_model"
