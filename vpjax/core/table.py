"""Tables as text, aligned and valid Markdown, and as CSV files."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vpjax.core import escape
from vpjax.core.errors import UserError
from vpjax.core.files import atomic
from vpjax.core.reading import read_bytes


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "lr") -> str:
    """Return an aligned table that is also valid Markdown.

    Args:
        header: names of the columns.
        rows: of as many cells as the header.
        align: "l", "c" or "r" for each column; the last letter holds for all further ones.

    Raises:
        ValueError: if a row has not as many cells as the header, or `align` another letter.
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
    return escape.one_line(str(text)).replace("|", "\\|")


def safe_row(row: Iterable[Any]) -> list[Any]:
    """Return the cells of a row of CSV, safe for spreadsheets."""
    return [escape.cell(value) for value in row]


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and the rows, of a CSV file that vpjax wrote.

    Raises:
        UserError: if it is damaged.
    """
    advice = "Restore it from a copy."
    try:
        text = read_bytes(path).decode("utf-8", "surrogateescape")
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}. {advice}") from error
    if not lines or "\0" in text:
        fault = "it holds NUL" if lines else "it is empty"
        raise UserError(f"{path} is damaged: {fault}. {advice}")
    header, *rows = [[escape.plain(cell) for cell in line] for line in lines]
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(
                f"{path} is damaged: row {line} has {len(row)} cells, expected {len(header)}. "
                f"{advice}"
            )
    return header, rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows as CSV under a line of column names; what a row lacks stays empty.

    Args:
        path: the file.
        rows: {column: value}.
        columns: those that come first; further ones of the rows follow in order.
    """
    names = dict.fromkeys([*columns, *(key for row in rows for key in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: escape.cell(value) for key, value in row.items()} for row in rows)
    with atomic(path) as new:
        new.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, one at a time, so that millions need no memory; atomically.

    Args:
        path: the file.
        columns: names of the columns.
        rows: of as many values. Names of files that are no UTF-8 keep their bytes.
    """
    # Names of files may be any bytes, which Python keeps as surrogates.
    form = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with atomic(path) as new, open(new, "w", **form) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(safe_row, rows))


def spread(values: Sequence[float]) -> float | None:
    """Return the population standard deviation, as in the papers; None of fewer than two values."""
    return float(np.std(values)) if len(values) > 1 else None


def mean_std(mean: float | None, std: float | None = None, digits: int = 2) -> str:
    """Return "91.23 ± 0.45"; without a deviation only the mean, without a mean "-".

    Args:
        mean: None: not known.
        std: standard deviation; None: not known.
        digits: after the decimal point.
    """
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")
