"""What a run says: numbers to files, progress to the screen, tables to both.

    Metrics   <workdir>/metrics.jsonl, a line as it happens, and metrics.csv for spreadsheets
    Progress  a bar on a terminal, whole lines anywhere else
    table     aligned on a screen and valid Markdown in a report

A device works ahead of Python, and reading a number from it waits for the step that makes it.
`Metrics` has to read what it writes; `Progress` reads only what it shows, every few seconds.
"""

import collections
import csv
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from tqdm import tqdm

from vpjax.errors import UserError

WINDOW = 30.0  # seconds of the recent past that the rate is taken from


class Metrics:
    """The numbers of a run as JSON lines, and as a CSV table at every `write_csv` and `close`.

    A file that is there already is continued. `resume_at` is the step a killed run resumes at:
    lines of later steps are dropped, as those steps come again.
    Raises: UserError if the folder cannot be written, or the file is not ours.
    """

    def __init__(self, workdir: str | os.PathLike, resume_at: int | None = None):
        self.path = Path(workdir) / "metrics.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                rows = read(self.path)
                if resume_at is not None:
                    rows = [row for row in rows if row.get("step", 0) <= resume_at]
                text = "".join(_line(row) for row in rows)
                # Also mends a half-written last line, which the next would be appended to.
                if text != self.path.read_text(encoding="utf-8", errors="replace"):
                    _replace(self.path, text)
            self._file = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} ({error}). The working folder must be one you can "
                "write to, on a disk with free space."
            ) from error

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one line. Values are numbers or arrays of one; infinite and NaN become null.

        Reads arrays from the device, which waits for them.
        Raises: ValueError if a value is not a number.
        """
        if "step" in values:
            raise ValueError("a metric is named 'step'; expected another name, it is a column")
        row = {"step": int(step)} | {name: _number(name, v) for name, v in values.items()}
        self._file.write(_line(row))
        self._file.flush()

    def write_csv(self) -> None:
        """Rewrites metrics.csv from all lines so far: a column a name, empty where not given."""
        rows = read(self.path)
        names = list(dict.fromkeys(name for row in rows for name in row)) or ["step"]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        _replace(self.path.with_suffix(".csv"), text.getvalue())

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            self.write_csv()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def read(path: str | os.PathLike) -> list[dict]:
    """Returns the lines of a metrics.jsonl; null is None, a half-written last line is left out.

    Raises: UserError if another line is not a JSON object.
    """
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for i, line in enumerate(lines, start=1):
        try:
            row = json.loads(line, parse_constant=lambda name: None)  # NaN of another writer
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif i < len(lines):
            raise UserError(
                f"{path}, line {i}: {line[:40]!r} is not a JSON object, as every line of a "
                "metrics file is. Remove the line, or the file if it is not one."
            )
    return rows


def _number(name: str, value: Any) -> int | float | None:
    array = np.asarray(value)
    try:
        if array.ndim or array.dtype.kind in "USO":  # text would convert, and None does to NaN
            raise TypeError
        number = array.item() if array.dtype.kind in "iub" else float(array)  # also bfloat16
    except (TypeError, ValueError):
        raise ValueError(f"metric {name!r} is {value!r}; expected one number") from None
    if isinstance(number, int):
        return int(number)  # True is an int, and JSON would say true
    return number if math.isfinite(number) else None


def _line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


class Progress:
    """Shows how far a loop is, how fast, and its latest loss and accuracy (in %).

        with Progress(400, batch_size=64) as progress:
            for step in range(400):
                state, values = train_step(state, batch)
                progress.update(step + 1, values)

        step  120/400  30%  loss 0.4312  val_accuracy 93.10  412.3 img/s  ETA 0:00:09

    On a terminal this is a bar. Elsewhere it is a line at the first update, then at most one every
    `every_seconds`, and one at the end. `start` is the step a resumed run begins after,
    `batch_size` the images of a step over all devices. `stream` is standard error if not given.
    """

    def __init__(
        self,
        total_steps: int,
        start: int = 0,
        *,
        batch_size: int,
        stream: TextIO | None = None,
        every_seconds: float = 10.0,
    ):
        self.total, self.step, self.batch_size = total_steps, start, batch_size
        self.stream = sys.stderr if stream is None else stream
        self.latest: dict[str, Any] = {}
        self._shown: int | None = None  # the step of the last line
        self._pending = False  # whether something came since
        self._closed = False
        # (clock, step) at the moments a value was read. Only there does the clock know that the
        # device has done the step; the first comes after the first step, so after compiling.
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._bar = None
        self._every = every_seconds
        if self.stream.isatty():
            self._every = min(every_seconds, 0.5)
            self._bar = tqdm(
                total=total_steps,
                initial=start,
                file=self.stream,
                # tqdm shows nothing on a terminal that does not know its size, as in containers.
                ncols=shutil.get_terminal_size().columns,
                nrows=shutil.get_terminal_size().lines,
                bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
            )

    def update(self, step: int, values: Mapping[str, Any] | None = None) -> None:
        """Notes that `step` steps are done, with their values, and shows them if it is time.

        Values stay on the device until they are shown.
        """
        self.step, self._pending = step, True
        for name, value in (values or {}).items():
            if name.rpartition("_")[2] in ("loss", "accuracy"):
                self.latest[name] = value
        now = time.perf_counter()
        if not self._marks or step >= self.total or now >= self._marks[-1][0] + self._every:
            self._show()

    @property
    def steps_per_second(self) -> float | None:
        """Recent rate without the first step of the run; None until there are two moments."""
        if len(self._marks) < 2:
            return None
        (first, a), (last, b) = self._marks[0], self._marks[-1]
        return (b - a) / max(last - first, 1e-9)

    @property
    def images_per_second(self) -> float | None:
        rate = self.steps_per_second
        return None if rate is None else rate * self.batch_size

    def line(self, text: str) -> None:
        """Prints a message of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Shows the last step if it was not yet, and ends the bar. May be called again."""
        if self._closed:
            return
        if self._pending:
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
        texts = []
        for name in sorted(self.latest, key=lambda name: name not in ("loss", "accuracy")):
            digits = 4 if name.endswith("loss") else 2
            value = float(jax.device_get(self.latest[name]))  # waits for the device
            texts.append(f"{name} {value:.{digits}f}")
        now = time.perf_counter()
        if self._shown != self.step:
            self._marks.append((now, self.step))
        while len(self._marks) > 2 and self._marks[1][0] < now - WINDOW:
            self._marks.popleft()
        self._shown, self._pending = self.step, False
        if (images := self.images_per_second) is not None:
            texts.append(f"{images:.1f} img/s")
            if self.steps_per_second:
                seconds = max(self.total - self.step, 0) / self.steps_per_second
                texts.append(f"ETA {_hours(seconds)}")
        if self._bar is not None:
            self._bar.n = self.step
            self._bar.set_postfix_str("  ".join(texts))
            return
        width = len(str(self.total))
        share = self.step / self.total if self.total else 1.0
        head = f"step  {self.step:{width}d}/{self.total}  {share:3.0%}"
        print("  ".join([head, *texts]), file=self.stream, flush=True)


def _hours(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "lr") -> str:
    """Returns an aligned table that is also valid Markdown.

    `align` has a letter a column, l, c or r; the last one holds for all further columns.
    Raises: ValueError if a row has not as many cells as the header, or `align` another letter.
    """
    if not align or set(align) - set("lcr"):
        raise ValueError(f"align is {align!r}; expected letters l, c and r")
    lines = [[_cell(text) for text in line] for line in (header, *rows)]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"row {line} has {len(line)} cells; the header has {len(header)}")
    aligns = [align[min(i, len(align) - 1)] for i in range(len(header))]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    place = {"l": str.ljust, "c": str.center, "r": str.rjust}
    marks = {"l": ":-{}", "c": ":{}:", "r": "{}-:"}
    rule = [marks[a].format("-" * (width - 2)) for a, width in zip(aligns, widths, strict=True)]
    texts = [
        [place[a](text, width) for text, a, width in zip(line, aligns, widths, strict=True)]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [texts[0], rule, *texts[1:]])


def _cell(text: str) -> str:
    # A bar or a line break inside a cell would end it.
    return " ".join(str(text).split()).replace("|", "\\|")
