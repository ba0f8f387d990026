"""The report on the rows of a dataset, small enough to store with a job or a file."""

from app.contracts.base import Contract
from app.datasets.layouts import Layout
from app.datasets.preview import PreviewRecord
from app.errors import Problem

# At most this many problems, record numbers and keys of each kind are listed. All of them are counted.
NAMED = 50


class Counted(Contract):
    """How often something was found, and the numbers of the first records that have it."""

    code: str
    count: int
    records: list[int]


class Duplicates(Contract):
    """Records that equal an earlier one. They are kept. `looked_at`: the last record that was compared."""

    count: int
    records: list[int]
    looked_at: int


class UnreadFiles(Contract):
    """Files of a dataset that are of another format than most and are not read, and the names of the first."""

    count: int
    names: list[str]


class DataReport(Contract):
    """What was found in a dataset. `sha256` is the hash of the stored bytes, and null for a hub dataset."""

    format: str
    is_gzip: bool
    layout: Layout | None
    sha256: str | None
    records: int
    kept: int
    dropped: int
    problem_count: int
    problems: list[Problem]
    fixes: list[Counted]
    warnings: list[Counted]
    ignored_keys: list[str]
    duplicates: Duplicates
    longest_characters: int
    longest_record: int | None
    unread_files: UnreadFiles | None = None


class FileReport(DataReport):
    """What was found in an upload. `kept` counts the records that a job with default settings can train on.

    `preview` has the first of these records.
    """

    columns: list[str]
    preview: list[PreviewRecord] = []
