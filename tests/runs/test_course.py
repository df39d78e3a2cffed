"""What is said of a loss that went wrong, and that it is said wherever its result is shown."""

import math

import pytest

from tests.helpers import runs
from vpjax.report.run_folders import find
from vpjax.report.run_sections import run_blocks
from vpjax.report.write import report
from vpjax.runs.course import faults, guess
from vpjax.studies.compare import as_table, summary
from vpjax.studies.lines import ending


def rows(*losses, every=10):
    return [{"step": every * i, "loss": loss} for i, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((2.3, 2.0, 1.0), []),
        ((2.3, 2.5, 1.0), []),
        ((2.3, 111.0, 40.0, 1.0), ["rose to 111 at step 20, from 2.3"]),
        ((1.0, 0.9, 1.2), ["ended at 1.2, above the 1 that it began with"]),
        ((2.4, 2.38, 2.36), ["never fell below 2.303, that of a guess; lowest 2.36"]),
        ((2.3, 111.0, 4.0), ["rose to 111", "ended at 4, above", None]),
        ((6.0, 4.0, 2.0), []),  # a far start is no fault
        ((2.3, None, 2.0), []),
    ],
)
def test_a_course_of_the_loss(losses, expected):
    found = faults(rows(*losses), math.log(10))
    assert len(found) == len([e for e in expected if e])
    assert all(e in text for e, text in zip(expected, found, strict=False) if e)


def test_nothing_is_said_of_what_is_not_known():
    assert faults([], 2.3) == [] and faults(rows(2.3, 9.0, every=5), 2.3) == []
    assert faults(rows(2.4, 2.38, 2.36), None) == []
    assert faults([{"step": 50, "val_loss": 1.0}, {"step": 60, "loss": 4.0}], 2.3) == []
    # The last tenth counts, not the last line.
    steady = [{"step": s, "loss": 3.0 if s == 200 else 1.0 + (s < 9)} for s in range(1, 201)]
    assert faults(steady, None) == []


def test_the_loss_of_a_guess():
    assert guess("softmax", 10, False) == pytest.approx(2.302585)
    assert guess("sigmoid", 20, False) == pytest.approx(20 * math.log(2))
    assert guess("softmax", 10, True) is None


def test_a_rate_that_is_far_too_high_is_said_everywhere(tmp_path):
    words = ("--config.optim.lr=300.0", "--config.optim.clip_norm=0.0", "--config.draw=False")
    words += ("--config.train.steps=60", "--config.train.log_every=5", "--config.curves=False")
    done = runs.command("--config=digits:vpt_deep", f"--workdir={tmp_path / 'run'}", *words)
    assert done.returncode == 0, done.stderr_text
    assert "warning   the loss " in done.stdout_text and "lower optim.lr" in done.stdout_text
    result = runs.result(tmp_path / "run")
    assert result["loss_faults"] and ending(result).endswith("!")
    text = as_table([summary("mine", [result])])
    assert (
        "%" in text and " ! " in text and "\n! mine, seed 0: the loss" in text and "±" not in text
    )
    (run,) = find([tmp_path], tmp_path)
    assert any("loss" in str(block) and "The loss" in str(block) for block in run_blocks(run))
    report(tmp_path / "report", [tmp_path])
    assert "the loss" in (tmp_path / "report" / "report.md").read_text()
