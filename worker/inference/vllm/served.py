"""Which base a vLLM server serves, and whether it may be used at all."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from worker.inference.blueprints import Blueprints
from worker.inference.engine import ModelFolder, Refusal, TokenRequest
from worker.inference.limits import check_length, check_prompt
from worker.inference.sources import unavailable
from worker.inference.vllm.remote import Vllm, away

# Before it rows of the base may get the answer of an adapter that is computed beside them (vLLM's pull request 48421).
LEAST_VERSION = (0, 33)
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True)
class Blank:
    """A base without weights: its config and what adapters of it look like."""

    config: Any
    blueprints: Blueprints


@dataclass(frozen=True)
class Served:
    """The base of a server, under the name that it is asked for, and the names of the adapters that it has."""

    version: str
    name: str
    root: str
    context: int | None
    adapters: frozenset[str]

    @property
    def label(self) -> str:
        """The base's name for people: a folder's last part, or the hub's name."""
        return Path(self.root).name if Path(self.root).is_absolute() else self.root

    def check(self, request: TokenRequest) -> None:
        """Raises Refusal for another base than this, and for a prompt that it cannot read."""
        if not self._is(request.base):
            message = (
                f"the engine serves {self.label!r} through vLLM and no other base, {request.base.name!r} was asked"
            )
            raise Refusal(409, "base_not_served", message, "model")
        blank = load_blank(request.base)
        check_prompt(blank, request.prompt_ids)
        check_length(self.context, len(request.prompt_ids), request.sampling.max_new_tokens)

    def _is(self, base: ModelFolder) -> bool:
        """A hub name and a folder of the same name are two: only what comes from the hub has another folder name."""
        if Path(self.root).is_absolute():
            return Path(self.root).resolve() == base.folder.resolve()
        return self.root == base.name != base.folder.name


@lru_cache(maxsize=8)
def load_blank(base: ModelFolder) -> Blank:
    """Raises Refusal `model_unavailable` for a folder that has no config of a model."""
    try:
        config = AutoConfig.from_pretrained(str(base.folder), trust_remote_code=False, local_files_only=True)
        return Blank(config, Blueprints(config))
    except UNREADABLE as error:
        raise unavailable(404, base.name, f"has no readable config ({type(error).__name__})") from None


async def look(vllm: Vllm, version: str | None, *, allow_old: bool) -> Served:
    """What the server says of itself now; `version` is known while it was not away.

    Raises Refusal 503 when it is away, too old, or serves nothing.
    """
    version = version or await vllm.version()
    cards = await vllm.models()
    if is_old(version) and not allow_old:
        least = ".".join(map(str, LEAST_VERSION))
        reason = f"it is version {version}, at least {least} is needed: before, adapters leaked into the base's answers"
        raise away(reason)
    base = next((card for card in cards if card.parent is None), None)
    if base is None:
        raise away("it serves no base model")
    adapters = frozenset(card.id for card in cards if card.parent is not None)
    return Served(version, base.id, base.root or base.id, base.max_model_len, adapters)


def is_old(version: str) -> bool:
    """Versions that cannot be read count as old."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is None or tuple(map(int, found.groups())) < LEAST_VERSION
