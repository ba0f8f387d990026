"""What the tests of whole trainings share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.trainings import a_trainers_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with a_trainers_base(tmp_path_factory.mktemp("model")) as folder:
        yield folder
