"""`tunesmith pull`: downloads an artifact into a folder, which is complete or does not exist.

Until then the files are in a folder beside it, where a later `pull` goes on. Every file is verified by its hash.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from app.artifacts.names import ADAPTER, PREFIX
from app.artifacts.schemas import ArtifactDetail, ArtifactFile
from app.cli.arguments import adapter_names, completing
from app.cli.client import PAUSE_SECONDS, TRIES, Client
from app.cli.errors import AnswerLost, BadInput, CommandError
from app.cli.input import Url, connect, console
from app.cli.names import find_adapter
from app.cli.text import in_line
from app.contracts.model_card import ADAPTER_CONFIG, CONFIG
from app.hashing import hash_file

# Without a terminal, lines of progress are printed no more often than this.
QUIET_SECONDS = 5.0
Advance = Callable[[int], None]


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="adapter-…, artifact-…, or a job, which means its adapter", autocompletion=completing(adapter_names)
        ),
    ],
    to: Annotated[Path | None, typer.Option(help="a new folder; default: one with the id of the artifact")] = None,
    url: Url = None,
) -> None:
    """Download an adapter or another artifact. What was interrupted is resumed.

    \b
    Examples:
      tunesmith pull fib --to my-adapter
    """
    with connect(url) as client:
        found = name if name.startswith(f"{PREFIX}-") else find_adapter(client, name)
        artifact = client.artifact(_id_of_job(client, found) if found.startswith("job-") else found)
        folder = to or Path(artifact.id)
        if not _is_there(folder, artifact.files):
            _download(client, artifact, folder)
    typer.echo(f"{artifact.id} is in {folder.resolve()}")
    for line in usage(folder.resolve()):
        typer.echo(line)


def _id_of_job(client: Client, job_id: str) -> str:
    found = client.artifacts(job_id).data
    chosen = [each for each in found if each.kind == ADAPTER] or found
    if len(chosen) == 1:
        return chosen[0].id
    if not found:
        raise CommandError(f"{job_id} has no artifacts: a job has them once it has succeeded")
    raise BadInput(f"{job_id} has several artifacts: name one of {', '.join(each.id for each in found)}")


def _is_there(folder: Path, files: Iterable[ArtifactFile]) -> bool:
    """Return whether the folder holds these files and no others. Raises BadInput if it holds something else."""
    if not folder.is_symlink() and (not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))):
        return False
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    hashes = {name: hash_file(path) for name, path in present.items() if path.is_file()}
    if not folder.is_dir() or hashes != {file.name: file.sha256 for file in files}:
        raise BadInput(f"{folder} holds something else: --to names a new folder")
    return True


def _download(client: Client, artifact: ArtifactDetail, folder: Path) -> None:
    draft = folder.with_name(f".{folder.name}.{artifact.id}.part")
    paths = [(_path_in(draft, file.name), file) for file in artifact.files]
    with _progress(console, sum(file.bytes for file in artifact.files)) as advance:
        for path, file in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(client, artifact.id, file, path, advance)
    draft.rename(folder)


def _path_in(draft: Path, name: str) -> Path:
    """Raises CommandError for a name that leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\0" in name:
        raise CommandError(f"the service named a file outside of the artifact: {in_line(name)}; nothing was written")
    return draft.joinpath(*parts)


def _fetch(client: Client, artifact_id: str, file: ArtifactFile, path: Path, advance: Advance) -> None:
    """Download what is missing of a file, and verify it. A connection that breaks is tried again while bytes come."""
    tries = 0
    if _size(path) > file.bytes:
        path.unlink()
    advance(_size(path))
    while tries <= TRIES and (not path.exists() or _size(path) < file.bytes):
        known = _size(path)
        try:
            _append(client, artifact_id, file, path, advance)
        except AnswerLost:
            if tries == TRIES:
                raise
            time.sleep(PAUSE_SECONDS)
        tries = 0 if _size(path) > known else tries + 1
    if hash_file(path) != file.sha256:
        path.unlink()
        raise CommandError(f"{file.name} is not what the service said: it was removed; pull again")


def _append(client: Client, artifact_id: str, file: ArtifactFile, path: Path, advance: Advance) -> None:
    known = _size(path)
    with client.content(artifact_id, file, known) as (start, chunks), path.open("ab") as written:
        written.truncate(start)
        advance(start - known)
        for chunk in chunks:
            written.write(chunk)
            advance(len(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Advance]:
    if not console.is_terminal:
        yield _Lines(console, total).advance
        return
    with Progress(TextColumn("pulling"), BarColumn(), DownloadColumn(), console=console) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)


class _Lines:
    """Plain lines of progress, and one at the end."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done, self._next = console, total, 0, 0.0

    def advance(self, size: int) -> None:
        self._done += size
        if size and (self._done == self._total or time.monotonic() >= self._next):
            self._next = time.monotonic() + QUIET_SECONDS
            self._console.print(f"pulled {self._done / 1e6:.1f} of {self._total / 1e6:.1f} MB")


def usage(folder: Path) -> Iterator[str]:
    """How Python loads what is in the folder, if it is an adapter or a model."""
    model = "AutoModelForCausalLM.from_pretrained({!r})".format
    if (folder / ADAPTER_CONFIG).is_file():
        base = str(json.loads((folder / ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path"))
        yield f"load it with peft and transformers: PeftModel.from_pretrained({model(base)}, {str(folder)!r})"
    elif (folder / CONFIG).is_file():
        yield f"load it with transformers: {model(str(folder))}"
