"""Services are started in order, restarted when they die, and stopped in the reverse order."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.processes.guardian import Guarded, spawn
from app.processes.process_group import ProcessGroup, Service, is_asked_to_stop, signals_held_back
from app.processes.restart_delay import restart_delay
from tests.support.waiting import wait_for

STUBBORN = "trap '' TERM; sleep 100 & wait"


@pytest.fixture(autouse=True)
def held_back() -> Iterator[None]:
    with signals_held_back():
        yield


def send(number: signal.Signals) -> None:
    """To this thread alone: other threads of the test run do not hold signals back."""
    signal.pthread_kill(threading.get_ident(), number)


def silent(_: str) -> None:
    """Nothing to say."""


def nothing() -> None:
    """No chore."""


def chronicler(name: str, chronicle: Path) -> Service:
    """A service that writes down when it starts and when it is asked to stop."""
    script = f"trap 'echo {name} stops >>{chronicle}; exit' TERM; echo {name} starts >>{chronicle}; sleep 100 & wait"
    return Service(name, lambda: spawn(["sh", "-c", script]))


def test_the_last_tier_is_stopped_first(tmp_path: Path) -> None:
    chronicle = tmp_path / "chronicle"
    with ProcessGroup([[chronicler("broker", chronicle)], [chronicler("api", chronicle)]], silent) as group:
        wait_for("both have started", lambda: chronicle.is_file() and chronicle.read_text().count("starts") == 2)

        group.stop()

    assert chronicle.read_text().splitlines()[2:] == ["api stops", "broker stops"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_watch(number: signal.Signals) -> None:
    with ProcessGroup([[Service("api", lambda: spawn(["sleep", "100"]))]], silent) as group:
        send(number)

        group.keep_running(nothing)

        assert group.is_alive("api")


def mortal(starts: list[float]) -> Service:
    """A service that ends at once; its second start asks everything to stop."""

    def start() -> Guarded:
        starts.append(time.monotonic())
        if len(starts) == 2:
            send(signal.SIGTERM)
        return spawn(["sh", "-c", "exit 3"])

    return Service("engine", start)


def test_a_service_that_dies_is_started_again_and_named() -> None:
    said: list[str] = []
    starts: list[float] = []
    with ProcessGroup([[mortal(starts)]], said.append) as group:
        group.keep_running(nothing)

    assert said == ["engine ended with code 3; it starts again in 0.5 s"]
    assert starts[1] - starts[0] > 0.5


def test_a_second_signal_ends_the_waiting_and_leaves_nothing() -> None:
    running = spawn(["sh", "-c", STUBBORN], grace_seconds=60)
    with ProcessGroup([[Service("trainer", lambda: running)]], silent) as group:
        send(signal.SIGTERM)

        group.stop()

        assert group.is_alive("trainer")
    assert running.poll() is not None


def test_services_that_were_started_are_ended_when_another_cannot_be() -> None:
    running = spawn(["sleep", "100"])

    def cannot() -> Guarded:
        raise FileNotFoundError("no such program")

    with (
        pytest.raises(FileNotFoundError),
        ProcessGroup([[Service("broker", lambda: running)], [Service("api", cannot)]], silent),
    ):
        pass

    assert running.poll() is not None


def test_without_a_signal_nobody_asks_to_stop() -> None:
    assert not is_asked_to_stop(0.0)


DELAYS = [
    *(([100.0] * deaths, 100.0, seconds) for deaths, seconds in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0))),
    ([50.0, 60.0, 70.0, 80.0, 90.0], 90.0, 20.0),  # five deaths in a minute are the most
    ([10.0, 20.0, 100.0], 100.0, 0.5),  # those of long ago are forgiven
]


@pytest.mark.parametrize(("deaths", "now", "seconds"), DELAYS)
def test_each_death_in_a_row_doubles_the_wait(deaths: list[float], now: float, seconds: float) -> None:
    assert restart_delay(deaths, now) == seconds
