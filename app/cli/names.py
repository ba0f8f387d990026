"""Finds a job, an adapter or a file by its id, by the beginning of its id, or by its name.

A complete id is taken as it is, without a request. What may mean several is refused, and they are listed.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.adapters.schemas import AdapterPage
from app.cli.amounts import age
from app.cli.answers import read_answer
from app.cli.client import Client
from app.cli.errors import BadInput
from app.cli.text import in_line
from app.files.schemas import FilePage
from app.jobs.schemas import JobPage, JobView

COMPLETE = re.compile(r"(?:job|adapter|file)-[a-z2-7]{24}")
MOST_LISTED = 8
# One request of a list, as long as the service answers.
LONG_PAGE = 1000


@dataclass(frozen=True)
class Candidate:
    id: str
    name: str
    about: str


def find_job(client: Client, text: str) -> str:
    """The id of a job. Raises BadInput if there is none, or if there are several."""
    return text if COMPLETE.fullmatch(text) else choose("job", text, map(_of_job, jobs_with(client, text)))


def find_file(client: Client, text: str) -> str:
    """The id of an uploaded file. Raises BadInput as above."""
    if COMPLETE.fullmatch(text):
        return text
    pages = (read_answer(FilePage, page) for page in client.pages("/files", {"limit": LONG_PAGE}))
    found = (Candidate(file.id, file.filename, age(file.created_at)) for page in pages for file in page.data)
    return choose("file", text, found)


def find_adapter(client: Client, text: str) -> str:
    """What `POST /generate` takes as an adapter: the id of an adapter or of a job. Raises BadInput as above.

    A version or a step behind `@` is kept.
    """
    name, at, version = text.partition("@")
    if COMPLETE.fullmatch(name):
        return text
    pages = (read_answer(AdapterPage, page) for page in client.pages("/adapters", {"limit": LONG_PAGE}))
    adapters = [Candidate(each.id, each.name, f"{age(each.created_at)} old") for page in pages for each in page.data]
    if matching("adapter", name, adapters):
        return choose("adapter", name, adapters) + at + version
    return find_job(client, name) + at + version


def jobs_with(client: Client, text: str) -> Iterator[JobView]:
    """All jobs with the text in their id, their name or a label."""
    for page in client.pages("/jobs", {"limit": LONG_PAGE, "text": text}):
        yield from read_answer(JobPage, page).data


def _of_job(job: JobView) -> Candidate:
    return Candidate(job.id, job.name, f"{job.status}, {age(job.created_at)} old")


def choose(kind: str, text: str, candidates: Iterable[Candidate]) -> str:
    """The id of the one candidate that is meant. Raises BadInput, with a list if several may be."""
    found = matching(kind, text, list(candidates))
    if not found:
        raise BadInput(f"there is no {kind} with the id or the name {text!r}, and none whose id begins so")
    if len(found) > 1:
        shown = [f"  {each.id}  {in_line(each.name)}  {each.about}" for each in found[:MOST_LISTED]]
        more = [f"  and {len(found) - MOST_LISTED} more"] if len(found) > MOST_LISTED else []
        raise BadInput("\n".join([f"{text!r} means {len(found)} {kind}s; give the id of one:", *shown, *more]))
    return found[0].id


def matching(kind: str, text: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with this id, else those with this name, else those whose id begins so, with or without its kind."""
    rules = (
        [each for each in candidates if each.id == text],
        [each for each in candidates if each.name == text],
        [each for each in candidates if text and each.id.startswith((text, f"{kind}-{text}"))],
    )
    return next(filter(None, rules), [])
