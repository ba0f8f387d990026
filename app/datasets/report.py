"""What became of the rows of a dataset: counted, named by record, and small enough to store beside a job or a file."""

from app.contracts.base import Contract
from app.datasets.layouts import Layout
from app.datasets.preview import PreviewRecord
from app.errors import Problem

# Problems, record numbers and keys that are named, of each kind; all are counted.
NAMED = 50


class Counted(Contract):
    """How often something was met, and the numbers of the first records that had it."""

    code: str
    count: int
    records: list[int]


class Duplicates(Contract):
    """Records that equal an earlier one after normalising. They are kept. `looked_at`: the first so many records."""

    count: int
    records: list[int]
    looked_at: int


class UnreadFiles(Contract):
    """Files of a dataset that are of another format than most and are not read, and the names of the first."""

    count: int
    names: list[str]


class DataReport(Contract):
    """`sha256` is of the bytes that were read, as they are stored; rows of the hub have none."""

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
    """What an upload holds. `kept` counts the records that a job with default settings can train on.

    `preview`: the first of them as such a job reads them.
    """

    columns: list[str]
    preview: list[PreviewRecord] = []
