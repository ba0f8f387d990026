"""`python -m tests.support.make_dump FILE`: fill a database by this version's own processes, and write its rows.

It is run before a release. The tests of later versions in `tests/integration/upgrading` migrate what it wrote. FILE
gets the revision of the schema, every row, and every small text file that the rows need, without names of the machine.

    the service with the real trainer        a job that succeeded, with its adapter
    the service with the stand-in trainer    jobs that failed, were cancelled, are paused, wait for a GPU, and run
    SIGKILL of the whole service             so the running job is held by a worker that is gone
    the API alone                            a job and a temporary job that nobody has checked
"""

import json
import os
import signal
import socket
import sys
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, select

from app.config import Settings
from app.contracts.spec import JobSpec
from app.database.connection import Base, Database
from app.database.migrate import revision_of
from app.jobs.validating import Validations
from tests.e2e.stack import CHATS, MODEL, Stack, running
from tests.support.callers import ANYONE
from tests.support.checks import RecordingNotifier
from tests.support.hub import SHA, Hub
from tests.support.hub import running as serving_hub
from tests.support.jobs_api import an_api
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for

Body = dict[str, Any]
# What stands in a dump for the names of this machine.
HOME, HUB, HOST = "/home/tunesmith", "http://hub.example", "host"
KEY = "made-once"
FILES = (
    "installation",
    "files/*",
    "jobs/*/checkpoints/*/*",
    "adapters/*/*/adapter_config.json",
    "models/*/config.json",
)
MOST_FILE_BYTES = 4096
HUB_MODEL, HUB_TEXTS, HUB_CONTEXT = "org/model", "org/texts", 64
STAND_IN = {"TUNESMITH_TRAINER_MODULE": "tests.support.stand_in_trainer", "TUNESMITH_VERIFY": "off"}
QUICK = {"TUNESMITH_HEARTBEAT_SECONDS": "0.2", "TUNESMITH_GRACE_SECONDS": "2"}
LOCAL = {"model_name": MODEL, "max_seq_length": 256, "load_in_4bit": False}
# It saves a checkpoint of step 4, and stands still at step 6 in its first attempt.
STANDING = {"steps": "8", "save_every": "2", "at": "6", "does": "hangs"}
EVERY_GROUP: Body = {
    "name": "every-group",
    "project": "research",
    "labels": {"team": "a"},
    "priority": -5,
    "model": {
        "model_name": HUB_MODEL,
        "revision": "main",
        "max_seq_length": 128,
        "load_in_4bit": True,
        "dtype": "auto",
    },
    "lora": {
        "r": 8,
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "use_gradient_checkpointing": True,
        "random_state": 1,
        "use_rslora": True,
        "layers_to_transform": [0],
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"v_proj": 32},
    },
    "dataset": {
        "source": {"hub": HUB_TEXTS, "split": "train", "revision": SHA},
        "format": "text",
        "columns": {"text": "body"},
        "dataset_num_proc": 2,
        "eval_fraction": 0.25,
        "on_bad_row": "drop",
        "max_dropped_fraction": 0.2,
        "on_long_row": "drop",
    },
    "training": {
        "method": "cpt",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "warmup_ratio": 0.1,
        "num_train_epochs": 2,
        "learning_rate": 1e-4,
        "optim": "paged_adamw_8bit",
        "adam_beta2": 0.95,
        "weight_decay": 0,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "neftune_noise_alpha": 5,
        "seed": 1,
        "packing": True,
        "save_steps": 10,
        "save_total_limit": 3,
        "eval_steps": 5,
    },
    "resources": {"max_seconds": 3600},
}


def fill(home: Path) -> None:
    build_tiny_model(home / "models" / MODEL)
    with serving_hub(Hub(home / "hub")) as hub:
        add_to_hub(hub, home / "models" / MODEL)
        env = {**QUICK, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")}
        with running(home, env) as stack:
            file_id, adapter_id = train(stack)
        with running(home, {**env, **STAND_IN}) as stack:
            fill_queue(stack, file_id, adapter_id)
            kill(stack)
        (home / "run" / "url").write_text(hub.url)
    add_unchecked(home, file_id)


def add_to_hub(hub: Hub, model: Path) -> None:
    """The tiny model with a short context, so that the check scales its RoPE, and a data set of longer texts."""
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    config = {**json.loads(files["config.json"]), "max_position_embeddings": HUB_CONTEXT}
    hub.add("models", HUB_MODEL, {**files, "config.json": json.dumps(config).encode()})
    rows = [{"body": f"The house number {n} has many rooms. " * 8} for n in range(8)]
    hub.add("datasets", HUB_TEXTS, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})


def submit(stack: Stack, file_id: str, **groups: Any) -> str:
    training = {"max_steps": 8, "learning_rate": 0.02, "warmup_steps": 1}
    usual = {"model": LOCAL, "dataset": {"source": {"file": file_id}}, "training": training}
    answer = stack.api.post("/jobs", json={**usual, **groups})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def train(stack: Stack) -> tuple[str, str]:
    """Train a job with the real trainer. Returns the ids of the file and of the adapter."""
    file_id = stack.upload(CHATS)
    job = stack.wait(submit(stack, file_id, name="succeeded", lora={"r": 1}), "succeeded", "failed")
    assert job["status"] == "succeeded", job["error"]
    return file_id, str(job["adapter_id"])


def fill_queue(stack: Stack, file_id: str, adapter_id: str) -> None:
    stack.wait(submit(stack, file_id, name="failed", dataset={"source": {"hub": "org/gone"}}), "failed")

    paused = submit(stack, file_id, name="paused", labels={"steps": "8", "step_seconds": "0.4"})
    stack.wait_for_step(paused, 2)
    stack.api.post(f"/jobs/{paused}/pause")
    stack.wait(paused, "paused")

    cancelled = submit(stack, file_id, name="cancelled", labels=STANDING)
    stack.wait_for_step(cancelled, 6)
    stack.api.post(f"/jobs/{cancelled}/cancel")
    stack.wait(cancelled, "cancelled")

    stack.wait_for_step(submit(stack, file_id, name="running", labels=STANDING), 6)
    waiting: tuple[Body, ...] = (
        EVERY_GROUP,
        {"name": "of-an-adapter", "lora": {"r": 1}, "continue_from": {"adapter": adapter_id}},
        {"name": "of-a-checkpoint", "continue_from": {"job": cancelled, "step": 4}},
    )
    for groups in waiting:
        stack.wait(submit(stack, file_id, **groups), "queued")


def kill(stack: Stack) -> None:
    """Kill the worker, which would hand its job on where it is asked to stop, before the service starts another one."""
    stack.process.send_signal(signal.SIGSTOP)
    for pid in stack.processes("celery", "trainer0"):
        os.kill(pid, signal.SIGKILL)
    stack.process.kill()
    stack.process.wait()
    wait_for("nothing is left running", lambda: not stack.processes())


def add_unchecked(home: Path, file_id: str) -> None:
    settings = Settings(home=home)
    small = {"model": {"model_name": MODEL}, "dataset": {"source": {"file": file_id}}}
    with an_api(settings, settings.database) as api:
        answer = api.post("/jobs", json=small, headers={"Idempotency-Key": KEY})
        assert answer.status_code == 201, answer.text
    database = Database.open(settings.database)
    Validations(database, ANYONE, settings, RecordingNotifier()).start(JobSpec.model_validate(small), small)
    database.engine.dispose()


def rows_of(engine: Engine) -> dict[str, list[Body]]:
    """Every row by its table. Values that are null are left out."""
    found: dict[str, list[Body]] = {}
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            ordered = select(table).order_by(*table.primary_key)
            rows = connection.execute(ordered).mappings()
            found[table.name] = [{name: plain(row[name]) for name in row if row[name] is not None} for row in rows]
    return found


def plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def texts_of(home: Path) -> dict[str, str]:
    """The small text files below a home. A folder of which one file is none of them is left out as a whole."""
    texts = {path: text_of(path) for pattern in FILES for path in sorted(home.glob(pattern))}
    left_out = {path.parent for path, text in texts.items() if text is None}
    return {
        str(path.relative_to(home)): text
        for path, text in texts.items()
        if text is not None and path.parent not in left_out
    }


def text_of(path: Path) -> str | None:
    content = path.read_bytes() if path.is_file() else b"\0"
    try:
        return content.decode() if len(content) <= MOST_FILE_BYTES and b"\0" not in content else None
    except UnicodeDecodeError:
        return None


def dump(home: Path) -> str:
    """JSON with one row a line."""
    settings = Settings(home=home)
    database = Database.open(settings.database)
    tables = rows_of(database.engine)
    database.engine.dispose()
    written = [f"{json.dumps(name)}: [\n" + ",\n".join(map(compact, rows)) + "\n]" for name, rows in tables.items()]
    parts = {
        "revision": json.dumps(revision_of(settings.database)),
        "home": compact(texts_of(home)),
        "tables": "{\n" + ",\n".join(written) + "\n}",
    }
    text = "{\n" + ",\n".join(f'"{name}": {part}' for name, part in parts.items()) + "\n}\n"
    names = {str(home): HOME, (home / "run" / "url").read_text(): HUB, socket.gethostname(): HOST}
    for name, neutral in names.items():
        text = text.replace(name, neutral)
    return text


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # the stand-in trainer is in no package
    with TemporaryDirectory() as folder:
        home = Path(folder).resolve() / "home"
        fill(home)
        Path(sys.argv[1]).write_text(dump(home))


if __name__ == "__main__":
    main()
