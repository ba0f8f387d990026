"""Restricts the files and ports that a process may open, through the kernel's Landlock (`man 7 landlock`).

The restriction holds for this process and all that it starts, and cannot be lifted. What a child of this service needs
is not decided here but in `worker.confinement.process`.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from stat import S_ISDIR

# linux/landlock.h, asm-generic/unistd.h and linux/prctl.h
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2
CREATE_RULESET_VERSION = 1
PR_SET_NO_NEW_PRIVS = 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
MAKE_SOCK, MAKE_FIFO, MAKE_SYM, REFER = 1 << 9, 1 << 10, 1 << 12, 1 << 13
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
ALL_NET, ALL_SCOPES = 0b11, 0b11
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
LIST = READ_DIR
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
WRITE = (
    READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER
    | TRUNCATE
)  # fmt: skip
DEVICE = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV
# linux/capability.h: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, and CAP_IPC_LOCK, which
# drivers need to pin memory.
CAPABILITY_VERSION_3 = 0x20080522
KEPT_CAPABILITIES = 0b11111 | 1 << 14
LIBC = ctypes.CDLL(None, use_errno=True)
# Before version 2, a restricted process cannot rename or link a file from one folder into another.
LEAST_ABI = 2


@dataclass(frozen=True)
class AccessRules:
    """What a process may still open. A folder includes everything below it; paths that do not exist are ignored.

    `lists`: folders whose names may be listed but whose files may not be read. `ports`: TCP ports to which it may
    connect, on any host; None: all. `binds`: TCP ports that it may listen on; 0 is one that the kernel chooses.
    """

    reads: Iterable[Path] = ()
    writes: Iterable[Path] = ()
    devices: Iterable[Path] = ()
    lists: Iterable[Path] = ()
    ports: Iterable[int] | None = ()
    binds: Iterable[int] = ()


def drop_capabilities() -> None:
    """Keep only those of root's capabilities that concern files' owners and modes, and CAP_IPC_LOCK.

    Landlock does not replace this: with CAP_PERFMON, for example, a process can read the environment of every other
    process. For other users than root this changes nothing. Raises OSError.
    """
    header, size = struct.pack("=II", CAPABILITY_VERSION_3, 0), struct.calcsize("=6I")
    sets = ctypes.create_string_buffer(size)
    if LIBC.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    low = [value & KEPT_CAPABILITIES for value in struct.unpack("=6I", sets.raw)[:3]]
    if LIBC.capset(header, struct.pack("=6I", *low, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@cache
def abi() -> int:
    """The version of the kernel's Landlock. Returns 0 if it has none, or one that is too old."""
    version = LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(CREATE_RULESET_VERSION))
    return version if version >= LEAST_ABI else 0


def restrict(rules: AccessRules) -> None:
    """Apply the restriction. Without Landlock it only prevents programs from gaining rights (PR_SET_NO_NEW_PRIVS).

    Raises OSError, and RuntimeError in a process with several threads, since the other threads would stay unrestricted.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"a process has to be confined before it starts threads, and it has {threads}")
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if abi() == 0:
        return
    handled = _handled(abi(), rules)
    ruleset = _call(CREATE_RULESET, handled.pack(abi()), ctypes.c_size_t(len(handled.pack(abi()))))
    try:
        _open_paths(ruleset, rules, handled.files)
        if handled.ports:
            _open_ports(ruleset, rules.ports or (), CONNECT_TCP)
            _open_ports(ruleset, rules.binds, BIND_TCP)
        _call(RESTRICT_SELF, ruleset)
    finally:
        os.close(ruleset)


@dataclass(frozen=True)
class _Handled:
    """What is forbidden unless a rule allows it: access to files, to ports, and to processes outside."""

    files: int
    ports: int
    scopes: int

    def pack(self, version: int) -> bytes:
        """`struct landlock_ruleset_attr`, with the fields that this version has."""
        size = 8 if version < 4 else 16 if version < 6 else 24
        return struct.pack("=QQQ", self.files, self.ports, self.scopes)[:size]


def _handled(version: int, rules: AccessRules) -> _Handled:
    newest = {2: REFER, 3: TRUNCATE, 4: TRUNCATE}.get(version, IOCTL_DEV)
    return _Handled(
        files=newest * 2 - 1,
        ports=ALL_NET if version >= 4 and rules.ports is not None else 0,
        scopes=ALL_SCOPES if version >= 6 else 0,
    )


def _open_paths(ruleset: int, rules: AccessRules, handled: int) -> None:
    kinds = ((rules.reads, READ), (rules.writes, WRITE), (rules.devices, DEVICE), (rules.lists, LIST))
    for paths, rights in kinds:
        for path in paths:
            with suppress(FileNotFoundError, PermissionError, NotADirectoryError):
                _open_path(ruleset, path, rights & handled)


def _open_ports(ruleset: int, ports: Iterable[int], right: int) -> None:
    for port in ports:
        _call(ADD_RULE, ruleset, RULE_NET_PORT, struct.pack("=QQ", right, port))


def _open_path(ruleset: int, path: Path, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        is_folder = S_ISDIR(os.fstat(handle).st_mode)
        rule = struct.pack("=Qi", rights if is_folder else rights & OF_FILES, handle)
        _call(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule)
    finally:
        os.close(handle)


def _call(number: int, *arguments: int | bytes | ctypes.c_size_t) -> int:
    """Make a Landlock system call. The last argument of each is `flags`, always 0 here. Raises OSError."""
    result = LIBC.syscall(number, *arguments, ctypes.c_uint32(0))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock system call {number} failed: {os.strerror(code)}")
    return int(result)
