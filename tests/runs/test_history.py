"""Metrics survive kills."""

import csv
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from vpjax.core.errors import UserError
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


def test_numbers_that_no_float_holds_are_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1e999}\n{"step": 2, "loss": NaN, "lr": -1e999}\n')
    assert read_history(path) == [{"step": 1, "loss": None}, {"step": 2, "loss": None, "lr": None}]
    with Metrics(tmp_path, resume_at=1):  # writes the lines anew
        pass
    assert path.read_text() == '{"step": 1, "loss": null}\n'
