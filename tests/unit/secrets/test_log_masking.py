"""A file to which a child appends, and what is masked in it."""

from pathlib import Path

from app.processes import log_masking
from app.processes.log_masking import MaskedFile
from app.redaction import Redactor

VALUE = "canary-of-this-test"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_what_is_appended_is_masked_also_where_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    masked = MaskedFile(path, Redactor([VALUE]))
    masked.mask()  # before there is a file
    append(path, f"a {VALUE} b {VALUE[:9]}")
    masked.mask()
    append(path, f"{VALUE[9:]} c\n")
    masked.mask()

    hidden = "[redacted]".ljust(len(VALUE), "*")
    assert path.read_text() == f"a {hidden} b {hidden} c\n"


def test_a_file_of_several_chunks_is_masked_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    filler = "x" * (log_masking.CHUNK_BYTES - 5)
    append(path, f"{filler}{VALUE}{filler}{VALUE}")

    MaskedFile(path, Redactor([VALUE])).mask()

    assert VALUE not in path.read_text()
    assert path.stat().st_size == 2 * (len(filler) + len(VALUE))


def test_a_log_that_was_rotated_is_masked_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    masked = MaskedFile(path, Redactor([VALUE]))
    append(path, "x" * 1000)
    masked.mask()
    path.write_text(f"{VALUE}\n")

    masked.mask()

    assert VALUE not in path.read_text()
