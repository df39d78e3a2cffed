"""The command `report`: run folders as tables and one page.

    python main.py report --workdir DIR                   all runs in and below DIR
    python main.py report --workdir OUT --runs=DIR,DIR    the runs of several folders, into OUT
    python main.py report --workdir RUN                   one run's page, run.html and report.md

The folder of several runs gets

    report.md, report.html    the same, to read; the page needs no other file and no network
    report.csv, report_runs.csv, report.tex     tables for programs and papers
    report_*.png              the pictures
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from vpjax.core.errors import UserError
from vpjax.core.files import write_text
from vpjax.core.table import table, write_csv
from vpjax.core.under import own_file
from vpjax.report import csv_tables, run_sections, sections
from vpjax.report.html import page
from vpjax.report.latex import latex
from vpjax.report.markdown import markdown
from vpjax.report.plots.curves import draw_curves
from vpjax.report.run_folders import RUN_PAGE, Run, find, read
from vpjax.report.run_page import write_run_page
from vpjax.report.table_pictures import draw_table
from vpjax.report.tables import Table, split_off_trials, tables

log = logging.getLogger(__name__)


def report(
    folder: Path,
    folders: Sequence[Path] = (),
    group_by: Sequence[str] = (),
    quiet: bool = False,
) -> Path:
    """Write the report of runs to `folder`; return the path of its page.

    Args:
        folders: where the runs are; (): in `folder`.
        group_by: what makes a table or a row of its own; see `vpjax.report.tables.tables`.
        quiet: whether to log nothing but the page: a study has shown its own table.

    Raises:
        UserError: if there is no run, a name in `group_by` does not exist, or nothing can be
            written.
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
            if not quiet:
                _show(found, runs)
    except OSError as e:
        raise UserError(f"{folder} cannot be written ({e}). Give another --workdir.") from e
    path = folder / (RUN_PAGE if one else "report.html")
    if not quiet:
        log.info("table     %s", folder / "report.md")
    log.info("page      %s", path)
    return path


def _write_one(run: Run, folder: Path) -> None:
    if not (folder / "curves.png").exists() and own_file(folder, "metrics.jsonl"):
        try:
            draw_curves(folder)
        except UserError as error:
            log.warning("warning   curves.png is not drawn: %s", error)
        except ValueError:  # an unfinished run, with nothing to draw yet
            pass
    write_text(folder / "report.md", markdown(run_sections.run_blocks(run), folder))
    write_run_page(folder)


def _write_several(found: Sequence[Table], runs: Sequence[Run], folder: Path) -> None:
    trials = split_off_trials(runs)[1]
    for old in folder.glob("report_*.png"):
        old.unlink()
    drawn = {shown.title: draw_table(shown, folder, i) for i, shown in enumerate(found)}
    blocks = sections.report_blocks(found, runs, trials, drawn, folder)
    write_text(folder / "report.md", markdown(blocks, folder))
    write_text(folder / "report.html", page(sections.title(folder), blocks))
    write_csv(folder / "report.csv", csv_tables.number_rows(found), csv_tables.CELL_COLUMNS)
    write_csv(folder / "report_runs.csv", csv_tables.run_rows(runs), csv_tables.RUN_COLUMNS)
    write_text(folder / "report.tex", latex(found))


def _show(found: Sequence[Table], runs: Sequence[Run]) -> None:
    """Log the tables, and what to know before believing them."""
    for shown in found:
        grid = sections.summary(shown)
        log.info("\n%s\n\n%s\n", shown.title, table(grid.header, grid.rows, grid.align))
    for text in sections.warnings(found, runs, split_off_trials(runs)[1]):
        log.warning("warning   %s", text)
