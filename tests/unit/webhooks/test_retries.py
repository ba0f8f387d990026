"""When a message is tried again."""

from datetime import timedelta
from itertools import pairwise

import pytest

from app.webhooks.retries import MOST_ATTEMPTS, pause_after


def test_the_first_pause_is_five_seconds_and_the_last_attempt_is_about_a_day_later() -> None:
    pauses = [pause_after(attempts) for attempts in range(1, MOST_ATTEMPTS)]
    seconds = [pause.total_seconds() for pause in pauses if pause is not None]

    assert len(seconds) == MOST_ATTEMPTS - 1
    assert 4 <= seconds[0] <= 6
    assert timedelta(hours=16) < timedelta(seconds=sum(seconds)) < timedelta(hours=30)
    assert all(later > earlier for earlier, later in pairwise(seconds[:-1]))


@pytest.mark.parametrize("attempts", [MOST_ATTEMPTS, MOST_ATTEMPTS + 1])
def test_after_the_last_attempt_there_is_no_pause(attempts: int) -> None:
    assert pause_after(attempts) is None


def test_pauses_differ_by_chance() -> None:
    assert len({pause_after(3) for _ in range(20)}) > 10
