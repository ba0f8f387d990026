"""`python -m worker.training.spare FD`: import what a training imports, wait for one order, and do what
`python -m worker.training` does with it.

The descriptor is a socket whose other end only the worker holds. When the worker closes it, or dies, the spare ends.
It opens no file of a job before it is confined by its order, and its folder is TMPDIR, which belongs to it alone.
"""

import os
import socket
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from app.contracts.order import TrainingOrder
from app.contracts.spare import SpareAnswer, SpareOrder, SpareReady
from worker.confinement.allowed import hub_folder, of_training
from worker.confinement.process import confine, go_offline, link_repository
from worker.stopping import lease_of, wait_for_renewal
from worker.training.__main__ import train
from worker.training.ranks.followers import Followers
from worker.training.start import StartMoment

LONGEST_MESSAGE = 65_536


def main() -> int:
    began, host = time.time_ns(), dict(os.environ)
    scratch = Path(os.environ["TMPDIR"])
    go_offline(scratch / "hf")
    with socket.socket(fileno=int(sys.argv[1])) as worker:
        worker.sendall(_imported().model_dump_json().encode())
        files = imported_files()
        message = worker.recv(LONGEST_MESSAGE)
        if not message:
            return 0
        start = StartMoment.now(is_warm=True)
        given = SpareOrder.model_validate_json(message)
        order = TrainingOrder.model_validate_json(given.order.read_text())
        refusal = why_not(order, files, began)
        worker.sendall(SpareAnswer(refusal=refusal).model_dump_json().encode())
    if refusal is not None:
        return 0
    _move(given, scratch)
    lease = lease_of(dict(os.environ))
    if lease is not None and time.monotonic() > given.latest:
        wait_for_renewal(lease[0])
    return _train(order, start, scratch / "hf", host)


def _imported() -> SpareReady:
    """Import the recipe, and say what that has cost."""
    began = time.monotonic()
    import worker.training.recipe  # noqa: F401

    return SpareReady(
        import_seconds=round(time.monotonic() - began, 3),
        memory_bytes=_own_memory(),
        threads=thread_names(),
        has_gpu_context=_has_gpu_context(),
    )


def _train(order: TrainingOrder, start: StartMoment, hub: Path, host: Mapping[str, str]) -> int:
    """`host`: the environment in which the worker started this process, which names the host's hub cache."""
    link_repository(hub, hub_folder(order.base, host))
    confine(of_training(order, host))
    return train(order, start, Followers())


def _move(given: SpareOrder, scratch: Path) -> None:
    """Go into the attempt's folder, and print to its log, which begins with what the imports have printed."""
    sys.stdout.flush()
    sys.stderr.flush()
    output = os.open(given.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(output, (scratch / given.output.name).read_bytes())
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(given.order.parent)


def why_not(order: TrainingOrder, files: Iterable[str], began: int) -> str | None:
    """Why this process must not do the training; None if it may. `began`: when it was started, in ns of the clock."""
    changed = next((path for path in files if has_changed(path, began)), None)
    if changed is not None:
        return f"{changed} has changed since the spare was started"
    threads = thread_names()
    if order.is_confined and len(threads) > 1:
        return f"a process has to be confined while it has one thread, and the spare has {', '.join(threads)}"
    return None


def imported_files() -> list[str]:
    """The files of all imported modules, and the folders of packages.

    Modules that Unsloth has generated are left out: later processes generate their own.
    """
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    generated = os.environ["UNSLOTH_COMPILE_LOCATION"]
    files = (getattr(module, "__file__", None) or "" for module in [*sys.modules.values()])
    return [*folders, *(file for file in files if not file.startswith(generated) and os.path.isfile(file))]


def has_changed(path: str, since: int) -> bool:
    """Whether a file was written, replaced or removed, or a package installed into a folder, since this time.

    The time of the inode decides (`man 7 inode`: st_ctime), which no tool can set back.
    """
    try:
        return os.stat(path).st_ctime_ns > since
    except OSError:
        return True


def thread_names() -> list[str]:
    """The names of all threads of this process, also of those that libraries have started."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def _own_memory() -> int:
    """`man 5 proc_pid_status`: RssAnon, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _has_gpu_context() -> bool:
    import torch

    with suppress(AttributeError, RuntimeError):  # it is a function of torch's own, which may be renamed
        return any(torch._C._cuda_hasPrimaryContext(number) for number in range(torch.cuda.device_count()))
    return False


if __name__ == "__main__":
    sys.exit(main())
