"""How long a job was in each of its phases."""

from datetime import timedelta

from app.cli.client import StreamedEvent
from app.cli.phases import PhaseClock
from tests.support.cli_answers import NOW


def an_event(second: int, **fields: str) -> StreamedEvent:
    (kind,) = fields
    return StreamedEvent(1, kind, {**fields, "at": (NOW + timedelta(seconds=second)).isoformat()})


def test_the_end_of_a_phase_says_how_long_it_took() -> None:
    clock = PhaseClock()
    events = [
        an_event(0, status="running"),
        an_event(5, phase="load"),
        an_event(9, phase="load"),  # the same phase goes on
        an_event(17, phase="train"),
        an_event(77, notice="nothing of a phase"),
        an_event(137, status="succeeded"),
    ]

    assert [clock.enter(event) for event in events] == [
        None,
        None,
        None,
        "load took 0:00:12",
        None,
        "train took 0:02:00",
    ]
    assert (clock.name, clock.seconds()) == ("succeeded", 137)


def test_the_time_of_a_phase_goes_on_without_an_event() -> None:
    clock = PhaseClock()
    clock.enter(an_event(0, phase="save"))

    first = clock.seconds()

    assert 0 < first < clock.seconds()
