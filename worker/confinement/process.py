"""Confines a child process that reads untrusted files to the folders of its order, the hub's ports and some memory.

The child may also read the system, Python, its packages and this program, and use a GPU. It can open neither the
database, nor another job's files, nor anything else in its user's home folder. `confine` must be called while the
process has one thread and before it imports a library that reads untrusted files.
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
from worker.confinement.landlock import AccessRules

# Programs, libraries and the system files that they read. No user's private folder is below these.
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
# These may name programs and libraries that the operator has installed elsewhere.
PATH_VARIABLES = (
    "PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH",
    "CUDA_HOME", "CUDA_PATH",
)  # fmt: skip
# Triton and torch compile with what these variables name, or with the first of these programs in PATH. A compiler may
# be installed elsewhere, and may be a link or a script; its headers and libraries are then in its folder's parent.
COMPILER_VARIABLES, COMPILERS = ("CC", "CXX"), ("gcc", "g++", "cc", "c++", "clang")
# Environment variables that name the folders where libraries keep compiled code, and our names of those folders.
CACHE_VARIABLES = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "PYTORCH_KERNEL_CACHE_PATH": "kernels",
    "UNSLOTH_COMPILE_LOCATION": "unsloth",
}
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy", "HF_ENDPOINT")
HUB_PORTS = (80, 443, 53)
# The first and the last of the ports that the kernel chooses (`man 7 ip`). Databases and the like listen on others.
CHOSEN_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
NVIDIA_CONTROL, NVIDIA_MEMORY = Path("/dev/nvidiactl"), Path("/dev/nvidia-uvm")
SCRATCH_PREFIX = "tunesmith-"
PROGRAM = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Allowed:
    """What one child may use.

    `reads`, `writes`: folders and files; the first of `writes` must be a folder that belongs to this child alone.
    `is_offline`: no connections but to `ports`. `has_ranks`: and those between processes, on ports that the kernel
    chooses.
    `is_confined`: whether the kernel enforces the paths and ports. `memory_bytes`: a limit for the process's data
    (RLIMIT_DATA); None: no limit. `file_bytes`: a limit for each file that it writes.
    """

    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    is_offline: bool
    is_confined: bool
    memory_bytes: int | None
    file_bytes: int
    has_ranks: bool = False
    ports: tuple[int, ...] = ()


def confine(allowed: Allowed) -> None:
    """Restrict this process, and every process that it starts, to what is allowed. This cannot be undone.

    Raises OSError if the kernel refuses, and RuntimeError if the process already has several threads.
    """
    _limit(allowed)
    _wake_gpu()
    rules = _access_rules(allowed, _scratch(allowed))
    if allowed.is_confined:
        landlock.drop_capabilities()
        landlock.restrict(rules)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for a child's TMPDIR and remove it at the end, however the child ended.

    Its path is short because libraries create sockets there, and a socket's path must fit in 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def go_offline(folder: Path) -> None:
    """Make the hub's client of this process use no network and no token, and a cache inside `folder`.

    Call this before the client is imported.
    """
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(
        HF_HUB_OFFLINE="1", HF_HOME=str(folder), HF_HUB_CACHE=str(_hub(folder)), HF_XET_CACHE=str(folder / "xet")
    )


def link_repository(folder: Path, repository: Path | None) -> None:
    """Let the hub's cache inside `folder` link to a folder of the host's hub cache, which is only read. None: to
    nothing.
    """
    _hub(folder).mkdir(parents=True, exist_ok=True)
    if repository is not None:
        (_hub(folder) / repository.name).unlink(missing_ok=True)
        (_hub(folder) / repository.name).symlink_to(repository)


def _hub(folder: Path) -> Path:
    return folder / "hub"


def _access_rules(allowed: Allowed, scratch: Path) -> AccessRules:
    caches = list(_caches(scratch, os.environ))
    for folder in (scratch, *caches, *allowed.writes):  # Landlock has rules for existing paths only
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    return AccessRules(
        reads=[*_system(os.environ), *_program(), *allowed.reads],
        writes=[*allowed.writes, *caches, scratch, Path("/dev/shm"), *_own_process()],
        devices=[Path(path) for form in DEVICES for path in glob(form)],
        lists=[PROGRAM, Path("/dev")],
        ports=_ports(allowed),
        binds=(0,) if allowed.has_ranks else (),
    )


def _own_process() -> Iterator[Path]:
    """CUDA writes thread names to /proc/<pid> and does not start if it cannot."""
    if NVIDIA_CONTROL.exists():
        yield Path(f"/proc/{os.getpid()}")


def _limit(allowed: Allowed) -> None:
    """Sets no RLIMIT_NPROC, which would also count the service's processes: the container limits their number."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, limit in ((resource.RLIMIT_FSIZE, allowed.file_bytes), (resource.RLIMIT_DATA, allowed.memory_bytes)):
        _, hard = resource.getrlimit(kind)
        if limit is not None and (hard == resource.RLIM_INFINITY or limit < hard):
            resource.setrlimit(kind, (limit, limit))


def _wake_gpu() -> None:
    """Create CUDA's memory device if it does not exist yet: CUDA does it with a set-user-ID program, which cannot gain
    root's rights once this process is confined."""
    if NVIDIA_CONTROL.exists() and not NVIDIA_MEMORY.exists():
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["nvidia-modprobe", "-u", "-c=0"], capture_output=True, timeout=30, check=False)


def _scratch(allowed: Allowed) -> Path:
    """The temporary folder that the parent made, or else one in the first folder of `writes`."""
    given = Path(os.environ.get("TMPDIR", ""))
    if given.name.startswith(SCRATCH_PREFIX):
        return given
    os.environ["TMPDIR"] = tempfile.tempdir = str(allowed.writes[0] / "tmp")
    return allowed.writes[0] / "tmp"


def _caches(scratch: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folders of compiled code. Those that the parent did not name are in `scratch`, for this child alone."""
    for variable, name in CACHE_VARIABLES.items():
        os.environ.setdefault(variable, str(scratch / name))
        yield Path(environment[variable])


def _system(environment: Mapping[str, str]) -> Iterator[Path]:
    yield from map(Path, SYSTEM)
    yield from (Path("/etc", name) for name in OF_ETC)
    named = (part for variable in PATH_VARIABLES for part in environment.get(variable, "").split(os.pathsep))
    yield from _unless_private(Path(part) for part in named if part)
    names = (*filter(None, map(environment.get, COMPILER_VARIABLES)), *COMPILERS)
    found = (shutil.which(name, path=environment.get("PATH")) for name in names)
    programs = [Path(program) for program in found if program is not None]
    yield from _unless_private(path.parent.parent for one in programs for path in (one, one.resolve()))


def _program() -> Iterator[Path]:
    """Python, its packages and this program's source folders."""
    yield from (Path(sys.prefix), Path(sys.base_prefix), PROGRAM / "app", PROGRAM / "worker")
    yield from _unless_private(Path(entry) for entry in sys.path if entry)


def _unless_private(folders: Iterable[Path]) -> Iterator[Path]:
    """Leave out folders that may contain the user's own files or this program's data."""
    private = {PROGRAM, *PROGRAM.parents, Path.cwd(), *Path.cwd().parents}
    with suppress(RuntimeError):
        private |= {Path.home(), *Path.home().parents}
    yield from (folder for folder in folders if folder.is_absolute() and folder.resolve() not in private)


def _ports(allowed: Allowed) -> Iterable[int]:
    if allowed.has_ranks:
        first, last = map(int, CHOSEN_PORTS.read_text().split())
        return {*range(first, last + 1), *allowed.ports}
    return allowed.ports if allowed.is_offline else _hub_ports(os.environ)


def _hub_ports(environment: Mapping[str, str]) -> set[int]:
    named = (urlsplit(environment[name]) for name in PROXY_VARIABLES if name in environment)
    return {*HUB_PORTS, *(port for url in named if (port := url.port) is not None)}
