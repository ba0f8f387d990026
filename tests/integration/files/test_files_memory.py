"""A file that was made to fill the memory ends as a refusal, in a process whose memory is limited."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LIMITED = """
import resource, sys
from pathlib import Path

import pyarrow.parquet

from app.errors import InvalidDataset
from app.datasets.check import inspect_file

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    inspect_file(Path(sys.argv[1]), filename="x.parquet", max_unpacked_bytes=2**40)
except InvalidDataset as refusal:
    print(refusal.details[0].code)
"""


@pytest.mark.parametrize("rows", [1, 8])
def test_a_row_that_repeats_one_text_without_end_is_refused(tmp_path: Path, rows: int) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000 * rows, pa.int32()), pa.array(["a" * 2**20]))
    lists = pa.ListArray.from_arrays(pa.array(range(0, 20_000 * rows + 1, 20_000), pa.int32()), texts)
    pq.write_table(pa.table({"text": lists}), tmp_path / "bomb", dictionary_pagesize_limit=2**30, store_schema=False)

    command = [sys.executable, "-c", LIMITED, str(tmp_path / "bomb"), str(2**30)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (ended.stdout.strip(), ended.returncode) == ("unpacked_size", 0), ended.stderr
