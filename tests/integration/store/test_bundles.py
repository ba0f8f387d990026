"""The engine has the folders that an order names brought to its host, and opens nothing else for it."""

import asyncio
from pathlib import Path

import pytest

from app.config import Settings
from app.contracts.generation import AdapterRef
from app.contracts.order import BaseRef
from app.contracts.probe import ProofOrder
from app.ids import new_id
from app.store.faults import STORE_AWAY
from tests.support.s3_server import S3Server, with_store
from worker.inference.engine import Refusal
from worker.inference.server.bundles import Bundles
from worker.inference.server.roots import Roots

CHECKPOINT = "jobs/job-a/checkpoints/step-00000004-attempt-1"


@pytest.fixture
def hosts(s3: S3Server, tmp_path: Path) -> tuple[Settings, Settings]:
    prefix = new_id("prefix")
    first, second = (with_store(s3, tmp_path / name, prefix) for name in "ab")
    for key in ("adapters/adapter-a/v1", CHECKPOINT, "jobs/job-a/tokenizer", "jobs/job-a/else"):
        (first.root / key).mkdir(parents=True)
        (first.root / key / "text").write_text(key)
        first.files.keep(first.root / key)
    return first, second


def order(path: str, language: str | None = None) -> ProofOrder:
    adapter = AdapterRef(adapter_id="a", version="v1", path=path, kind="lora", language=language)
    return ProofOrder(base=BaseRef(source="org/name", is_local=False), adapter=adapter)


def bring(settings: Settings, wanted: ProofOrder) -> AdapterRef:
    return asyncio.run(Bundles(Roots.of(settings.root), settings.files).bring(wanted)).adapter


def test_an_adapter_of_another_host_is_fetched(hosts: tuple[Settings, Settings]) -> None:
    _, second = hosts

    found = bring(second, order("adapters/adapter-a/v1"))

    assert found.path == str(second.root / "adapters/adapter-a/v1")
    assert (Path(found.path) / "text").read_text() == "adapters/adapter-a/v1"


def test_a_checkpoint_is_fetched_with_the_tokenizer_of_its_job(hosts: tuple[Settings, Settings]) -> None:
    _, second = hosts

    found = bring(second, order(CHECKPOINT, "jobs/job-a/tokenizer"))

    assert found.language == str(second.root / "jobs/job-a/tokenizer")
    assert (Path(found.language) / "text").read_text() == "jobs/job-a/tokenizer"
    assert (Path(found.path) / "text").is_file()


@pytest.mark.parametrize("path", ["jobs/job-a/else", "../a/adapters/adapter-a/v1", "/etc", "files/file-a", ""])
def test_nothing_else_is_fetched(hosts: tuple[Settings, Settings], path: str) -> None:
    _, second = hosts

    with pytest.raises(Refusal, match="outside the folders"):
        bring(second, order(path))
    assert not list(second.root.glob("**/text"))


def test_an_order_that_has_to_wait_for_the_store_says_so(hosts: tuple[Settings, Settings], s3: S3Server) -> None:
    first, second = hosts
    s3.stop()
    try:
        with pytest.raises(Refusal) as refused:
            bring(second, order("adapters/adapter-a/v1"))
        here = bring(first, order("adapters/adapter-a/v1"))
    finally:
        s3.start()

    assert (refused.value.error.status, refused.value.error.code) == (503, STORE_AWAY)
    assert here.path == str(first.root / "adapters/adapter-a/v1")
