"""The history of a run: <workdir>/metrics.jsonl, written line by line, and metrics.csv."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core import forms
from vpjax.core.errors import UserError
from vpjax.core.files import write_text
from vpjax.core.reading import read_bytes
from vpjax.core.table import write_csv

log = logging.getLogger(__name__)
ROW = {"step?": int, str: (*forms.NUMBER, None)}


class Metrics:
    """Writes metrics as JSON lines, and as a CSV table at every `write_csv` and `close`.

    An existing file is continued.

    Args:
        workdir: folder of the run.
        resume_at: step at which a killed run resumes: lines of later steps are dropped, as those
            steps are repeated. None: nothing is dropped.

    Raises:
        UserError: if the folder cannot be written, or the file is no history.
    """

    def __init__(self, workdir: str | os.PathLike, resume_at: int | None = None):
        self.path = Path(workdir) / "metrics.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                rows = read_history(self.path)
                if resume_at is not None:
                    rows = [row for row in rows if row.get("step", 0) <= resume_at]
                text = "".join(_line(row) for row in rows)
                # Also removes a half-written last line, to which the next would be appended.
                if text != _text(self.path):
                    write_text(self.path, text)
            self._file = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} ({error}). Give a --workdir that you can write to, on a "
                "disk with free space."
            ) from error

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
            step: training steps done.
            values: numbers, or arrays of one element, which are read from the device. Infinite
                values and NaN become null.

        Raises:
            ValueError: if a value is not a number, or named "step".
        """
        if "step" in values:
            raise ValueError("a metric is named 'step', which is a column already; rename it")
        row = {"step": int(step)} | {name: _number(name, v) for name, v in values.items()}
        self._file.write(_line(row))
        self._file.flush()

    def write_csv(self) -> None:
        """Write metrics.csv from all lines so far: a column for each name, with empty cells."""
        try:
            if not self.path.exists():
                log.warning("warning   %s was deleted: the history goes on in a new one", self.path)
                if not self._file.closed:
                    self._file.close()
                    self._file = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
                return
            rows = read_history(self.path)
            write_csv(self.path.with_suffix(".csv"), rows, () if rows else ("step",))
        except UserError as error:  # somebody has edited it; training goes on
            log.warning("warning   metrics.csv is not written: %s", error)

    def close(self) -> None:
        """Close the file and write metrics.csv; may be called twice."""
        if not self._file.closed:
            self._file.close()
            self.write_csv()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def read_history(path: str | os.PathLike) -> list[dict]:
    """Return the lines of a metrics.jsonl as dictionaries.

    null becomes None; a half-written last line is left out.

    Raises:
        UserError: if it cannot be read, or another line is not a JSON object.
    """
    lines = _text(Path(path)).splitlines()
    rows = []
    for i, line in enumerate(lines, start=1):
        try:
            # NaN of another writer, and numbers that are too large for a float, are null.
            row = json.loads(line, parse_constant=lambda name: None, parse_float=_finite)
        except (ValueError, RecursionError):
            row = None
        if not forms.fault(row, ROW):
            rows.append(row)
        elif i < len(lines):
            raise UserError(
                f"{path}, line {i}: {line[:40]!r} is not a JSON object of numbers, as every line "
                "of a metrics file is. Restore the file from a copy, or remove the line."
            )
    return rows


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8", "replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


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
