"""The walls around a child, in real processes: what is not its job's stays closed, whatever runs in it."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import SourcesChecked
from app.contracts.order import BaseRef, CheckOrder, TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.spec import JobSpec
from tests.support.prepared_rows import a_check, a_training, run_cold
from tests.support.specs import a_body, a_spec
from tests.support.tiny_model import build_tiny_model
from worker.confinement import landlock

pytestmark = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
ROW = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
# Tries each of its arguments behind the walls of an order, and prints what the kernel says: 0 or an error's number.
CHILD = """
import json, os, socket, subprocess, sys
from app.contracts.order import {order}
from worker.confinement.allowed import {of}
from worker.confinement.process import confine
confine({of}({order}.model_validate_json(open(sys.argv[1]).read())))
def tried(kind, what):
    try:
        if kind == "read": open(what, "rb").read()
        elif kind == "list": os.listdir(what)
        elif kind == "write": open(what, "ab").write(b"x")
        elif kind == "connect": socket.create_connection(("127.0.0.1", int(what))).close()
        elif kind == "signal": os.kill(int(what), 0)
        elif kind == "run": return subprocess.run(["cat", what], capture_output=True).returncode
    except OSError as error:
        return error.errno
    return 0
print(json.dumps([tried(*each) for each in json.loads(sys.argv[2])]))
"""
Tries = list[tuple[str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home as `tunesmith up` leaves it, with the files of two jobs."""
    files = [
        "tunesmith.db", "run/up.lock", "logs/api.log", "files/file-mine", "files/file-other", "models/mine/config.json",
        "models/other/config.json", "cache/prepared/k/train.arrow", "jobs/mine/data/train.arrow",
        "jobs/other/data/train.arrow", "jobs/mine/attempts/1/order.json", "jobs/mine/checkpoints/step-1/x",
        "adapters/a/v/x",
    ]  # fmt: skip
    for name in files:
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "home"


def trainings_order(home: Path) -> TrainingOrder:
    job = home / "jobs" / "mine"
    rows = {"train_rows": job / "data" / "train.arrow", "tokenizer": job / "data" / "tokenizer"}
    places = {**rows, "checkpoints": job / "checkpoints", "cache_dir": home / "cache"}
    base = BaseRef(source=str(home / "models" / "mine"), is_local=True)
    return a_training(job / "attempts" / "1", a_spec(), base, **places)


def checks_order(home: Path) -> CheckOrder:
    spec = JobSpec.model_validate(a_body())
    job = home / "jobs" / "mine"
    base = BaseRef(source=str(home / "models" / "mine"), is_local=True)
    order = a_check(job, spec, base, home / "files" / "file-mine")
    return order.model_copy(update={"cache_dir": home / "cache", "events": job / "attempts" / "1" / "events.jsonl"})


def tried(order: CheckOrder | TrainingOrder, home: Path, tries: Tries, **env: str) -> list[int]:
    kind = "CheckOrder" if isinstance(order, CheckOrder) else "TrainingOrder"
    code = CHILD.format(order=kind, of="of_check" if kind == "CheckOrder" else "of_training")
    path = home / "jobs" / "mine" / "attempts" / "1" / "order.json"
    path.write_text(order.model_dump_json())
    argv = [sys.executable, "-c", code, str(path), json.dumps(tries)]
    done = subprocess.run(argv, env={**os.environ, **env}, cwd=path.parent, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


CLOSED: list[tuple[str, str]] = [
    ("read", "tunesmith.db"), ("write", "tunesmith.db"), ("read", "files/file-other"),
    ("read", "jobs/other/data/train.arrow"), ("list", "jobs"), ("list", "."), ("write", "new"), ("read", "run/up.lock"),
    ("read", "logs/api.log"), ("list", "files"),
    ("write", "models/mine/config.json"), ("read", "models/other/config.json"), ("read", "adapters/a/v/x"),
    ("run", "tunesmith.db"), ("write", "jobs/new"),
]  # fmt: skip
OPEN: list[tuple[str, str]] = [
    ("read", "models/mine/config.json"), ("read", "jobs/mine/data/train.arrow"), ("write", "jobs/mine/attempts/1/new"),
    ("run", "models/mine/config.json"),
]  # fmt: skip


@pytest.mark.parametrize("make", [trainings_order, checks_order])
def test_a_child_opens_what_is_its_jobs_and_nothing_else(home: Path, make: Callable[[Path], Any]) -> None:
    def inside(tries: Tries) -> Tries:
        return [(kind, str(home / name)) for kind, name in tries]

    found = tried(make(home), home, [*inside(CLOSED), *inside(OPEN)])

    assert all(found[: len(CLOSED)]), [*zip(CLOSED, found, strict=False)]
    assert found[len(CLOSED) :] == [0] * len(OPEN)


@pytest.mark.parametrize("make", [trainings_order, checks_order])
def test_nothing_of_the_user_or_the_system_is_open(home: Path, make: Callable[[Path], Any]) -> None:
    user = home.parent / "user"
    for name in (".ssh/id_rsa", ".config/gcloud/credentials.db", ".netrc"):
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_text("secret")
    closed = [("read", str(user / ".ssh/id_rsa")), ("list", str(user)), ("read", "/etc/shadow"), ("write", "/etc/x")]
    closed += [("signal", str(os.getpid())), ("connect", "9"), ("read", f"/proc/{os.getpid()}/environ")]

    found = tried(make(home), home, closed, HOME=str(user))

    assert all(found), [*zip(closed, found, strict=True)]


def test_a_compiler_that_a_variable_names_is_readable_with_its_headers(home: Path) -> None:
    """Triton compiles with it. It may be a script, or a link to a program elsewhere."""
    folder, real = home.parent / "compiler", home.parent / "real"
    for header in (folder / "include" / "math.h", real / "include" / "math.h"):
        header.parent.mkdir(parents=True)
        header.write_text("x")
    (real / "bin").mkdir()
    (folder / "bin").mkdir()
    (real / "bin" / "gcc-13").write_text("#!/bin/sh")
    (real / "bin" / "gcc-13").chmod(0o755)
    (folder / "bin" / "gcc").symlink_to(real / "bin" / "gcc-13")
    headers: Tries = [("read", str(path / "include" / "math.h")) for path in (folder, real)]

    assert all(tried(trainings_order(home), home, headers))
    assert tried(trainings_order(home), home, headers, CC=str(folder / "bin" / "gcc")) == [0, 0]


def test_a_check_reads_its_own_upload_and_a_training_none(home: Path) -> None:
    upload: Tries = [("read", str(home / "files" / "file-mine"))]

    assert tried(checks_order(home), home, upload) == [0]
    assert tried(trainings_order(home), home, upload) != [0]


def test_a_training_reaches_the_ports_of_its_trackers_and_no_others(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tracker, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [str(one.getsockname()[1]) for one in (tracker, other)]
        url = f"http://127.0.0.1:{ports[0]}"
        spec = a_spec(training={"report_to": "mlflow", "tracker_urls": {"mlflow": url}})
        order = trainings_order(home)
        tracked = order.model_copy(update={"spec": plan_of(spec), "tracking": home / "jobs" / "mine" / "tracking"})
        tries = [("connect", port) for port in ports]

        assert tried(order, home, tries) == [errno.EACCES] * 2
        assert tried(tracked, home, [*tries, ("write", str(home / "jobs" / "mine" / "tracking" / "new"))]) == [
            0,
            errno.EACCES,
            0,
        ]


def test_the_operator_may_take_the_walls_down(home: Path) -> None:
    order = trainings_order(home).model_copy(update={"is_confined": False})

    assert tried(order, home, [("read", str(home / "tunesmith.db"))]) == [0]


def test_walls_that_come_too_late_are_refused() -> None:
    code = (
        "import threading, time\nfrom worker.confinement.landlock import AccessRules, restrict\n"
        "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\nrestrict(AccessRules())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "before it starts threads" in done.stderr


def test_a_check_goes_through_behind_its_walls(tmp_path: Path) -> None:
    base, source = build_tiny_model(tmp_path / "models" / "tiny"), tmp_path / "files" / "file-x"
    source.parent.mkdir()
    source.write_text(json.dumps(ROW) + "\n")
    spec = JobSpec.model_validate(
        a_body(model={"model_name": "tiny", "max_seq_length": 128, "chat_template": "chatml"})
    )
    job = tmp_path / "jobs" / "x"
    (job / "attempts").mkdir(parents=True)
    order = a_check(job, spec, BaseRef(source=str(base), is_local=True), source)
    order = order.model_copy(update={"cache_dir": tmp_path / "cache", "events": job / "attempts" / "events.jsonl"})

    events = run_cold(order)

    assert isinstance(events[-1], SourcesChecked), events
