"""Recording a run in MLflow, without ever letting a tracking server stop or slow a training.

Nothing that names a person or a machine is written: no user, no host, no folder. MLflow's own usage reports are
switched off.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from ignite.engine import Engine, Events

from prsmed.data.writers import write_picture
from prsmed.errors import DataError, PrsmedError

# No usage reports, nothing printed, and a dead server costs seconds instead of minutes. Set before mlflow is imported,
# where MONAI has not done so already; mlflow reads them again at every use.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils import validation as limits

logger = logging.getLogger(__name__)
for _name in ("alembic", "mlflow", "sqlalchemy"):
    logging.getLogger(_name).setLevel(logging.WARNING)
# It warns at every retry; the one warning about a dead server is ours.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

_RETRY_AFTER_S = 60.0
# A server that lets every attempt run into its timeout is asked so rarely that waiting stays under 5 % of the time.
_RETRY_AFTER_TIMES = 20.0


def default_tracking_uri(folder: str | Path) -> str:
    """The SQLite store `mlruns.db` in a folder, as a tracking URI; a run's files go into `mlruns` beside it."""
    path = (Path(folder) / "mlruns.db").absolute().as_posix()
    # Only what would end the path or be decoded: SQLAlchemy below 2.1 decodes nothing, so spaces stay spaces.
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


class Tracker:
    """One run in one MLflow store. Connects at first use; no method raises.

    Without `run_id` a new run is made, whatever runs of that name exist; with it that run goes on, or a new one is
    made where the store does not have it. While the store does not answer, what should be logged is dropped: one
    warning says so, and it is tried again once a minute at most.

    Args:
        tracking_uri: a store, for example `sqlite:///` and a path, or `https://` and a server; None takes the
            environment's MLFLOW_TRACKING_URI, and without it the SQLite store of the working directory.
        experiment: made where missing.
        run_name: shown in the list of runs.
        run_id: a run to go on with.
        tags: set when the run starts, for example `mlflow.parentRunId`, `mlflow.source.git.commit`.
        enabled: False makes every method do nothing; on several ranks only rank 0 logs.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        *,
        experiment: str = "prsmed",
        run_name: str,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ) -> None:
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(".")
        self.experiment = experiment
        self.run_name = run_name
        self.enabled = enabled
        self._run_id = run_id
        self._tags = dict(tags or {})
        self._database = _sqlite_file(self.tracking_uri)
        self._client: MlflowClient | None = None
        self._answers = True
        self._retry_at_s = 0.0
        self._refused: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """The run's id, for a checkpoint or a linked run; None where nothing was ever logged in it."""
        self._send("the run", lambda client, run_id: None)
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, nested ones under dotted names.

        MLflow never changes a parameter. One that differs in a resumed run is recorded as the tag `changed.<name>`.
        """
        flat = {_clean_name(name): _shown(value) for name, value in _flattened(params)}
        flat = {name: value[: limits.MAX_PARAM_VAL_LENGTH] for name, value in flat.items()}

        def send(client: MlflowClient, run_id: str) -> None:
            known = client.get_run(run_id).data.params
            added = [Param(name, value) for name, value in flat.items() if name not in known]
            changed = {name: value for name, value in flat.items() if known.get(name, value) != value}
            tags = _tags({f"changed.{name}": value for name, value in changed.items()})
            client.log_batch(run_id, params=added, tags=tags)

        self._send("parameters", send)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log numbers under names such as `val/x-ray/dice`; characters MLflow forbids become `_`.

        None and what is not one number are left out. NaN is kept: a loss that diverged should be seen, and a score
        of a group without cases is not zero.
        """
        now_ms = int(time.time() * 1000)
        batch = []
        for name, value in metrics.items():
            number = _as_number(value)
            if number is None:
                logger.debug("metric %s left out: %s is not one number", name, type(value).__name__)
            else:
                batch.append(Metric(_clean_name(name), number, now_ms, int(step)))
        if batch:
            self._send("metrics", lambda client, run_id: client.log_batch(run_id, metrics=batch))

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file into the run, into a folder of the run where one is named."""

        def send(client: MlflowClient, run_id: str) -> None:
            if not Path(path).is_file():
                raise DataError(f"{path}: no such file")
            client.log_artifact(run_id, str(path), folder)

        self._send("a file", send)

    def log_text(self, text: str, name: str) -> None:
        """Store a text in the run as the file `name`, for example `config/train.json`."""
        self._send("a text", lambda client, run_id: client.log_text(run_id, text, name))

    def log_picture(self, picture: np.ndarray, name: str) -> None:
        """Store a uint8 picture, (H, W) or (H, W, 3), in the run as the PNG `name`, for example `overlays/mri.png`."""
        target = PurePosixPath(name)

        def send(client: MlflowClient, run_id: str) -> None:
            with tempfile.TemporaryDirectory() as folder:
                write_picture(Path(folder) / target.name, picture)
                parent = None if target.parent == PurePosixPath() else str(target.parent)
                client.log_artifact(run_id, f"{folder}/{target.name}", parent)

        self._send("a picture", send)

    def log_dataset(self, name: str, fingerprint: str, count: int) -> None:
        """Name a data set that the run uses: MLflow shows it in the run's list of datasets.

        Args:
            name: for example "train".
            fingerprint: a hash of its manifest; MLflow's digest takes the first 36 characters, its profile all.
            count: how many cases it has.
        """
        dataset = Dataset(
            name=name,
            digest=fingerprint[: limits.MAX_DATASET_DIGEST_SIZE],
            source_type="manifest",
            source=json.dumps({"manifest": name}),
            profile=json.dumps({"cases": int(count), "fingerprint": fingerprint}),
        )
        self._send("a dataset", lambda client, run_id: client.log_inputs(run_id, [DatasetInput(dataset)]))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run; a tag that exists is replaced."""
        self._send("tags", lambda client, run_id: client.log_batch(run_id, tags=_tags(tags)))

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Close the run; one that never came about needs no closing."""
        if self._client is not None:
            self._send("the end", lambda client, run_id: client.set_terminated(run_id, status), at_once=True)

    def _send(self, what: str, action: Callable[[MlflowClient, str], Any], *, at_once: bool = False) -> None:
        """Do one thing with the store, guarded. `at_once` asks even a store that did not answer a moment ago."""
        started_s = time.monotonic()
        if not self.enabled or (started_s < self._retry_at_s and not at_once):
            return
        try:
            if self._client is None:
                self._connect()
            assert self._client is not None and self._run_id is not None
            action(self._client, self._run_id)
        except Exception as error:
            if self._client is not None and _is_refusal(error):
                self._warn_of_refusal(what, error)
            else:
                self._pause(error, time.monotonic() - started_s)
        else:
            if not self._answers:
                logger.info("MLflow at %s answers again; logging goes on", _without_password(self.tracking_uri))
            self._answers = True

    def _connect(self) -> None:
        if self._database is not None:
            _open_once(self._database)
        client = MlflowClient(tracking_uri=self.tracking_uri)
        run = _existing_run(client, self._run_id) if self._run_id else None
        if run is not None:
            client.update_run(run.info.run_id, status="RUNNING")
            client.log_batch(run.info.run_id, tags=_tags(self._tags))
        else:
            if self._run_id:
                logger.warning("MLflow has no run %s; a new run is made", self._run_id)
            tags = {tag.key: tag.value for tag in _tags(self._tags)}
            run = client.create_run(self._experiment_id(client), tags=tags, run_name=self.run_name)
        self._run_id = run.info.run_id
        self._client = client

    def _experiment_id(self, client: MlflowClient) -> str:
        # Beside a SQLite store, for which MLflow would else choose the working directory; a server knows itself.
        location = (self._database.parent / "mlruns").as_uri() if self._database is not None else None
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return client.create_experiment(self.experiment, location)
            except MlflowException:  # another process made it a moment ago
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return found.experiment_id

    def _pause(self, error: Exception, lost_s: float) -> None:
        self._retry_at_s = time.monotonic() + max(_RETRY_AFTER_S, _RETRY_AFTER_TIMES * lost_s)
        if self._answers:
            logger.warning(
                "MLflow at %s does not answer (%s). Training goes on; nothing more is logged until it answers again",
                _without_password(self.tracking_uri),
                _described(error),
            )
        self._answers = False

    def _warn_of_refusal(self, what: str, error: Exception) -> None:
        level = logging.DEBUG if what in self._refused else logging.WARNING
        logger.log(level, "MLflow did not take %s (%s). Training goes on without", what, _described(error))
        self._refused.add(what)


class TrackingHandler:
    """Ignite handler: training curves every few iterations, validation scores after every validation.

    Args:
        tracker: where to.
        every: iterations from one point of the training curves to the next.
        terms: gives further numbers of the last iteration, for example the terms of the loss; `dice` becomes
            `train/dice`.
    """

    def __init__(
        self, tracker: Tracker, *, every: int = 10, terms: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        self.tracker = tracker
        self.every = every
        self.terms = terms

    def attach(self, trainer: Engine) -> None:
        """Log `train/loss`, the terms and `train/learning_rate` (first parameter group) of a MONAI trainer."""
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.log_iteration)

    def attach_evaluator(self, evaluator: Engine, step: Callable[[], int]) -> None:
        """Log what a validation measured when it is over; `step` tells the trainer's epoch or iteration."""
        evaluator.add_event_handler(Events.COMPLETED, lambda engine: self.log_validation(engine.state.metrics, step()))

    def log_iteration(self, engine: Engine) -> None:
        """Log the iteration that the engine has just completed. Its output has the loss, or a mapping of losses."""
        if not self.tracker.enabled:
            return
        output = engine.state.output
        output = output[0] if isinstance(output, list) and output else output  # MONAI decollates into one per case
        loss = output.get("loss") if isinstance(output, Mapping) else output
        values = dict(loss) if isinstance(loss, Mapping) else {"loss": loss}
        values.update(self.terms() if self.terms else {})
        optimizer = getattr(engine, "optimizer", None)
        if optimizer is not None:
            values["learning_rate"] = optimizer.param_groups[0]["lr"]
        self.tracker.log_metrics({f"train/{name}": value for name, value in values.items()}, engine.state.iteration)

    def log_validation(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log every number among the metrics under its own name."""
        self.tracker.log_metrics(metrics, step)


def _existing_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run to go on with; None where the store never had it or its user deleted it."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if _is_refusal(error):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _sqlite_file(tracking_uri: str) -> Path | None:
    """The file behind a SQLite address; None for a server, another database, or SQLite in memory."""
    scheme, _, path = tracking_uri.partition("?")[0].partition(":///")
    return Path(unquote(path)).absolute() if scheme == "sqlite" and path else None


def _open_once(database: Path) -> None:
    """Make the folder and open the file: where that fails, MLflow would try for two minutes before it says so."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version")


def _is_refusal(error: Exception) -> bool:
    """True where the store answers but not to this: trying later would not help, other things may be logged."""
    if isinstance(error, MlflowException):
        return 400 <= error.get_http_status_code() < 500
    return isinstance(error, (PrsmedError, TypeError, ValueError))


def _described(error: BaseException) -> str:
    """The error in a line; of a failed connection its first cause, which libraries wrap many times."""
    cause = error
    while cause.__context__ is not None:
        cause = cause.__context__
    shown = cause if isinstance(cause, OSError) else error
    return f"{type(shown).__name__}: {_without_password(str(shown)).partition(chr(10))[0][:200]}"


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def _flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _clean_name(name: str) -> str:
    """A name that MLflow takes: its alphabet, and as a path no empty step and none that leads upwards."""
    text = re.sub(r"[^\w\-. :/]", "_", str(name))[: limits.MAX_ENTITY_KEY_LENGTH]
    return "/".join(step for step in text.split("/") if step not in ("", ".", "..")) or "unnamed"


def _shown(value: Any) -> str:
    """A value as text. Of an absolute path only the last part is shown: folders name people and machines."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_shown(item)}' for name, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown(item) for item in value)}]"
    text = str(value)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return kind(text).name
    return text


def _tags(tags: Mapping[str, Any]) -> list[RunTag]:
    return [RunTag(_clean_name(name), _shown(value)[: limits.MAX_TAG_VAL_LENGTH]) for name, value in tags.items()]


def _as_number(value: Any) -> float | None:
    """A Python, NumPy or torch scalar as float; None for everything else."""
    if isinstance(value, (bool, int, float)):
        return float(value)
    try:
        return float(value.item())
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None
