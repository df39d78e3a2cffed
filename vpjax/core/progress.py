"""Progress of loops and downloads: a bar on a terminal, whole lines anywhere else.

The host runs ahead of the device, and reading a value waits for the step that computes it:
`Progress` reads only what it shows, every few seconds.
"""

import collections
import contextlib
import io
import math
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
from tqdm import tqdm

from vpjax.core import escape, logs

WINDOW = 30.0  # seconds of the recent past that the rate is taken from
EVERY = 10.0  # seconds between two lines where there is no terminal


class Progress:
    """The progress of a loop: step, rate, remaining time, latest loss and accuracy (in %).

        with Progress(400, batch_size=64) as progress:
            for step in range(400):
                state, values = train_step(state, batch)
                progress.update(step + 1, values)

        step  120/400  30%  loss 0.4312  val_accuracy 93.10  412.3 img/s  ETA 0:00:09

    On a terminal this is a bar. Elsewhere it is a line at the first update, then at most one every
    `every_seconds`, and one at the end. A line has at most 80 columns: values other than the loss
    and those of val, then the rate, give way. Of one of many runs (`logs.quiet`) only the bar is
    shown.

    Args:
        total_steps: steps of the loop.
        start: the step that a resumed run begins after.
        batch_size: images of a step, over all devices.
        stream: to write to; None: standard error.
        every_seconds: between two lines.
        what: is counted, the first word of a line. Anything but steps of training goes without
            the first and the last line, and its bar vanishes when it is done.
    """

    def __init__(
        self,
        total_steps: int,
        start: int = 0,
        *,
        batch_size: int,
        stream: TextIO | None = None,
        every_seconds: float = EVERY,
        what: str = "step",
    ):
        what = escape.one_line(what)
        self.what, self._passing = what, what != "step"
        self.total, self.step, self.batch_size = total_steps, start, batch_size
        self.stream = sys.stderr if stream is None else stream
        if logs.is_quiet() and not self.stream.isatty():
            self.stream = io.StringIO()
        self.latest: dict[str, Any] = {}
        self._shown: int | None = None  # the step of the last line
        self._pending = False  # whether there was an update since
        self._closed = False
        # (clock, step) at the moments a value was read: only then it is certain that the device
        # has done the step. The first comes after the first step, so after compiling.
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._bar = None
        self._every, self._begun = every_seconds, time.perf_counter()
        if self.stream.isatty():
            self._every = min(every_seconds, 0.5)
            form = "{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
            form = form if not self._passing else f"{what} {form}"
            leave = not (self._passing or logs.is_quiet())
            self._bar = _bar(self.stream, total_steps, start, bar_format=form, leave=leave)

    def update(self, step: int, values: Mapping[str, Any] | None = None) -> None:
        """Record that `step` steps are done, and show it if enough time has passed.

        Args:
            step: steps done so far.
            values: latest metrics; "..._loss" and "..._accuracy" are shown. They stay on the device
                until then.
        """
        self.step, self._pending = step, True
        for name, value in (values or {}).items():
            if name.rpartition("_")[2] in ("loss", "accuracy"):
                self.latest[name] = value
        now = time.perf_counter()
        if self._passing and self._bar is None and now < self._begun + self._every:
            return
        if not self._marks or step >= self.total or now >= self._marks[-1][0] + self._every:
            self._show()

    @property
    def steps_per_second(self) -> float | None:
        """Recent rate, without the first step of the run; None before it can be known."""
        if len(self._marks) < 2:
            return None
        (first, a), (last, b) = self._marks[0], self._marks[-1]
        return (b - a) / max(last - first, 1e-9)

    @property
    def images_per_second(self) -> float | None:
        """Recent rate in images; None before it can be known."""
        rate = self.steps_per_second
        return None if rate is None else rate * self.batch_size

    def line(self, text: str) -> None:
        """Print a message on a line of its own, above the bar if there is one."""
        text = escape.terminal(text)
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Show the last step if it was not shown yet, and end the bar; may be called twice."""
        if self._closed:
            return
        if self._pending and not (self._passing and self._bar is None):
            self._show()
        self._end()

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        if kind is None:
            self.close()
        else:
            self._end()  # reading a value might raise the device's error again and hide this one

    def _end(self) -> None:
        self._closed = True
        if self._bar is not None:
            self._bar.close()

    def _show(self) -> None:
        texts, spare = [], []
        for name in sorted(self.latest, key=lambda name: name not in ("loss", "accuracy")):
            digits = 4 if name.endswith("loss") else 2
            value = float(jax.device_get(self.latest[name]))  # waits for the device
            texts.append(f"{escape.one_line(name)} {value:.{digits}f}")
            if name != "loss" and not name.startswith("val_"):
                spare.append(texts[-1])
        now = time.perf_counter()
        if self._shown != self.step:
            self._marks.append((now, self.step))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW:
            self._marks.popleft()
        self._shown, self._pending = self.step, False
        if (images := self.images_per_second) is not None:
            texts.append(f"{images:.1f} img/s" if self.batch_size > 1 else "")
            spare.append(texts[-1])
            if self.steps_per_second:
                seconds = max(self.total - self.step, 0) / self.steps_per_second
                texts.append(f"ETA {hours(seconds)}")
        if self._bar is not None:
            self._bar.n = self.step
            room = min(shutil.get_terminal_size().columns, logs.COLUMNS)
            room -= len(f"{self.what} 100% || {self.total}/{self.total}, ") + 5  # of the bar
            self._bar.set_postfix_str("  ".join(_within(room, texts, spare)))
            return
        width = len(str(self.total))
        share = self.step / self.total if self.total else 1.0
        head = f"{self.what}  {self.step:{width}d}/{self.total}  {share:3.0%}"
        texts = _within(logs.COLUMNS - len(head) - 2, texts, spare)
        print("  ".join([head, *texts]), file=self.stream, flush=True)


@contextlib.contextmanager
def waiting(text: str, stream: TextIO, every_seconds: float = EVERY) -> Iterator[None]:
    """Say what the block does and, now and then, for how long it has been at it.

        with waiting("compiling, mostly 5 to 60 s", sys.stderr):
            step = lowered.compile()

    On a terminal this is one line, which vanishes.

    Args:
        text: what it does and how long that takes.
        stream: to write to.
        every_seconds: between two lines where there is no terminal.
    """
    terminal, text = stream.isatty(), escape.one_line(text)
    if logs.is_quiet() and not terminal:
        yield
        return
    over, begin = threading.Event(), time.monotonic()

    def show() -> None:
        line = logs.fitted(f"{text}: {hours(time.monotonic() - begin)} so far", logs.COLUMNS - 1)
        print(f"\r{line}" if terminal else line, end="" if terminal else "\n", file=stream)
        stream.flush()

    def repeat() -> None:
        while not over.wait(1.0 if terminal else every_seconds):
            show()

    print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=stream, flush=True)
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if terminal:
            print(f"\r{' ' * (logs.COLUMNS - 1)}\r", end="", file=stream, flush=True)


def _within(room: int, texts: list[str], spare: list[str]) -> list[str]:
    """Return the texts that fit into so many columns; those of `spare` are left out first."""
    texts, spare = [t for t in texts if t], list(spare)
    while texts and len("  ".join(texts)) > room:
        away = spare.pop(0) if spare else texts[-2 if len(texts) > 1 else 0]
        if away in texts:
            texts.remove(away)
    return texts


class DownloadBar:
    """The progress of a download on standard error: a bar, or a line every `EVERY` seconds.

        with DownloadBar("ViT-B_16.npz", size=412_815_506) as bar:
            bar.add(len(piece))

        ViT-B_16.npz  97.6 MiB of 393.7 MiB  25%  11.2 MiB/s  ETA 0:00:27

    Args:
        name: of the file.
        size: bytes of the whole file; None if the server does not say.
        done: bytes that an earlier, interrupted download has left.
    """

    def __init__(self, name: str, size: int | None, done: int = 0):
        name = escape.one_line(name)
        self.name, self.size, self.done, self.start = name, size, done, done
        self._begin = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
            self._bar = _bar(sys.stderr, size, done, desc=name, **unit)

    def add(self, count: int) -> None:
        """Record that `count` more bytes have arrived."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._shown >= EVERY:
            self._show()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()
        else:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        rate = (self.done - self.start) / max(self._shown - self._begin, 1e-9)
        text = f"{self.name}  {self.done / 2**20:.1f} MiB"
        if self.size:
            seconds = (self.size - self.done) / rate if rate else 0
            text += f" of {self.size / 2**20:.1f} MiB  {self.done / self.size:.0%}"
            text += f"  {rate / 2**20:.1f} MiB/s  ETA {hours(seconds)}"
        print(text, file=sys.stderr, flush=True)


def _bar(stream: TextIO, total: int | None, start: int, **options: Any) -> tqdm:
    # tqdm shows nothing on a terminal whose size is unknown, as in containers.
    columns, lines = shutil.get_terminal_size()
    columns = min(columns, logs.COLUMNS)
    return tqdm(total=total, initial=start, file=stream, ncols=columns, nrows=lines, **options)


def hours(seconds: float) -> str:
    """Return a time as "1:02:03"."""
    total = math.ceil(seconds)
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d}"
