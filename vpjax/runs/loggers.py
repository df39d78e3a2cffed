"""Loggers: a run's numbers in TensorBoard, Weights & Biases or MLflow, beside its own files.

    --config.loggers=tensorboard,wandb

    tensorboard   event files in the run's folder, tensorboard/
    wandb         a run of the project $WANDB_PROJECT, else "vpjax"
    mlflow        a run of the experiment $MLFLOW_EXPERIMENT_NAME, else "vpjax", where
                  $MLFLOW_TRACKING_URI says, else in the run's folder, mlflow/

A logger never ends a run: at its first failure there is one warning, and it is left out from then
on. A run that goes on goes on in the same place; loggers.json keeps which. Of several processes,
process 0 logs.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpjax.core import distributed, forms
from vpjax.core.errors import unknown
from vpjax.core.files import write_json
from vpjax.runs.callbacks import Callback, Start

log = logging.getLogger(__name__)

PROJECT = "vpjax"
IDS = "loggers.json"  # {logger: the name that it gave to the run}
IDS_ADVICE = "Restore it from a copy; or rename it, and the loggers begin another run."


class TensorBoard(Callback):
    """Writes scalars as event files; `tensorboard --logdir runs` shows those of all runs."""

    package = "tensorboard"

    def on_start(self, start: Start) -> None:
        """Open the file."""
        from tensorboard.summary import Writer

        self.writer = Writer(str(start.folder / "tensorboard"))

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a point of each curve."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    on_evaluation = on_step

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """Write the final metrics, and close the file."""
        for name, value in numbers(result).items():
            self.writer.add_scalar(name, value, result["step"])
        self.writer.close()


class WandB(Callback):
    """Logs to Weights & Biases; WANDB_MODE=offline keeps everything in the run's folder."""

    package = "wandb"

    def on_start(self, start: Start) -> None:
        """Begin a run, or go on with it."""
        import wandb

        offline = os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun")
        if not offline and not wandb.login(prompt=False):
            # Else it would ask, and wait for an answer.
            raise RuntimeError("nobody is logged in. Run wandb login, or set WANDB_MODE=offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=start.folder.name,
            dir=str(start.folder),
            config=dict(start.config),
            id=ids(start.folder).get("wandb"),
            resume="allow",
            settings=wandb.Settings(silent=True),
        )
        keep_id(start.folder, "wandb", self.run.id)

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log a point of each curve."""
        self.run.log(dict(metrics), step=step)

    on_evaluation = on_step

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """Log the final metrics, and send what is not sent yet."""
        self.run.summary.update(numbers(result))
        self.run.finish(exit_code=0 if result is not None else 1)


class MLflow(Callback):
    """Logs to MLflow: config as parameters, metrics with their steps."""

    package = "mlflow"

    def on_start(self, start: Start) -> None:
        """Begin a run, or go on with it."""
        import mlflow

        own = None
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            own = (start.folder / "mlflow").absolute().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else it wants a database
        self.client = mlflow.MlflowClient(tracking_uri=own)
        self.id = ids(start.folder).get("mlflow")
        if self.id is not None:
            self.client.update_run(self.id, "RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        number = found.experiment_id if found else self.client.create_experiment(name)
        self.id = self.client.create_run(number, run_name=start.folder.name).info.run_id
        keep_id(start.folder, "mlflow", self.id)
        for key, value in start.config.items():
            self.client.log_param(self.id, key, str(value)[:500])

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log a point of each curve."""
        now = int(1000 * time.time())
        for name, value in metrics.items():
            self.client.log_metric(self.id, name, value, timestamp=now, step=step)

    on_evaluation = on_step

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """Log the final metrics, and say how the run ended."""
        if result is not None:
            self.on_step(result["step"], numbers(result))
        self.client.set_terminated(self.id, "KILLED" if result is None else "FINISHED")


LOGGERS: dict[str, type[Callback]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


class Guarded(Callback):
    """A logger that is left out from its first failure on, with one warning.

    Args:
        name: of the logger.
        make: makes it.
    """

    def __init__(self, name: str, make: Callable[[], Callback]):
        self.name, self.make = name, make
        self.logger: Callback | None = None

    def on_start(self, start: Start) -> None:
        """See `Callback`."""
        with self._warning():
            self.logger = self.make()
            self.logger.on_start(start)

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Callback`."""
        if self.logger is not None:
            with self._warning():
                self.logger.on_step(step, metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Callback`."""
        if self.logger is not None:
            with self._warning():
                self.logger.on_evaluation(step, metrics)

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        if self.logger is not None:
            with self._warning():
                self.logger.on_end(result)
        self.logger = None

    @contextlib.contextmanager
    def _warning(self):
        package = LOGGERS[self.name].package
        try:
            yield
        except ModuleNotFoundError as e:
            self.logger = None
            if (e.name or "").partition(".")[0] != package:
                log.warning("logger    %s is left out: %s", self.name, e)
                return
            log.warning(
                "logger    %s is left out: it is not installed. pip install 'vpjax[%s]'",
                *(self.name, self.name),
            )
        except Exception as e:  # of a library and the network: nothing here may end a run
            self.logger = None
            reason = str(e).strip().partition("\n")[0]
            log.warning(
                "logger    %s is left out from here on: %s: %s", self.name, type(e).__name__, reason
            )


def make(names: Sequence[str]) -> list[Callback]:
    """Return the loggers of a run, none in processes other than 0.

    Raises: UserError for an unknown name.
    """
    check(names)
    if distributed.index():
        return []
    return [Guarded(name, LOGGERS[name]) for name in dict.fromkeys(names)]


def check(names: Sequence[str]) -> None:
    """Check that there are loggers of these names.

    Raises: UserError for the first that there is not.
    """
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger (config.loggers)", name, LOGGERS)


def numbers(result: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the final metrics of a result, those of val and test; {} of None."""
    return {
        f"final/{k}": v
        for k, v in (result or {}).items()
        if k.startswith(("val_", "test_")) and isinstance(v, int | float)
    }


def ids(folder: Path) -> dict[str, str]:
    """Return the names that loggers gave to a run."""
    return forms.read(folder / IDS, {str: str}, IDS_ADVICE) or {}


def keep_id(folder: Path, logger: str, name: str) -> None:
    """Keep the name that a logger gave to a run, so that the run goes on there."""
    write_json(folder / IDS, ids(folder) | {logger: name})
