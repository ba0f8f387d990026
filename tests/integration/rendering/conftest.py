"""Every public chat format in turn."""

import pytest

from tests.chat_formats import FORMATS
from tests.chat_formats.learner import Learner


@pytest.fixture(scope="module", params=FORMATS, ids=lambda form: form.name)
def learner(request: pytest.FixtureRequest) -> Learner:
    return Learner(request.param)
