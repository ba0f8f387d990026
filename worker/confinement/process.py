"""What a child may do that reads strangers' files: the folders of its order, the ports of the hub, so much memory.

The system, Python, its packages and this program are read; a GPU is used. Neither the database nor another job's files
are there for it, nor anything in the home folder of the user that it runs as. It is called first, while the process has
one thread and none of the libraries that read those files.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from urllib.parse import urlsplit

from worker.confinement import landlock
from worker.confinement.landlock import Walls

# Programs and libraries, and what they read of the system. No private folder of a user is below these.
SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/opt/nvidia", "/opt/rocm", "/opt/amdgpu",
    "/proc", "/sys", "/run/systemd/resolve", "/run/resolvconf", "/run/opengl-driver", "/run/nvidia",
)  # fmt: skip
OF_ETC = (
    "alternatives", "ca-certificates", "crypto-policies", "debian_version", "gai.conf", "group", "host.conf",
    "hostname", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime", "machine-id",
    "mime.types", "nsswitch.conf", "nvidia", "os-release", "passwd", "pki", "protocols", "resolv.conf", "services",
    "ssl", "timezone", "vulkan",
)  # fmt: skip
DEVICES = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts",
    "/dev/nvidia*", "/dev/nvidia-caps*", "/dev/dri", "/dev/kfd", "/dev/infiniband",
)  # fmt: skip
# Programs and libraries that the operator has put elsewhere.
PATH_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")
# A compiler that lies elsewhere, by whose name it is called: its headers and libraries are beside its folder.
COMPILERS = ("gcc", "g++", "cc", "c++", "clang")
# Where libraries keep what they compile, by the variable that tells them.
CACHE_VARIABLES = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "PYTORCH_KERNEL_CACHE_PATH": "kernels",
    "UNSLOTH_COMPILE_LOCATION": None,
}
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy", "HF_ENDPOINT")
HUB_PORTS = (80, 443, 53)
NVIDIA_CONTROL, NVIDIA_MEMORY = Path("/dev/nvidiactl"), Path("/dev/nvidia-uvm")
SCRATCH_PREFIX = "tunesmith-"
PROGRAM = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Allowed:
    """What one child may have: folders and files of its own, a bound for its memory and for each file that it writes.

    `writes` begins with a folder of its own. `cache` is where what libraries compile is kept for later jobs; None:
    where the environment says.
    """

    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    cache: Path | None
    is_offline: bool
    has_walls: bool
    memory_bytes: int | None
    file_bytes: int


def confine(allowed: Allowed) -> None:
    """Hold this process, and all that it starts, to what it is allowed. Nothing can take that back.

    Raises OSError, and RuntimeError in a process that has threads already.
    """
    _limit(allowed)
    _wake_gpu()
    walls = _walls(allowed, _scratch(allowed))
    if allowed.has_walls:
        landlock.drop_capabilities()
        landlock.stand(walls)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """What a parent gives its child as TMPDIR, and removes, however the child ends.

    Its path is short, since libraries put sockets there, and a socket's path has to fit in 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def go_offline(folder: Path, repository: Path | None) -> None:
    """From here on the hub's client of this process asks nobody, has no token, and a cache in a folder of its own.

    `repository` is what it finds there: a folder of the host's cache, which may be read and not written.
    """
    cache = folder / "hub"
    cache.mkdir(parents=True, exist_ok=True)
    if repository is not None:
        (cache / repository.name).unlink(missing_ok=True)
        (cache / repository.name).symlink_to(repository)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_HOME=str(folder), HF_HUB_CACHE=str(cache), HF_XET_CACHE=str(folder / "xet")
    )


def _walls(allowed: Allowed, scratch: Path) -> Walls:
    caches = list(_caches(allowed.cache or allowed.writes[0] / "cache", os.environ))
    for folder in (scratch, *caches, *allowed.writes):  # a rule holds for what is there
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    return Walls(
        reads=[*_system(os.environ), *_program(), *allowed.reads],
        writes=[*allowed.writes, *caches, scratch, Path("/dev/shm"), *_own_process()],
        devices=[Path(path) for form in DEVICES for path in glob(form)],
        lists=[PROGRAM, Path("/dev")],
        ports=() if allowed.is_offline else _hub_ports(os.environ),
    )


def _own_process() -> Iterator[Path]:
    """CUDA names its threads by files of its process, and starts on no GPU where it cannot open them."""
    if NVIDIA_CONTROL.exists():
        yield Path(f"/proc/{os.getpid()}")


def _limit(allowed: Allowed) -> None:
    """RLIMIT_NPROC counts all processes of the user, those of the service too: the container's limit bounds them."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, limit in ((resource.RLIMIT_FSIZE, allowed.file_bytes), (resource.RLIMIT_DATA, allowed.memory_bytes)):
        _, hard = resource.getrlimit(kind)
        if limit is not None and (hard == resource.RLIM_INFINITY or limit < hard):
            resource.setrlimit(kind, (limit, limit))


def _wake_gpu() -> None:
    """On a host that has just started CUDA makes this device by a program with root's rights, which is not to be had
    behind the walls."""
    if NVIDIA_CONTROL.exists() and not NVIDIA_MEMORY.exists():
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["nvidia-modprobe", "-u", "-c=0"], capture_output=True, timeout=30, check=False)


def _scratch(allowed: Allowed) -> Path:
    """The folder that the parent has made, else one in the first folder that this process may write to."""
    given = Path(os.environ.get("TMPDIR", ""))
    if given.name.startswith(SCRATCH_PREFIX):
        return given
    os.environ["TMPDIR"] = tempfile.tempdir = str(allowed.writes[0] / "tmp")
    return allowed.writes[0] / "tmp"


def _caches(cache: Path | None, environment: Mapping[str, str]) -> Iterator[Path]:
    """Tells libraries where their caches are, as far as nobody has, and yields the folders."""
    for variable, name in CACHE_VARIABLES.items():
        if cache is not None and name is not None:
            os.environ.setdefault(variable, str(cache / name))
        if variable in environment:
            yield Path(environment[variable])


def _system(environment: Mapping[str, str]) -> Iterator[Path]:
    yield from map(Path, SYSTEM)
    yield from (Path("/etc", name) for name in OF_ETC)
    named = (part for variable in PATH_VARIABLES for part in environment.get(variable, "").split(os.pathsep))
    yield from _unless_private(Path(part) for part in named if part)
    found = (shutil.which(name, path=environment.get("PATH")) for name in COMPILERS)
    yield from _unless_private(Path(program).resolve().parent.parent for program in found if program is not None)


def _program() -> Iterator[Path]:
    """Python, its packages, and of this program what it consists of."""
    yield from (Path(sys.prefix), Path(sys.base_prefix), PROGRAM / "app", PROGRAM / "worker")
    yield from _unless_private(Path(entry) for entry in sys.path if entry)


def _unless_private(folders: Iterable[Path]) -> Iterator[Path]:
    """Without folders of which the user's own files, or this program's state, may be a part."""
    private = {PROGRAM, *PROGRAM.parents, Path.cwd(), *Path.cwd().parents}
    with suppress(RuntimeError):
        private |= {Path.home(), *Path.home().parents}
    yield from (folder for folder in folders if folder.is_absolute() and folder.resolve() not in private)


def _hub_ports(environment: Mapping[str, str]) -> set[int]:
    named = (urlsplit(environment[name]) for name in PROXY_VARIABLES if name in environment)
    return {*HUB_PORTS, *(port for url in named if (port := url.port) is not None)}
