"""Which problems are named where there are too many: the first ones of every kind, so that none hides another."""

import re
from collections.abc import Iterable
from itertools import chain, islice, zip_longest

from app.datasets.report import NAMED
from app.errors import Problem

NUMBER = re.compile(r"\d+")


class Problems:
    """Keeps the first problems of every kind, in bounded space.

    Problems of one code in the same field are of one kind, whichever record and turn they are of.
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
        """Those that one answer names, in the order of the records, with the first of every kind among them."""
        in_turn = chain.from_iterable(zip_longest(*self._kinds.values()))
        chosen = list(islice((problem for problem in in_turn if problem is not None), NAMED))
        return sorted(chosen, key=lambda problem: (problem.record is None, problem.record or 0))

    @property
    def kinds(self) -> list[Problem]:
        """The first problem of every kind."""
        return [same[0] for same in self._kinds.values()]
