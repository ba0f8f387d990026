"""When a warm spare refuses an order."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.contracts.order import BaseRef
from tests.support.prepared_rows import a_training
from tests.support.specs import a_spec
from worker.training.spare import has_changed, why_not


@pytest.fixture
def other_thread() -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield
    over.set()
    thread.join()


def refusal(folder: Path, files: list[str], *, is_confined: bool = False) -> str | None:
    places = {"train_rows": folder / "train.arrow", "tokenizer": folder / "tokenizer"}
    base = BaseRef(source="/models/x", is_local=True)
    order = a_training(folder, a_spec(), base, **places, is_confined=is_confined)
    return why_not(order, files, time.time_ns() - 10**9)


@pytest.mark.usefixtures("other_thread")
def test_a_process_with_several_threads_cannot_be_confined(tmp_path: Path) -> None:
    assert "confined while it has one thread" in (refusal(tmp_path, [], is_confined=True) or "")
    assert refusal(tmp_path, []) is None


def test_a_file_that_was_written_removed_or_replaced_by_an_older_one_has_changed(tmp_path: Path) -> None:
    file, older = tmp_path / "module.py", tmp_path / "older.py"
    file.write_text("")
    before = time.time_ns() - 10**9
    os.utime(file, ns=(0, 0))  # as an installer may do

    assert has_changed(str(file), before)
    assert not has_changed(str(file), time.time_ns() + 10**9)
    assert has_changed(str(older), before)


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("")

    assert refusal(tmp_path, [str(tmp_path / "module.py")]) == (
        f"{tmp_path / 'module.py'} has changed since the spare was started"
    )
