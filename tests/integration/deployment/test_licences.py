"""docs/licences.md names every part under the AGPL that a training loads, and every licence of what is installed."""

import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from app.contracts.spec import JobSpec
from tests import ROOT
from tests.support.prepared_rows import prepare
from tests.support.trainings import Job, a_trainers_base, attempt_main

PAGE = (ROOT / "docs" / "licences.md").read_text()
OWN = ("app", "worker", "tests", "__m")
# A licence stands at the head of a file.
HEAD_CHARACTERS = 3000
AGPL = re.compile(r"AGPL|Affero")
COPYLEFT = re.compile(r"GPL|Affero|MPL|Mozilla|EUPL|SSPL|Proprietary|Commercial", re.IGNORECASE)


def attempt_that_tells(folder: Path) -> None:
    """A training, and then the files of all modules that its process has loaded."""
    try:
        attempt_main(folder)
    finally:
        files = {name: vars(module).get("__file__") for name, module in list(sys.modules.items())}
        (folder / "modules.json").write_text(json.dumps(files))


def files_of(modules: Path) -> Iterator[tuple[str, Path]]:
    for name, file in json.loads(modules.read_text()).items():
        if file and file.endswith(".py") and not name.startswith(OWN):
            yield name, Path(file)


SPEC = JobSpec.model_validate(
    {
        "model": {"model_name": "tiny", "max_seq_length": 128, "dtype": "float32", "load_in_4bit": False},
        "dataset": {"source": {"path": "train.jsonl"}},
        "training": {"max_steps": 2, "save_steps": 1},
    }
)
CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


@pytest.fixture
def loaded(tmp_path: Path) -> dict[str, Path]:
    """The modules that a whole training has loaded, by name, with their files."""
    with a_trainers_base(tmp_path / "model") as base:
        data = prepare(base, tmp_path / "data", [{"messages": CHAT}] * 4, SPEC)
        job = Job(base, tmp_path / "job", data, SPEC, program=attempt_that_tells)
        assert job.finish(job.start()) == 0, job.log()
    return dict(files_of(job.folder / "1" / "modules.json"))


def test_every_module_under_the_agpl_that_a_training_loads_is_named(loaded: dict[str, Path]) -> None:
    found = {name for name, file in loaded.items() if AGPL.search(file.read_text(errors="replace")[:HEAD_CHARACTERS])}
    named = tuple(f"{name}." for name in re.findall(r"`(unsloth\w*[._][\w.]+)`", PAGE))

    assert found
    assert [name for name in found if not f"{name}.".startswith(named)] == []


def test_every_package_whose_licence_asks_for_something_is_named() -> None:
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "gpu.txt").read_text(), flags=re.MULTILINE)
    installed = {name: licence for name in names if (licence := licence_of(name)) is not None}

    asking = {name for name, licence in installed.items() if not licence or COPYLEFT.search(licence)}

    assert asking
    assert asking <= set(re.findall(r"`([\w.-]+)`", PAGE))


def licence_of(name: str) -> str | None:
    """As the package says it itself; "" where it says nothing, None where it is not installed."""
    try:
        told = metadata.metadata(name)
    except metadata.PackageNotFoundError:  # of another platform
        return None
    classifiers = [each for each in told.get_all("Classifier") or [] if each.startswith("License")]
    expression, text = ((told.get_all(field) or [""])[0] for field in ("License-Expression", "License"))
    return expression or "; ".join(classifiers) or text.split("\n")[0]
