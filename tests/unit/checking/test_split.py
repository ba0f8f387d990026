"""A share of the rows is moved to the evaluation set, and equal rows go together."""

from pathlib import Path

import pyarrow as pa
import pytest

from worker.checking.rows import SCHEMA, digest_of
from worker.checking.split import SplitReport, split
from worker.checking.tokens import batches


def write(path: Path, rows: str) -> Path:
    """A row for each letter."""
    values = [(number, [ord(row)], [ord(row)], 0, 1, digest_of([ord(row)])) for number, row in enumerate(rows, 1)]
    arrays = [pa.array(column, field.type) for column, field in zip(zip(*values, strict=True), SCHEMA, strict=True)]
    with pa.ipc.new_stream(str(path), SCHEMA) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=SCHEMA))
    return path


def parted(folder: Path, rows: str, fraction: float, seed: int = 3407) -> tuple[str, str, SplitReport]:
    train, evaluation = write(folder / "train.arrow", rows), folder / "eval.arrow"
    report = split(train, evaluation, fraction, seed)
    sides = [pa.Table.from_batches(batches(path)).to_pylist() for path in (train, evaluation) if path.exists()]
    letters = ["".join(chr(row["input_ids"][0]) for row in side) for side in sides]
    return letters[0], letters[1] if len(letters) > 1 else "", report


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("rows", "fraction", "evaluated"),
    [("abcdefghij", 0.3, 3), ("abcdabcd", 0.5, 4), ("abababab", 0.1, 4), ("aaaaaaaabc", 0.5, 2), ("aaab", 0.5, 1)],
)
def test_equal_rows_stay_on_one_side(tmp_path: Path, rows: str, fraction: float, evaluated: int, seed: int) -> None:
    train, evaluation, report = parted(tmp_path, rows, fraction, seed)

    assert sorted(train + evaluation) == sorted(rows)
    assert not set(train) & set(evaluation)
    assert (report.eval_rows, report.train_rows, len(evaluation)) == (evaluated, len(rows) - evaluated, evaluated)


def test_the_report_has_the_share_that_was_asked_for_and_the_real_one(tmp_path: Path) -> None:
    report = parted(tmp_path, "abababab", 0.1)[2]

    assert (report.eval_fraction, report.wanted_rows, report.eval_share) == (0.1, 1, 0.5)


def test_rows_that_are_all_equal_are_not_split(tmp_path: Path) -> None:
    train, evaluation, report = parted(tmp_path, "aaaa", 0.5)

    assert (train, evaluation, report.eval_rows) == ("aaaa", "", 0)
    assert report.reason == "all records are equal"


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    chosen = {parted(tmp_path, "abcdefghij", 0.3, seed)[1] for seed in range(8)}

    assert len(chosen) > 1
