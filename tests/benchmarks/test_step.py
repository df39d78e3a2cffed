"""The step benchmark on a tiny model: its fields make sense, its command line is forgiving."""

import json
import subprocess
import sys

import pytest

from benchmarks import measure, step
from configs import digits
from vpjax.core.errors import UserError


@pytest.fixture(scope="module")
def record():
    config = digits.get_config()
    config.mesh.data = 1
    return step.benchmark(config, [8, 4], num_classes=7, steps=3)


def test_rows_are_eval_and_train_of_every_batch_smallest_first(record):
    found = [(row["step"], row["batch"]) for row in record["rows"]]
    assert found == [("eval", 4), ("train", 4), ("eval", 8), ("train", 8)]


def test_times_and_work_are_plausible(record):
    for row in record["rows"]:
        assert row["steps"] == 3
        assert 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["ms_median"])
        assert 0 < row["of_floor_peak"] < 1.5
        assert row["floor_flops"] < row["flops_per_image"] < 1.3 * row["floor_flops"]
        assert row["temporary_bytes"] > 0
        assert row["trace_seconds"] > 0
        assert row["compile_seconds"] > 0
    evaluation, training = record["rows"][:2]
    # Frozen weights have no gradient: a step is twice a forward pass, not three times.
    ratio = training["flops_per_image"] / evaluation["flops_per_image"]
    assert 1.7 < ratio < 2.5
    # Arguments are at least the float32 weights.
    assert training["argument_bytes"] >= 4 * sum(record["parameters"].values())


def test_nothing_on_disk_is_needed(record):
    assert record["config"]["backbone.weights"] == ""
    assert record["num_classes"] == 7


def test_written_files_hold_the_record_and_the_table(record, tmp_path):
    text = step.report(record)
    measure.save(tmp_path / "new" / "x.json", record, text)
    kept = json.loads((tmp_path / "new" / "x.json").read_text())
    assert kept["device"]
    assert kept["versions"]["jax"]
    assert kept["date"].count("-") == 2
    assert kept["rows"] == record["rows"]
    markdown = (tmp_path / "new" / "x.md").read_text()
    assert markdown == text + "\n"
    assert markdown.count("\n| train |") == 2
    assert "Tracing + compiling took" in markdown


def test_the_loader_is_timed_with_the_recipes_images():
    config = digits.get_config()
    config.mesh.data = 1
    rows = step.benchmark(config, [8], steps=1, synthetic=False)["rows"]
    assert [row["step"] for row in rows] == ["input", "eval", "train"]
    assert "-" in step.cells(rows[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch=0"], "above 0"),
        (["--batch=eight"], "eight"),
        (["stray"], "stray"),
        (["--steps=0"], "steps"),
        (["--config.optim.speed=1"], "speed"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(arguments, message):
    with pytest.raises(UserError, match=message):
        step.main(["step", *arguments])


def test_a_batch_must_divide_over_the_devices():
    with pytest.raises(UserError, match="multiple"):
        step.benchmark(digits.get_config(), [3], steps=1)  # 8 simulated devices


def test_the_command_prints_a_table():
    command = [
        sys.executable,
        "-m",
        "benchmarks.step",
        "--batch=2",
        "--config.mesh.data=1",
        "--steps=1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| train | " in done.stdout
