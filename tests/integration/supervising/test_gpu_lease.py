"""Whom a worker asks to step aside before it trains, how long it waits, and what it does about silence."""

import socket
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from fastapi import FastAPI, Response

from app.processes.engine_address import EngineAddress
from tests.integration.engine.processes import free_port
from tests.support.scripted_gpu import GPU, Script, give_gpu
from tests.support.serving import serving
from tests.support.waiting import wait_for
from worker.supervising import gpu_sharing
from worker.supervising.attempt import StopReason
from worker.supervising.gpu_sharing import GpuLease, GpuLeases, Training, wait_for_room

GB = 10**9
SMALL = Training("job-1", "slot-1", GB, GB)
LARGE = Training("job-1", "slot-1", 100 * GB, GB)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpu(tmp_path, monkeypatch)


def settled(arbiter: GpuLease) -> bool:
    return arbiter.wait(30)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("policy", "training", "place", "is_asked"),
    [
        ("auto", SMALL, GPU, False),
        ("auto", LARGE, GPU, True),
        ("auto", Training("job-1", "slot-1", None, GB), GPU, True),
        ("auto", LARGE, "GPU-2", False),
        ("auto", LARGE, None, False),
        ("never", SMALL, GPU, True),
        ("never", SMALL, "GPU-2", False),
        ("always", LARGE, GPU, False),
    ],
)
def test_an_engine_is_asked_where_both_do_not_fit_on_the_same_gpu(
    policy: gpu_sharing.Policy, training: Training, place: str | None, is_asked: bool
) -> None:
    script = Script(place=place)

    with serving(script.app()) as url, GpuLease(EngineAddress(url), policy, training, 60) as arbiter:
        assert settled(arbiter)

    assert bool(script.asked) is is_asked
    assert script.released == (["slot-1"] if is_asked else [])


@pytest.mark.usefixtures("gpu")
def test_a_training_waits_until_the_engine_is_away_and_renews_its_hold() -> None:
    script = Script(goes_away=False)
    heartbeats: list[float] = []

    with serving(script.app()) as url, GpuLease(EngineAddress(url), "auto", LARGE, 0.6) as arbiter:
        wait_for("it is asked again", lambda: len(script.asked) > 2)
        was_settled = arbiter.is_settled
        script.goes_away = True
        reason = wait_for_room(arbiter, lambda: heartbeats.append(time.monotonic()), 0.01)
        count = len(script.asked)
        wait_for("it is renewed", lambda: len(script.asked) > count + 2)

    assert (was_settled, arbiter.is_settled, reason) == (False, True, None)
    assert {order.lease_seconds for order in script.asked} == {0.6}


@pytest.mark.usefixtures("gpu")
def test_whoever_wants_the_wait_to_end_is_heard() -> None:
    with (
        serving(Script(goes_away=False).app()) as url,
        GpuLease(EngineAddress(url), "auto", LARGE, 60) as arbiter,
    ):
        assert wait_for_room(arbiter, lambda: StopReason.SHUTDOWN, 0.01) is StopReason.SHUTDOWN


@pytest.mark.usefixtures("gpu")
def test_an_engine_that_is_not_there_keeps_nobody_waiting_and_is_asked_once_it_is() -> None:
    script, port = Script(), free_port()

    with GpuLease(EngineAddress(f"http://127.0.0.1:{port}"), "auto", LARGE, 3) as arbiter:
        assert settled(arbiter)
        with serving(script.app(), port):
            wait_for("it is asked", lambda: script.asked)


@pytest.mark.usefixtures("gpu")
def test_a_hold_that_a_dead_worker_left_ends_when_the_engine_may_stay() -> None:
    script = Script(stepped_aside="job-0 trains")

    with serving(script.app()) as url, GpuLease(EngineAddress(url), "auto", SMALL, 60) as arbiter:
        assert settled(arbiter)

    assert (script.asked, script.released) == ([], ["slot-1"])


@pytest.mark.usefixtures("gpu")
def test_an_engine_that_is_mute_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sharing, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(gpu_sharing, "PATIENCE_SECONDS", 1.0)
    app, over = FastAPI(), threading.Event()

    @app.get("/health")
    def health() -> Response:
        over.wait(30)
        return Response()

    with serving(app) as url, GpuLease(EngineAddress(url), "auto", LARGE, 60) as arbiter:
        reason = wait_for_room(arbiter, lambda: None, 0.05)
        over.set()

    assert (arbiter.is_settled, reason) == (False, None)


@pytest.mark.usefixtures("gpu")
def test_of_several_engines_that_on_the_training_s_gpu_makes_room() -> None:
    here, elsewhere = Script(), Script(place="GPU-2")

    with (
        serving(here.app()) as url,
        serving(elsewhere.app()) as other,
        GpuLeases([EngineAddress(other), EngineAddress(url)], "auto", LARGE, 60) as leases,
    ):
        assert leases.wait(30)

    assert (len(here.asked) > 0, here.released) == (True, ["slot-1"])
    assert (elsewhere.asked, elsewhere.released) == ([], [])


@pytest.mark.usefixtures("gpu")
def test_a_training_waits_for_each_engine_on_its_gpu() -> None:
    away, stays = Script(), Script(goes_away=False)

    with (
        serving(away.app()) as url,
        serving(stays.app()) as other,
        GpuLeases([EngineAddress(url), EngineAddress(other)], "auto", LARGE, 60) as leases,
    ):
        wait_for("both are asked", lambda: away.asked and stays.asked)
        was_settled = leases.wait(0.05)
        stays.goes_away = True
        assert leases.wait(30)

    assert was_settled is False


def test_a_host_that_does_not_take_a_connection_has_no_engine_on_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of this host would answer at once, whatever its engine does."""
    monkeypatch.setattr(gpu_sharing, "ANSWER_SECONDS", 0.2)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full, ExitStack() as stack:
        for _ in range(4):  # more than wait for `accept`: further connections are not answered
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"

        with GpuLease(EngineAddress(url), "auto", LARGE, 60) as lease:
            assert settled(lease)
