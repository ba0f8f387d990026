"""A chat template for checker, trainer and engine. It is compiled and rendered in a limited process."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from app.processes.environments import Process
from worker.confinement.limited_process import CallFailed, LimitedProcess, ProcessPool
from worker.rendering.refusal import TemplateRefused
from worker.rendering.work import Work

# Most characters of a template; the longest public ones have 40,000.
MAX_SOURCE = 256 * 1024
# CPU seconds for one render. 2,000 messages take 0.01 s with most public templates, and 1 s with those that read all
# earlier messages again for each message.
MOST_SECONDS = 2.0
# CPU seconds for compiling a template; public ones take up to 0.2 s.
COMPILE_SECONDS = 5.0
# With several processes a slow template does not block the others.
PROCESSES = 2
POOL = ProcessPool(partial(LimitedProcess, "worker.rendering.render_child", Process.RENDER), PROCESSES)


class ChatTemplate:
    """One template. Thread-safe.

    `uses_date` says whether it reads the current date, so that its text changes from day to day. `variables` are the
    names that it reads and that neither it nor a chat defines.
    """

    def __init__(self, source: str, pool: ProcessPool = POOL) -> None:
        """Raises TemplateRefused."""
        if len(source) > MAX_SOURCE:
            raise TemplateRefused(f"the chat template has {len(source):,} characters, more than {MAX_SOURCE:,}")
        self._source = source
        self._key = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        self._pool = pool
        with pool.process() as process:
            found, _ = self._compile(process)
        self.uses_date: bool = _checked(found)["uses_date"]
        self.variables = frozenset[str](found["variables"])

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        work: Work | None = None,
    ) -> str:
        """The text of a chat. `variables` are further variables of the template. `work` is the budget that it shares
        with other renders. Raises TemplateRefused.
        """
        seconds = MOST_SECONDS if work is None else min(MOST_SECONDS, work.left)
        if seconds <= 0:
            raise _too_long(MOST_SECONDS)
        own = {"messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt}
        request, used = {"key": self._key, "variables": {**variables, **own}}, seconds
        try:
            with self._pool.process() as process:
                if self._key not in process.kept:
                    self._compile(process)
                found, used = _call(process, request, seconds)
        finally:
            if work is not None:
                work.take(used)
        return str(_checked(found)["text"])

    def _compile(self, process: LimitedProcess) -> tuple[dict[str, Any], float]:
        process.kept.add(self._key)
        return _call(process, {"key": self._key, "source": self._source}, COMPILE_SECONDS)


def _call(process: LimitedProcess, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], float]:
    try:
        return process.call(request, seconds)
    except CallFailed as failed:
        raise (_too_long(seconds) if failed.computed_too_long else _ended(failed)) from None


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Raises TemplateRefused if the child answered with a refusal."""
    if "refused" in answer:
        raise TemplateRefused(answer["refused"])
    return answer


def _too_long(seconds: float) -> TemplateRefused:
    return TemplateRefused(
        f"the chat template does more work than a chat needs: stopped after {seconds:.2g} seconds of computing"
    )


def _ended(failed: CallFailed) -> TemplateRefused:
    return TemplateRefused(f"the process that renders the chat template {failed}")
