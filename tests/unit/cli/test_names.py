"""What a text means: an id, a name, or the beginning of an id."""

import pytest

from app.cli.errors import BadInput
from app.cli.names import Candidate, choose

KNOWN = [
    Candidate("job-aaaa", "fib", "succeeded, 1h old"),
    Candidate("job-aabb", "twice", "failed, 2h old"),
    Candidate("job-cccc", "twice", "running, 3h old"),
    Candidate("job-dddd", "aaaa", "queued, 4h old"),
]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("job-aaaa", "job-aaaa"),
        ("fib", "job-aaaa"),
        ("job-aaa", "job-aaaa"),
        ("c", "job-cccc"),
        ("aaaa", "job-dddd"),  # a whole name is meant before the beginning of an id
    ],
)
def test_an_id_a_name_or_a_beginning_means_one_job(text: str, chosen: str) -> None:
    assert choose("job", text, KNOWN) == chosen


@pytest.mark.parametrize("text", ["twice", "job-aa", "aa"])
def test_what_means_several_is_refused_and_they_are_listed(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        choose("job", text, KNOWN)

    first, *listed = str(refused.value).splitlines()
    assert first == f"{text!r} means 2 jobs; give the id of one:"
    assert "  job-aabb  twice  failed, 2h old" in listed


@pytest.mark.parametrize("text", ["nothing", "", "ib"])
def test_what_means_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=f"there is no job with the id or the name '{text}'"):
        choose("job", text, KNOWN)


def test_of_very_many_only_some_are_listed() -> None:
    many = [Candidate(f"job-{number}", "same", "") for number in range(10)]

    with pytest.raises(BadInput, match="means 10 jobs") as refused:
        choose("job", "same", [*many])

    assert str(refused.value).splitlines()[8:] == ["  job-7  same  ", "  and 2 more"]
