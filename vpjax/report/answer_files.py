"""Predictions as they come, into a CSV file, JSON Lines, or a page.

CSV      path, label, class and probability of the best class, then of the second ...; milliseconds
JSONL    {"path": ..., "top": [{"label", "class", "probability"}, ...], "milliseconds": ...}
HTML     see `vpjax.report.answer_page`

A file is written beside its place, as `<name>.part`, and put there when it is whole; of predictions
that are interrupted the part stays.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from vpjax.core import escape
from vpjax.core.errors import UserError, unknown
from vpjax.core.table import safe_row
from vpjax.report.answer_page import AnswerPage
from vpjax.runs.predict import Answer, Tally
from vpjax.runs.split_files import BETWEEN

KINDS = ("csv", "jsonl", "html")
# Names of files may be any bytes, which Python keeps as surrogates.
FORM = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


class Writer(Protocol):
    """What answers are given to."""

    def add(self, answer: Answer) -> None: ...

    def close(self, tally: Tally) -> None: ...


class CsvWriter:
    """A line of CSV for each image.

    Args:
        file: to write to.
        top_k: classes of an image.
        several: whether an image may have several classes; then a column has all of them.
        labelled: whether folders or lists give a class; then a column has it.
    """

    def __init__(
        self, file: io.TextIOBase, top_k: int, several: bool = False, labelled: bool = False
    ):
        self._writer, self._top_k = csv.writer(file, lineterminator="\n"), top_k
        self._several, self._labelled, self._file = several, labelled, file
        columns = ["path", "label", "class", "probability"]
        for i in range(2, top_k + 1):
            columns += [f"label_{i}", f"class_{i}", f"probability_{i}"]
        columns += ["classes"] * several + ["true"] * labelled + ["milliseconds"]
        self._writer.writerow(columns)

    def add(self, answer: Answer) -> None:
        """Write a line."""
        row: list[Any] = [answer.path]
        for label, name, share in zip(answer.labels, answer.names, answer.shares, strict=True):
            row += [label, name, f"{share:.6f}"]
        row += [BETWEEN.join(answer.classes)] * self._several + [answer.true] * self._labelled
        self._writer.writerow(safe_row([*row, f"{answer.milliseconds:.2f}"]))

    def close(self, tally: Tally) -> None:
        """Pass on what is not written yet."""
        self._file.flush()


class JsonWriter:
    """A JSON object a line for each image.

    Args:
        file: to write to.
        several: whether an image may have several classes.
    """

    def __init__(self, file: io.TextIOBase, several: bool = False):
        self._file, self._several = file, several

    def add(self, answer: Answer) -> None:
        """Write a line."""
        best = zip(answer.labels, answer.names, answer.shares, strict=True)
        top = [{"label": k, "class": name, "probability": round(p, 6)} for k, name, p in best]
        content: dict[str, Any] = {"path": answer.path, "top": top}
        content |= {"classes": answer.classes} if self._several else {}
        content |= {"true": answer.true} if answer.true else {}
        content["milliseconds"] = round(answer.milliseconds, 2)
        self._file.write(json.dumps(content) + "\n")

    def close(self, tally: Tally) -> None:
        """Pass on what is not written yet."""
        self._file.flush()


class _Screen:
    """A terminal, whose lines hold nothing that would move it."""

    def __init__(self, stream: io.TextIOBase):
        self._stream, self.flush = stream, stream.flush

    def write(self, text: str) -> int:
        """Write a text."""
        return self._stream.write(escape.terminal(text))


class Outputs:
    """Writers into files, or to standard output.

    Args:
        paths: of the files, whose endings say what they hold; none: standard output.
        kind: of what goes to standard output.
        top_k: classes of an image.
        several: whether an image may have several classes.
        labelled: whether folders or lists give a class.
        facts: of the page: "title" and "about".
    """

    def __init__(
        self,
        paths: list[Path],
        kind: str,
        top_k: int,
        several: bool,
        labelled: bool,
        facts: Mapping[str, Any],
    ):
        self._files: list[tuple[io.TextIOBase, Path]] = []
        self._writers: list[Writer] = []
        known = {
            "csv": lambda file: CsvWriter(file, top_k, several, labelled),
            "jsonl": lambda file: JsonWriter(file, several),
            "html": lambda file: AnswerPage(file, **facts),
        }
        for path in paths:
            part = path.with_name(f"{path.name}.part")
            try:
                file = open(part, "w", **FORM)  # noqa: SIM115 - closed by `close`
            except OSError as e:
                raise UserError(f"{path} cannot be written: {e.strerror}.") from e
            self._files.append((file, path))
            self._writers.append(known[kind_of(path)](file))
        if not paths:
            if hasattr(sys.stdout, "reconfigure"):
                sys.stdout.reconfigure(errors="surrogateescape")
            out = _Screen(sys.stdout) if sys.stdout.isatty() else sys.stdout
            self._writers.append(known[kind](out))

    def add(self, answer: Answer) -> None:
        """Pass an answer to every writer."""
        for writer in self._writers:
            writer.add(answer)

    def close(self, tally: Tally) -> None:
        """Finish every file and put it in its place.

        Args:
            tally: of all answers.
        """
        for writer in self._writers:
            writer.close(tally)
        for file, path in self._files:
            file.close()
            os.replace(file.name, path)

    def leave(self) -> list[str]:
        """End early, and return the names of what was written so far."""
        for file, _ in self._files:
            file.close()
        return [file.name for file, _ in self._files]


def kind_of(path: Path) -> str:
    """Return what a file is to hold, by its ending.

    Raises:
        UserError: for another ending, or a folder that is not there.
    """
    kind = path.suffix.lower().removeprefix(".")
    kind = {"json": "jsonl", "ndjson": "jsonl", "htm": "html"}.get(kind, kind)
    if kind not in KINDS:
        raise unknown(f"kind of file {path.name}:", path.suffix, [f".{k}" for k in KINDS])
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.absolute().parent}. Create it first.")
    return kind
