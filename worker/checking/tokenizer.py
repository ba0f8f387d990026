"""Makes the tokenizer of a job: the base model's own, with the chat template that the spec names.

Unsloth applies a named template, and may rename control tokens for it. It needs torch, so it runs in a separate
process. The result is cached by content for later jobs.
"""

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from app.contracts.order import CheckOrder
from app.hashing import hash_folder
from app.processes.environments import Process, for_child
from worker.checking.hub import hub_errors
from worker.checking.prepared import FolderCache
from worker.child import OFFLINE
from worker.failures import SystemFault, UserError
from worker.rendering.renderer import UNREADABLE

OWN = "own"
MAKER = "worker.templating"
MAKER_SECONDS = 600


@dataclass(frozen=True)
class JobTokenizer:
    """A folder that `AutoTokenizer` can load, and the hash of its files."""

    folder: Path
    sha256: str


def make_tokenizer(order: CheckOrder, revision: str | None, scratch: Path) -> JobTokenizer:
    """Returns the tokenizer. Raises UserError if it cannot be read, or if the template does not fit it."""
    own = scratch / OWN
    _save_own(order, revision, own)
    name = order.spec.model.chat_template
    if name is None:
        return JobTokenizer(own, hash_folder(own))
    cache = FolderCache(order.cache_dir / "tokenizers", order.max_cache_bytes)
    folder, _ = cache.fetch(_key(own, name), partial(_apply_template, own, name))
    return JobTokenizer(folder, hash_folder(folder))


def _save_own(order: CheckOrder, revision: str | None, target: Path) -> None:
    from transformers import AutoTokenizer  # takes a second

    with hub_errors(order.spec.model.model_name, "model.model_name"):
        try:
            tokenizer = AutoTokenizer.from_pretrained(order.base.source, revision=revision, trust_remote_code=False)
        except (*UNREADABLE, RecursionError) as error:
            raise UserError(
                "no_tokenizer",
                f"{order.spec.model.model_name} has no tokenizer that can be read ({type(error).__name__})",
                hint="a model in a form that transformers reads has tokenizer.json and tokenizer_config.json",
                param="model.model_name",
            ) from error
    tokenizer.save_pretrained(str(target))


def _key(own: Path, template: str) -> str:
    try:
        maker = version("unsloth")
    except PackageNotFoundError:
        message = f"the chat template {template} needs Unsloth, which is not installed for this checker"
        raise SystemFault("no_unsloth", message, param="model.chat_template") from None
    slug = "".join(char if char.isalnum() else "-" for char in template)
    return f"{slug}-{maker}-{hash_folder(own)[:32]}"


def _apply_template(own: Path, template: str, target: Path) -> None:
    command = [sys.executable, "-m", MAKER, str(own), template, str(target)]
    environment = {**for_child(Process.TEMPLATE), **OFFLINE}  # no hub token, because the tokenizer is untrusted
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=MAKER_SECONDS,
            cwd=own.parent,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise SystemFault(
            "template_too_slow", f"Unsloth did not apply {template} to the tokenizer within {MAKER_SECONDS} s"
        ) from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise UserError(
            "template_does_not_fit",
            f"Unsloth cannot apply the chat template {template} to this tokenizer: {reason[:300]}",
            hint="null uses the model's own template",
            param="model.chat_template",
        )
