"""Tells the trackers of a job the points of its metrics, through transformers' own callbacks.

They are not callbacks of the trainer: they are told what the events say, so that both have the same numbers, and when
the events do, so that they never make a step wait for the GPU. A tracker that fails is left out from then on, with a
notice: what a training learns does not depend on it.
"""

import copy
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from app.contracts.events import ArtifactSaved
from app.contracts.order import TrainingOrder
from app.hashing import hash_folder
from worker.events import EventWriter

KIND = "tracking"
MLFLOW_RUN = "mlflow-run-id"
# A server that does not answer may hold up the end of a training for so long.
CLOSING_SECONDS = 120.0
# Written beside the data of a run, and of no use to whoever downloads it.
LEFT_OUT = ("*.log", "*.lock", MLFLOW_RUN)


log = logging.getLogger(__name__)


class Trackers:
    """The trackers of one attempt. All attempts of a job write to one folder, and go on with the same runs."""

    def __init__(self, order: TrainingOrder, events: EventWriter) -> None:
        self._order, self._events = order, events
        self._callbacks: dict[str, Any] = {}
        self._args: Any = None
        self._state: TrainerState | None = None

    def begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Begin the runs, or go on with those of earlier attempts."""
        names, folder = self._order.spec.training.report_to, self._order.tracking
        if not names or folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(variables(self._order, folder))  # before the libraries are imported
        self._args, self._state, self._control = _shown(args, self._order), state, control
        for name in names:
            self._call(name, partial(self._open, name))
        self._remember_run(folder)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Tell all trackers the values of a step, without those that are not known."""
        state = copy.copy(self._state)
        if state is None:
            return
        state.global_step = step
        known = {name: value for name, value in values.items() if value is not None}
        for name, callback in [*self._callbacks.items()]:
            self._call(name, partial(callback.on_log, self._args, state, self._control, logs={**known}))

    def close(self) -> None:
        """End the runs."""
        for name, callback in [*self._callbacks.items()]:
            self._call(name, partial(_in_time, partial(self._end, name, callback)))
        self._callbacks.clear()

    def _end(self, name: str, callback: Any) -> None:
        callback.on_train_end(self._args, self._state, self._control)
        if name == "wandb":  # transformers leaves that to the end of the process
            import wandb

            wandb.finish()

    def publish(self) -> None:
        """End the runs, and report their files as an artifact of the job."""
        self.close()
        folder = self._order.tracking
        saved = artifact_of(folder) if folder is not None and folder.is_dir() else None
        if saved is not None:
            self._events.write(saved)

    def _open(self, name: str) -> None:
        from transformers.integrations import get_reporting_integration_callbacks

        (made,) = (kind() for kind in get_reporting_integration_callbacks([name]))
        made.on_train_begin(self._args, self._state, self._control, model=_JobShown(self._order))
        self._callbacks[name] = made

    def _remember_run(self, folder: Path) -> None:
        """MLflow names a run by itself. The next attempt goes on with it."""
        if "mlflow" in self._callbacks:
            import mlflow

            run = mlflow.active_run()
            if run is not None:
                (folder / MLFLOW_RUN).write_text(run.info.run_id)

    def _call(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self._callbacks.pop(name, None)
            log.exception("the tracker %s failed", name)
            message = f"{name} failed ({type(error).__name__}) and is told nothing more; the job's log has the trace"
            self._events.notice("tracker_failed", message, field="training.report_to", requested=name)


def variables(order: TrainingOrder, folder: Path) -> dict[str, str]:
    """The environment variables that say where trackers write. They keep what is known of the host out of the files."""
    training, scratch = order.spec.training, order.work_dir / "trackers"
    urls, project = training.tracker_urls, order.spec.project
    run = folder / MLFLOW_RUN
    return {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "TRACKIO_DIR": str(folder / "trackio"),
        "WANDB_DIR": str(folder),
        **{f"WANDB_{name}_DIR": str(scratch) for name in ("CONFIG", "CACHE", "DATA")},
        "WANDB_MODE": "online" if "wandb" in urls else "offline",
        **({"WANDB_BASE_URL": urls["wandb"]} if "wandb" in urls else {}),
        "WANDB_PROJECT": project,
        "WANDB_RUN_ID": order.job_id.removeprefix("job-"),
        "WANDB_RESUME": "allow",
        "WANDB_INIT_TIMEOUT": "30",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_X_SAVE_REQUIREMENTS": "false",
        **{f"WANDB_X_DISABLE_{what}": "true" for what in ("META", "STATS", "MACHINE_INFO")},
        "MLFLOW_TRACKING_URI": urls.get("mlflow") or (folder / "mlruns").as_uri(),
        "MLFLOW_EXPERIMENT_NAME": project,
        **({"MLFLOW_RUN_ID": run.read_text()} if run.exists() else {}),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }


def artifact_of(folder: Path) -> ArtifactSaved | None:
    """Describe the files of all trackers, after links and logs were removed. None: there are no files."""
    for path in [*folder.rglob("*")]:
        if path.is_symlink() or any(path.match(form) for form in LEFT_OUT):
            path.unlink()
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not files:
        return None
    return ArtifactSaved(
        artifact_kind=KIND,
        name=KIND,
        path=str(folder),
        sha256=hash_folder(folder),
        bytes=sum(path.stat().st_size for path in files),
    )


class _JobShown:
    """Given to the trackers in place of the model: they show what its `config` has, here the spec of the job.

    The model's own config names folders of this host.
    """

    def __init__(self, order: TrainingOrder) -> None:
        self._spec = order.spec.model_dump(mode="json", include={"model", "lora", "dataset", "resources"})
        self.config = self

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self._spec)

    def to_json_string(self) -> str:
        return json.dumps(self._spec, indent=2)


def _shown(args: TrainingArguments, order: TrainingOrder) -> Any:
    """The trainer's arguments as the trackers show them: without folders of this host, and with no hub."""
    training, shown = order.spec.training, copy.copy(args)
    shown.output_dir, shown.report_to = training.output_dir, [*training.report_to]
    shown.run_name, shown.project = training.run_name or order.job_id, order.spec.project
    shown.trackio_space_id = shown.trackio_bucket_id = shown.trackio_static_space_id = None
    return shown


def _in_time(act: Callable[[], object]) -> None:
    """Raises TimeoutError if it takes too long, and what it raises itself."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001  it is raised in the thread that waits
            raised.append(error)

    own = copy_context()  # trackio keeps its run in a context variable
    thread = threading.Thread(target=own.run, args=(run,), name="trackers", daemon=True)
    thread.start()
    thread.join(CLOSING_SECONDS)
    if thread.is_alive():
        raise TimeoutError
    if raised:
        raise raised[0]
