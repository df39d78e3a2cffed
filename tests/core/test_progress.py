"""Progress waits for nothing it does not show."""

import io

import pytest

from vpjax.core import progress as progress_module
from vpjax.core.progress import Progress


class Clock:
    """A clock that moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress_module.time, "perf_counter", lambda: self.now)


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
    assert [progress_module.hours(s) for s in (0, 8.2, 3661, 360_000)] == [
        "0:00:00",
        "0:00:09",
        "1:01:01",
        "100:00:00",
    ]
