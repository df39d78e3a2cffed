"""Metrics survive kills, progress waits for nothing it does not show, tables are Markdown."""

import csv
import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.core.errors import UserError
from vpjax.core.progress import Progress
from vpjax.core.table import table
from vpjax.runs import history
from vpjax.runs.history import Metrics, read_history


def test_metrics_lines_and_csv(tmp_path):
    metrics = Metrics(tmp_path / "run")
    metrics.write(1, {"loss": jnp.float32(0.5), "lr": 1e-3})
    # Flushed: another process sees the line before the run ends.
    assert read_history(tmp_path / "run" / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "lr": 1e-3}
    ]
    metrics.write(np.int64(2), {"loss": math.nan, "count": np.int32(3), "val_accuracy": 93})
    metrics.close()
    metrics.close()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"step": 2, "loss": None, "count": 3, "val_accuracy": 93}
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "lr", "count", "val_accuracy"]
    assert rows[1] == {"step": "2", "loss": "", "lr": "", "count": "3", "val_accuracy": "93"}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["metrics.csv", "metrics.jsonl"]


@pytest.mark.parametrize("value", ["0.5", None, [1.0, 2.0], np.ones(1), 1j, {}])
def test_metrics_refuse_what_is_no_number(tmp_path, value):
    with Metrics(tmp_path) as metrics, pytest.raises(ValueError, match="'loss'.*expected one"):
        metrics.write(1, {"loss": value})
    assert read_history(tmp_path / "metrics.jsonl") == []


def test_metrics_number_types(tmp_path):
    values = {"a": jnp.bfloat16(0.5), "b": np.float16(2), "c": jnp.int32(4), "d": True, "e": 0.1}
    with Metrics(tmp_path) as metrics:
        metrics.write(1, values | {"f": -math.inf})
        with pytest.raises(ValueError, match="'step'"):
            metrics.write(1, {"step": 2})
    [row] = read_history(tmp_path / "metrics.jsonl")
    assert row == {"step": 1, "a": 0.5, "b": 2.0, "c": 4, "d": 1, "e": 0.1, "f": None}


def test_metrics_resume_drops_later_steps(tmp_path):
    with Metrics(tmp_path) as metrics:
        for step in range(1, 6):
            metrics.write(step, {"loss": 1 / step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # killed in the middle of a line
    with Metrics(tmp_path, resume_at=3) as metrics:
        metrics.write(4, {"loss": 0.0})
    assert [row["step"] for row in read_history(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[-1] == "4,0.0"


def test_metrics_continue_after_a_half_line(tmp_path):
    for tail in ['{"step": 2, "lo', '{"step": 2, "loss": 0.1}', "\x00\x00"]:
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n' + tail)
        with Metrics(tmp_path) as metrics:
            metrics.write(3, {"loss": 0.2})
        steps = [row["step"] for row in read_history(tmp_path / "metrics.jsonl")]
        assert steps == ([1, 2, 3] if tail.endswith("}") else [1, 3])


def test_metrics_errors_name_file_and_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\nhello\n{}\n")
    with pytest.raises(UserError, match="line 2: 'hello' is not a JSON object"):
        Metrics(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        Metrics(tmp_path / "metrics.jsonl" / "inside")


class Clock:
    """A clock that moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(history.time, "perf_counter", lambda: self.now)


class Lazy:
    """A number on a device: counts how often it is read."""

    reads = 0

    def __init__(self, value):
        self.value = value

    def __float__(self):
        Lazy.reads += 1
        return self.value


def test_progress_plain_lines(monkeypatch):
    clock, stream = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(Lazy, "reads", 0)
    with Progress(400, batch_size=64, stream=stream) as progress:
        clock.now += 60.0  # compiling
        progress.update(1, {"loss": Lazy(2.0), "lr": Lazy(1.0)})
        for step in range(2, 401):
            clock.now += 0.125
            progress.update(step, {"loss": Lazy(1 / step)})
            if step == 50:
                progress.update(step, {"val_accuracy": Lazy(93.1)})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step    1/400   0%  loss 2.0000"
    # 8 steps a second later: the minute of compiling is not in the rate.
    assert lines[1] == (
        "step   81/400  20%  loss 0.0123  val_accuracy 93.10  512.0 img/s  ETA 0:00:40"
    )
    assert lines[-1].startswith("step  400/400  100%  loss 0.0025  val_accuracy 93.10")
    assert lines[-1].endswith("ETA 0:00:00")
    assert len(lines) == 6
    assert Lazy.reads == 1 + 5 * 2  # only what was shown


def test_progress_rate_is_recent(monkeypatch):
    clock = Clock(monkeypatch)
    progress = Progress(10_000, start=5_000, batch_size=10, stream=io.StringIO())
    assert progress.steps_per_second is None
    for step in range(5_001, 5_101):  # slow, then fast
        clock.now += 1.0
        progress.update(step)
    assert progress.steps_per_second == pytest.approx(1.0)
    for step in range(5_101, 6_000):
        clock.now += 0.1
        progress.update(step)
    assert progress.images_per_second == pytest.approx(100.0)


def test_progress_last_step_is_always_shown(monkeypatch):
    clock, stream = Clock(monkeypatch), io.StringIO()
    progress = Progress(100, batch_size=1, stream=stream)
    for step in (1, 2, 3):
        clock.now += 0.1
        progress.update(step, {"loss": 1.0})
    progress.update(3, {"val_accuracy": 50.0})
    progress.close()  # stopped early
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and lines[1].startswith("step    3/100")
    assert "val_accuracy 50.00" in lines[1]


def test_progress_does_not_hide_an_error():
    class Broken:
        def __float__(self):
            raise FloatingPointError

    with pytest.raises(KeyError), Progress(9, batch_size=1, stream=io.StringIO()) as progress:
        progress.update(1, {"loss": 1.0})
        progress.update(2, {"loss": Broken()})
        raise KeyError


def test_progress_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock, terminal = Clock(monkeypatch), Terminal()
    with Progress(4, batch_size=8, stream=terminal) as progress:
        for step in range(1, 5):
            clock.now += 1.0
            progress.update(step, {"loss": 0.5, "accuracy": 71.5})
            if step == 2:
                progress.line("a message")
    text = terminal.getvalue()
    assert "4/4, loss 0.5000  accuracy 71.50  8.0 img/s  ETA 0:00:00" in text
    assert "\ra message\n" in text


def test_progress_line_without_terminal():
    stream = io.StringIO()
    Progress(4, batch_size=8, stream=stream).line("hello")
    assert stream.getvalue() == "hello\n"


def test_progress_of_nothing():
    with Progress(0, batch_size=1, stream=io.StringIO()):
        pass


def test_hours():
    assert [history._hours(s) for s in (0, 8.2, 3661, 360_000)] == [
        "0:00:00",
        "0:00:09",
        "1:01:01",
        "100:00:00",
    ]


def test_table():
    text = table(["method", "%"], [["VPT|deep", "93.10"], ["linear", "7.5"]])
    assert text.splitlines() == [
        "| method    |     % |",
        "| :-------- | ----: |",
        "| VPT\\|deep | 93.10 |",
        "| linear    |   7.5 |",
    ]
    assert table(["a", "b", "c"], [], align="lc").splitlines()[1] == "| :-- | :-: | :-: |"


def test_table_errors():
    with pytest.raises(ValueError, match="2 cells; the header has 1"):
        table(["a"], [["1", "2"]])
    with pytest.raises(ValueError, match="expected letters"):
        table(["a"], [], align="x")
