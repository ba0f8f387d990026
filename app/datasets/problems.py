"""Limits how many problems are reported, and keeps the first ones of every kind."""

import re
from collections.abc import Iterable
from itertools import chain, islice, zip_longest

from app.datasets.report import NAMED
from app.errors import Problem

NUMBER = re.compile(r"\d+")


class Problems:
    """Keeps the first problems of every kind, in bounded memory.

    Problems with the same code and field are of one kind, regardless of record number and list index.
    """

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self._kinds: dict[tuple[str, str], list[Problem]] = {}
        self.add(problems)

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            kind = problem.code, NUMBER.sub("", problem.field or "")
            same = self._kinds.setdefault(kind, []) if len(self._kinds) < NAMED else self._kinds.get(kind)
            if same is not None and len(same) < NAMED:
                same.append(problem)

    @property
    def named(self) -> list[Problem]:
        """At most NAMED problems in the order of the records, with the first of every kind among them."""
        interleaved = chain.from_iterable(zip_longest(*self._kinds.values()))
        selected = list(islice((problem for problem in interleaved if problem is not None), NAMED))
        return sorted(selected, key=lambda problem: (problem.record is None, problem.record or 0))

    @property
    def kinds(self) -> list[Problem]:
        """The first problem of every kind."""
        return [same[0] for same in self._kinds.values()]
