"""The engine opens nothing outside of its folders, whoever asks, and tells nothing of what is there."""

from pathlib import Path

import pytest

from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef
from worker.inference.engine import Refusal
from worker.inference.server.roots import Roots

JOB = "job-a"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose models folder is elsewhere, and links that lead out of every folder."""
    home = tmp_path / "home"
    for folder in ("adapters/a/v1", *(f"jobs/{JOB}/{kind}/1" for kind in ("checkpoints", "attempts", "data", "else"))):
        (home / folder).mkdir(parents=True)
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    for place in (home / "adapters", home / "jobs" / JOB / "checkpoints", tmp_path / "models"):
        (place / "out").symlink_to(tmp_path / "secret")
        (place / "circle").symlink_to(place / "circle")
    return home


def refused(home: Path, base: str, adapter: str | None = None, language: str | None = None) -> str | None:
    """The field that is refused."""
    ref = None
    if adapter is not None:
        ref = AdapterRef(adapter_id="a", version="v1", path=adapter, kind="lora", language=language)
    try:
        Roots.of(home, home.parent / "models").check(BaseRef(source=base, is_local=base != "org/name"), ref)
    except Refusal as refusal:
        return refusal.error.param
    return None


@pytest.mark.parametrize("place", ["adapters/a/v1", f"jobs/{JOB}/checkpoints/1", f"jobs/{JOB}/attempts/1"])
def test_what_the_service_made_is_opened(home: Path, place: str) -> None:
    language = str(home / "jobs" / JOB / "data" / "tokenizer")

    assert refused(home, str(home.parent / "models" / "base"), str(home / place), language) is None


HOSTILE = ["/etc", "/nowhere/at/all", "/", "", ".", "models/base", "{top}/models", "{top}/models/../secret"]
HOSTILE += ["{top}/models/out", "{top}/models/circle", "{top}/secret", "/proc/self", "{top}/models/\0", "{home}/run"]


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_a_base_is_in_the_models_folder(home: Path, path: str) -> None:
    assert refused(home, path.format(top=home.parent, home=home)) == "base.source"


HOSTILE_ADAPTERS = ["/etc", "/nowhere", "{home}", "{home}/adapters", "{home}/adapters/out", "{home}/adapters/circle"]
HOSTILE_ADAPTERS += ["{home}/jobs/job-a", "{home}/jobs/job-a/else/1", "{home}/jobs/job-a/checkpoints/out"]
HOSTILE_ADAPTERS += ["{home}/jobs/job-a/checkpoints/../../../tunesmith.db", "{home}/jobs/checkpoints/x"]
HOSTILE_ADAPTERS += ["{home}/files/f", "adapters/a/v1"]


@pytest.mark.parametrize("path", HOSTILE_ADAPTERS)
def test_an_adapter_is_where_the_service_puts_it(home: Path, path: str) -> None:
    assert refused(home, "org/name", path.format(home=home)) == "adapter.path"


@pytest.mark.parametrize("path", ["/etc", "{home}/jobs/job-a/attempts/1", "{home}/adapters/a/v1", "{home}/jobs/job-a"])
def test_a_tokenizer_is_that_of_a_job(home: Path, path: str) -> None:
    assert refused(home, "org/name", str(home / "adapters/a/v1"), path.format(home=home)) == "adapter.language"


def test_what_is_there_and_what_is_not_are_refused_alike(home: Path) -> None:
    told = set()
    for path in ("/etc/passwd", "/no/such/file", "/root/.ssh"):
        with pytest.raises(Refusal) as caught:
            Roots.of(home).check(BaseRef(source=path, is_local=True), None)
        told.add((caught.value.error.status, caught.value.error.model_dump_json()))

    assert len(told) == 1
    assert {status for status, _ in told} == {403}


def test_a_models_folder_and_adapters_may_be_links(home: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (home / "adapters").rename(disk)
    (home / "adapters").symlink_to(disk)
    (tmp_path / "link").symlink_to(tmp_path / "models")

    roots = Roots.of(home, tmp_path / "link")

    ref = AdapterRef(adapter_id="a", version="v1", path=str(home / "adapters/a/v1"), kind="lora")
    roots.check(BaseRef(source=str(tmp_path / "models" / "base"), is_local=True), ref)


def test_files_of_a_model_may_be_links_as_in_a_hub_cache(home: Path) -> None:
    (home.parent / "secret" / "blob").touch()
    (home.parent / "models" / "base" / "config.json").symlink_to(home.parent / "secret" / "blob")

    assert refused(home, str(home.parent / "models" / "base")) is None
