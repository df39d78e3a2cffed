"""Callbacks, and loggers that never end a run."""

import sys
import types

import pytest

from tests.helpers import runs
from tests.runs.test_fit import stop_after
from vpjax.core.errors import UserError
from vpjax.runs import loggers
from vpjax.runs.callbacks import Callback, Several, Start
from vpjax.runs.fit import fit
from vpjax.runs.history import read_history
from vpjax.train.signals import Stopped


def short():
    """A run of four steps and one evaluation."""
    return runs.config(train={"steps": 4, "eval_every": 1.0, "log_every": 2})


class Notes(Callback):
    """Keeps what it is told."""

    def __init__(self):
        self.heard = []

    def on_start(self, start):
        self.heard.append(("start", start.step, start.steps, start.config["seed"]))

    def on_step(self, step, metrics):
        self.heard.append(("step", step, metrics))

    def on_evaluation(self, step, metrics):
        self.heard.append(("evaluation", step, metrics))

    def on_end(self, result):
        self.heard.append(("end", result))


def test_a_callback_hears_what_the_history_has(tmp_path):
    notes = Notes()
    result = fit(short(), tmp_path, callbacks=[notes])
    (first, *middle, last) = notes.heard
    assert first == ("start", 0, 4, 0)
    assert last == ("end", result)
    told = {}
    for _, step, metrics in middle:
        told[step] = told.get(step, {}) | dict(metrics)
    history = {}
    for row in read_history(tmp_path / "metrics.jsonl"):
        history[row["step"]] = history.get(row["step"], {}) | row
    assert told == {s: {k: v for k, v in row.items() if k != "step"} for s, row in history.items()}
    notes.heard.clear()
    fit(short(), tmp_path, callbacks=[notes])  # finished already
    assert notes.heard == []


def test_an_interrupted_run_ends_without_a_result_and_goes_on(tmp_path, monkeypatch):
    notes = Notes()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            fit(short(), tmp_path, callbacks=[notes])
    assert notes.heard[-1] == ("end", None)
    notes.heard.clear()
    fit(short(), tmp_path, callbacks=[notes])
    assert notes.heard[0][:2] == ("start", 3)


def test_an_end_is_told_once():
    notes = Notes()
    both = Several([notes])
    both.on_end(None)
    assert notes.heard == []
    both.on_start(Start(None, {"seed": 1}, 0, 3))
    both.on_end({})
    both.on_end(None)
    assert [kind for kind, *_ in notes.heard] == ["start", "end"]


def start(folder):
    return Start(folder, {"optim.lr": 0.1}, 0, 3)


@pytest.mark.parametrize("name", loggers.LOGGERS)
def test_an_absent_library_is_one_line_that_names_the_extra(name, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (logger,) = loggers.make((name,))
    logger.on_start(start(tmp_path))
    logger.on_step(1, {"loss": 1.0})
    logger.on_end({"step": 3})
    assert caplog.messages == [
        f"logger    {name} is left out: it is not installed. pip install 'vpjax[{name}]'"
    ]


class Failing:
    """A client that breaks at its n-th call."""

    def __init__(self, calls):
        self.calls = calls

    def __getattr__(self, name):
        def call(*_, **__):
            self.calls -= 1
            if self.calls < 0:
                raise OSError("no space left\non the device")
            return types.SimpleNamespace(
                info=types.SimpleNamespace(run_id="7"), experiment_id="1", id="7"
            )

        return call


@pytest.mark.parametrize("calls", [0, 1, 4, 5])
def test_a_failure_warns_once_whenever_it_comes(calls, tmp_path, monkeypatch, caplog):
    client = Failing(calls)
    fake = types.SimpleNamespace(MlflowClient=lambda tracking_uri: client)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    (logger,) = loggers.make(("mlflow",))
    logger.on_start(start(tmp_path))
    logger.on_step(1, {"loss": 1.0})
    logger.on_evaluation(1, {"val_loss": 1.0})
    logger.on_end({"step": 3, "test_accuracy": 50.0})
    (said,) = caplog.messages
    assert said == "logger    mlflow is left out from here on: OSError: no space left"


def test_wandb_does_not_ask_who_one_is(tmp_path, monkeypatch, caplog):
    fake = types.SimpleNamespace(login=lambda prompt: prompt, init=None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (logger,) = loggers.make(("wandb",))
    logger.on_start(start(tmp_path))
    assert "Run wandb login, or set WANDB_MODE=offline" in caplog.text


def test_a_run_whose_logger_fails_is_the_same_run(tmp_path, monkeypatch, caplog):
    def broken(self, *_):
        raise RuntimeError("gone")

    monkeypatch.setattr(loggers.TensorBoard, "on_start", lambda self, start: None)
    monkeypatch.setattr(loggers.TensorBoard, "on_step", broken)
    config = short()
    config.loggers = ("tensorboard",)
    result = fit(config, tmp_path)
    assert result["status"] == "finished"
    assert caplog.text.count("is left out from here on: RuntimeError: gone") == 1


def test_an_unknown_logger_is_an_error_at_once(tmp_path):
    config = short()
    config.loggers = ("tensorbord",)
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        fit(config, tmp_path)


def test_tensorboard_files_hold_the_history(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", exc_type=ImportError
    )
    (logger,) = loggers.make(("tensorboard",))
    logger.on_start(start(tmp_path))
    for step, loss in ((5, 2.0), (10, 1.5)):
        logger.on_step(step, {"loss": loss})
    logger.on_evaluation(10, {"val_accuracy": 71.0})
    logger.on_end({"step": 10, "test_accuracy": 70.0, "seconds": 3.0})
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0})
    found.Reload()
    read = {
        tag: [(e.step, e.tensor_proto.float_val[0]) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }
    assert read == {
        "loss": [(5, 2.0), (10, 1.5)],
        "val_accuracy": [(10, 71.0)],
        "final/test_accuracy": [(10, 70.0)],
    }


def test_an_mlflow_store_holds_the_history(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (logger,) = loggers.make(("mlflow",))
    logger.on_start(start(tmp_path))
    logger.on_step(5, {"loss": 2.0})
    logger.on_end(None)
    (again,) = loggers.make(("mlflow",))
    again.on_start(start(tmp_path))
    again.on_step(10, {"loss": 1.5})
    again.on_end({"step": 10, "test_accuracy": 70.0})
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    run = client.get_run(loggers.ids(tmp_path)["mlflow"])
    assert run.data.params == {"optim.lr": "0.1"}
    assert run.data.metrics == {"loss": 1.5, "final/test_accuracy": 70.0}
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(p.step, p.value) for p in points] == [(5, 2.0), (10, 1.5)]
