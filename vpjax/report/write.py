"""The command `report`: run folders as tables and one page.

    python main.py report --workdir DIR                   all runs in and below DIR
    python main.py report --workdir OUT --runs=DIR,DIR    the runs of several folders, into OUT
    python main.py report --workdir RUN                   one run's page

The folder gets

    report.md, report.html    the same, to read; the page needs no other file and no network
    report.csv, report_runs.csv, report.tex     tables for programs and papers
    report_*.png              the pictures
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vpjax.core.errors import UserError
from vpjax.core.files import write_text
from vpjax.core.table import table, write_csv
from vpjax.report import csv_tables, sections
from vpjax.report.html import page
from vpjax.report.latex import latex
from vpjax.report.markdown import markdown
from vpjax.report.plots.curves import draw_curves
from vpjax.report.run_folders import Run, find, read
from vpjax.report.run_sections import run_blocks
from vpjax.report.table_pictures import draw_table
from vpjax.report.tables import Table, split_off_trials, tables

log = logging.getLogger(__name__)


def report(folder: Path, folders: Sequence[Path] = (), group_by: Sequence[str] = ()) -> Path:
    """Write the report of runs to `folder`; return the path of its page.

    Args:
        folders: where the runs are; (): in `folder`.
        group_by: what separates runs that cannot share a column; see `vpjax.report.tables.tables`.

    Raises:
        UserError: if there is no run, if runs that cannot be compared would share a column, or if
            nothing can be written.
    """
    one = None
    if not folders and (folder / "config.json").exists():
        one = read(folder, folder)
    runs = [] if one else find(folders or [folder], folder)
    found = tables(runs, group_by)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if one:
            _write_one(one, folder)
        else:
            _write_several(found, runs, folder)
    except OSError as e:
        raise UserError(f"{folder} cannot be written ({e}). Give another --workdir.") from e
    log.info("table     %s", folder / "report.md")
    log.info("page      %s", folder / "report.html")
    return folder / "report.html"


def _write_one(run: Run, folder: Path) -> None:
    if not (folder / "curves.png").exists() and (folder / "metrics.jsonl").exists():
        with contextlib.suppress(ValueError):  # an unfinished run, with nothing to draw yet
            draw_curves(folder)
    _write_blocks(folder, f"{run.label} on {run.config.data.name}", run_blocks(run))


def _write_several(found: Sequence[Table], runs: Sequence[Run], folder: Path) -> None:
    trials = split_off_trials(runs)[1]
    for old in folder.glob("report_*.png"):
        old.unlink()
    drawn = {shown.title: draw_table(shown, folder, i) for i, shown in enumerate(found)}
    _write_blocks(folder, "Results", sections.report_blocks(found, runs, trials, drawn))
    write_csv(folder / "report.csv", csv_tables.number_rows(found), csv_tables.CELL_COLUMNS)
    write_csv(folder / "report_runs.csv", csv_tables.run_rows(runs), csv_tables.RUN_COLUMNS)
    write_text(folder / "report.tex", latex(found))
    for shown in found:
        grid = sections.summary(shown)
        log.info("\n%s\n\n%s\n", shown.title, table(grid.header, grid.rows, grid.align))
    for text in sections.warnings(found, runs, trials):
        log.warning("warning   %s", text)


def _write_blocks(folder: Path, title: str, blocks: list[NamedTuple]) -> None:
    write_text(folder / "report.md", markdown(blocks, folder))
    write_text(folder / "report.html", page(title, blocks))
